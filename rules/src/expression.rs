//! Regular expressions of a file, bounded in size. They run in linear time, whatever a program names its binary.

use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, Hir, HirKind};

use crate::diagnostics::Fault;
use crate::name::{LONGEST_NAME, is_of_a_name};

/// Bytes of a compiled expression, and of each thread's cache for it.
const LARGEST: usize = 256 * 1024;
/// Bytes of an expression as written.
const LONGEST: usize = 4096;
/// Nesting of groups.
const DEEPEST: u32 = 50;

/// An expression on names: ASCII, without case. One that is found in no name is wrong.
pub(crate) fn for_names(source: &str) -> Result<Regex, Fault> {
    let regex = build(source, true)?;
    if may_be_in_a_name(source) {
        return Ok(regex);
    }
    Err(
        Fault::new("no name of a host has what this expression asks for").hint(format!(
            "names are letters, digits, - and _ between dots, {LONGEST_NAME} in all: no scheme, port or path"
        )),
    )
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

/// Whether some text of what names are made of could match. Not all such texts are names, so this is sometimes a wrong yes.
fn may_be_in_a_name(source: &str) -> bool {
    let parser = ParserBuilder::new()
        .case_insensitive(true)
        .unicode(false)
        .utf8(false)
        .nest_limit(DEEPEST)
        .build()
        .parse(source);
    parser.is_ok_and(|hir| {
        let shortest = hir.properties().minimum_len();
        shortest.is_some_and(|length| length <= LONGEST_NAME) && is_possible(&hir)
    })
}

fn is_possible(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => true,
        HirKind::Literal(literal) => literal.0.iter().copied().all(is_of_a_name),
        HirKind::Class(class) => (0..=u8::MAX)
            .filter(|byte| is_of_a_name(*byte))
            .any(|byte| has(class, byte)),
        HirKind::Repetition(repetition) => repetition.min == 0 || is_possible(&repetition.sub),
        HirKind::Capture(capture) => is_possible(&capture.sub),
        HirKind::Concat(parts) => parts.iter().all(is_possible),
        HirKind::Alternation(parts) => parts.iter().any(is_possible),
    }
}

fn has(class: &Class, byte: u8) -> bool {
    match class {
        Class::Bytes(class) => {
            let mut ranges = class.ranges().iter();
            ranges.any(|range| (range.start()..=range.end()).contains(&byte))
        }
        Class::Unicode(class) => {
            let mut ranges = class.ranges().iter();
            ranges.any(|range| (range.start()..=range.end()).contains(&char::from(byte)))
        }
    }
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
    fn what_no_name_has_is_wrong() {
        for (source, expected) in [
            ("^erp[0-9]+\\.corp$", true),
            ("ERP", true),
            ("(?u)é|erp", true),
            ("^(https://)?erp", true),
            ("[^a-z0-9._-]*erp", true),
            (".", true),
            ("^.{253}$", true),
            ("^$", true),
            ("^https://erp", false),
            ("erp corp", false),
            ("erp(:443|/)", false),
            ("[^a-z0-9._-]", false),
            ("(?u)é", false),
            ("^.{254}", false),
            ("[a&&b]", false),
        ] {
            assert_eq!(for_names(source).is_ok(), expected, "{source}");
            assert!(for_paths(source).is_ok(), "{source}");
        }
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
