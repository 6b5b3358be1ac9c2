//! Regular expressions of a file, bounded in size. They run in linear time, whatever a program names its binary.

use regex::bytes::{Regex, RegexBuilder};

use crate::diagnostics::Fault;

/// Bytes of a compiled expression, and of each thread's cache for it.
const LARGEST: usize = 256 * 1024;
/// Bytes of an expression as written.
const LONGEST: usize = 4096;
/// Nesting of groups.
const DEEPEST: u32 = 50;

/// An expression on names: ASCII, without case.
pub(crate) fn for_names(source: &str) -> Result<Regex, Fault> {
    build(source, true)
}

/// An expression on paths, which are bytes.
pub(crate) fn for_paths(source: &str) -> Result<Regex, Fault> {
    build(source, false)
}

/// Without Unicode classes, which multiply the size of what is compiled: `\w` and `.` are of bytes.
fn build(source: &str, ignores_case: bool) -> Result<Regex, Fault> {
    not_too_long(source)?;
    RegexBuilder::new(source)
        .case_insensitive(ignores_case)
        .unicode(false)
        .size_limit(LARGEST)
        .dfa_size_limit(LARGEST)
        .nest_limit(DEEPEST)
        .build()
        .map_err(fault)
}

fn not_too_long(source: &str) -> Result<(), Fault> {
    if source.is_empty() {
        return Err(Fault::new("an empty regular expression matches everything")
            .hint("everything is `any`"));
    }
    if source.len() <= LONGEST {
        return Ok(());
    }
    Err(Fault::new(format!(
        "a regular expression of {} bytes is too long",
        source.len()
    ))
    .hint(format!("at most {LONGEST} are taken; write several")))
}

/// The last line of a syntax error says what is wrong; those before it draw the expression, which the caret does here.
fn fault(error: regex::Error) -> Fault {
    if let regex::Error::CompiledTooBig(_) = error {
        return Fault::new("the regular expression is too big")
            .hint("counted repetitions such as x{1000} multiply; use fewer, or several rules");
    }
    let message = error.to_string();
    let reason = message.lines().next_back().unwrap_or_default();
    let reason = reason.strip_prefix("error: ").unwrap_or(reason);
    Fault::new(format!("the regular expression is wrong: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, expected: &str) {
        let names = for_names(source).unwrap_err().to_string();
        let paths = for_paths(source).unwrap_err().to_string();
        assert_eq!((names.as_str(), paths.as_str()), (expected, expected));
    }

    #[test]
    fn says_what_is_wrong() {
        check("a(b", "the regular expression is wrong: unclosed group");
        check(
            "(?:x{1000}){1000}",
            "the regular expression is too big; counted repetitions such as x{1000} multiply; use fewer, or several rules",
        );
        check(
            &"x".repeat(4097),
            "a regular expression of 4097 bytes is too long; at most 4096 are taken; write several",
        );
        check(
            "",
            "an empty regular expression matches everything; everything is `any`",
        );
        check(
            &"(".repeat(60),
            "the regular expression is wrong: unclosed group",
        );
    }
}
