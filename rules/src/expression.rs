//! Regular expressions of a file, bounded in size. They run in linear time, whatever a program names its binary.

use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, Hir, HirKind};

use crate::diagnostics::Fault;
use crate::name::{LONGEST_NAME, is_of_a_name};

/// Bytes of a compiled expression, and of each thread's cache for it: the first of these that it fits into, ...
const SIZES: [usize; 3] = [16 * 1024, 64 * 1024, 256 * 1024];
/// ... and of all of a policy together, which compile in about 100 ms.
const LARGEST_SUM: usize = 16 * 1024 * 1024;
/// Expressions of a policy.
const MOST: usize = 1000;
/// Wrong ones after which no more are compiled: those that are too big take longest.
const MOST_WRONG: usize = 20;
/// Bytes of an expression as written.
const LONGEST: usize = 4096;
/// Nesting of groups.
const DEEPEST: u32 = 50;

/// Compiles expressions, as many and as large as those of one policy may be together.
#[derive(Debug, Default)]
pub(crate) struct Expressions {
    count: usize,
    wrong: usize,
    bytes: usize,
}

impl Expressions {
    /// An expression on names: ASCII, without case. One that is found in no name is wrong.
    pub(crate) fn for_names(&mut self, source: &str) -> Result<Regex, Fault> {
        let regex = self.build(source, true)?;
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
    pub(crate) fn for_paths(&mut self, source: &str) -> Result<Regex, Fault> {
        self.build(source, false)
    }

    fn build(&mut self, source: &str, ignores_case: bool) -> Result<Regex, Fault> {
        self.count += 1;
        let cheaper = "a glob or `*.wildcard` costs less";
        if self.count > MOST {
            let fault = Fault::new(format!("a file has at most {MOST} regular expressions"));
            return Err(fault.hint(cheaper));
        }
        if self.wrong >= MOST_WRONG {
            return Err(Fault::new(format!(
                "not looked at, as {MOST_WRONG} expressions are wrong already"
            )));
        }
        let (regex, bytes) = compile(source, ignores_case).inspect_err(|_| self.wrong += 1)?;
        self.bytes += bytes;
        if self.bytes > LARGEST_SUM {
            self.wrong = MOST_WRONG;
            let fault = Fault::new("the regular expressions are too big together");
            return Err(fault.hint(cheaper));
        }
        Ok(regex)
    }
}

/// Also gives the size into which it fits. Without Unicode classes, which multiply that: `\w` and `.` are of bytes.
fn compile(source: &str, ignores_case: bool) -> Result<(Regex, usize), Fault> {
    not_too_long(source)?;
    let mut found = Err(Fault::new("the regular expression is too big"));
    for bytes in SIZES {
        let regex = RegexBuilder::new(source)
            .case_insensitive(ignores_case)
            .unicode(false)
            .size_limit(bytes)
            .dfa_size_limit(bytes)
            .nest_limit(DEEPEST)
            .build();
        let is_too_big = matches!(regex, Err(regex::Error::CompiledTooBig(_)));
        found = regex.map(|regex| (regex, bytes)).map_err(fault);
        if !is_too_big {
            break;
        }
    }
    found
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
        let mut all = Expressions::default();
        let names = all.for_names(source).unwrap_err().to_string();
        let paths = all.for_paths(source).unwrap_err().to_string();
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
            let mut all = Expressions::default();
            assert_eq!(all.for_names(source).is_ok(), expected, "{source}");
            assert!(all.for_paths(source).is_ok(), "{source}");
        }
    }

    #[test]
    fn no_more_are_compiled_than_a_file_may_have() {
        let mut all = Expressions::default();
        let said = |result: Result<Regex, Fault>| result.unwrap_err().message;
        for _ in 0..MOST_WRONG {
            let message = said(all.for_paths("x{99999}"));
            assert_eq!(message, "the regular expression is too big");
        }
        assert_eq!(
            said(all.for_names("a")),
            "not looked at, as 20 expressions are wrong already"
        );
        let mut all = Expressions::default();
        let compiled = (0..MOST).take_while(|_| all.for_paths(r"(?u)\w{4}").is_ok());
        assert!((64..256).contains(&compiled.count()));
        let mut all = Expressions::default();
        assert!((0..MOST).all(|_| all.for_paths("^/srv/[a-z]+/run$").is_ok()));
        assert!(all.for_paths("a").is_err());
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
