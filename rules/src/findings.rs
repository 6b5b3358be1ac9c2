//! What is found in rule files and in those that they name, until it is told.

use std::path::{Path, PathBuf};

use crate::diagnostics::{Diagnostic, Diagnostics, Fault, Place, Severity, number};
use crate::excerpt::Line;
use crate::suggestion;

/// More findings than this say nothing new to a person and are only counted.
const MOST_SHOWN: usize = 100;

/// More findings than this are not even put into words.
const MOST_KEPT: usize = 2_000;

/// Words with which slips are compared, over all slips: about 8 ms.
const MOST_COMPARED: usize = 4_000;

/// Collects the findings of rule files and of the files that they name.
#[derive(Debug)]
pub(crate) struct Findings {
    sources: Vec<(PathBuf, String)>,
    errors: Found,
    warnings: Found,
    /// With how many words slips may still be compared.
    suggestions: usize,
}

#[derive(Debug, Default)]
struct Found {
    kept: Vec<(Severity, Place, Fault)>,
    more: usize,
}

impl Found {
    fn is_full(&self) -> bool {
        self.kept.len() >= MOST_KEPT
    }

    fn add(&mut self, severity: Severity, place: Place, fault: Fault) {
        if self.is_full() {
            self.more += 1;
        } else {
            self.kept.push((severity, place, fault));
        }
    }
}

impl Findings {
    /// Nothing read yet.
    pub(crate) fn new() -> Self {
        Self {
            sources: Vec::new(),
            errors: Found::default(),
            warnings: Found::default(),
            suggestions: MOST_COMPARED,
        }
    }

    /// The file of this number.
    pub(crate) fn file(&self, number: u16) -> &Path {
        let source = self.sources.get(usize::from(number));
        source.map_or(Path::new(""), |(path, _)| path)
    }

    /// All files so far.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        self.sources.iter().map(|(path, _)| path.clone()).collect()
    }

    /// `FILE:LINE`.
    pub(crate) fn at(&self, place: Place) -> String {
        format!("{}:{}", self.file(place.file).display(), place.line)
    }

    /// `line LINE` in the file that is spoken of, else `FILE:LINE`.
    pub(crate) fn seen_from(&self, here: Place, place: Place) -> String {
        if here.file == place.file {
            format!("line {}", place.line)
        } else {
            self.at(place)
        }
    }

    /// Adds a file in which something can be found; gives its number.
    pub(crate) fn add_source(&mut self, path: &Path, text: &str) -> u16 {
        self.sources.push((path.to_path_buf(), text.to_owned()));
        u16::try_from(self.sources.len() - 1).unwrap_or(u16::MAX)
    }

    /// How many errors were noted.
    pub(crate) fn errors(&self) -> usize {
        self.errors.kept.len() + self.errors.more
    }

    /// Notes an error.
    pub(crate) fn error(&mut self, place: Place, fault: Fault) {
        self.errors.add(Severity::Error, place, fault);
    }

    /// Notes an error which may come in such numbers that it is only counted, and then not put into words.
    pub(crate) fn error_of(&mut self, place: Place, fault: impl FnOnce(&mut Self) -> Fault) {
        if self.errors.is_full() {
            self.errors.more += 1;
        } else {
            let fault = fault(self);
            self.error(place, fault);
        }
    }

    /// As `error_of`, a warning.
    pub(crate) fn warning_of(&mut self, place: Place, fault: impl FnOnce(&mut Self) -> Fault) {
        if self.warnings.is_full() {
            self.warnings.more += 1;
        } else {
            let fault = fault(self);
            self.warning(place, fault);
        }
    }

    /// As `error_of`, what is good to know.
    pub(crate) fn note_of(&mut self, place: Place, fault: impl FnOnce(&mut Self) -> Fault) {
        if self.warnings.is_full() {
            self.warnings.more += 1;
        } else {
            let fault = fault(self);
            self.note(place, fault);
        }
    }

    /// Notes a warning.
    pub(crate) fn warning(&mut self, place: Place, fault: Fault) {
        self.warnings.add(Severity::Warning, place, fault);
    }

    /// Notes what is good to know.
    pub(crate) fn note(&mut self, place: Place, fault: Fault) {
        self.warnings.add(Severity::Note, place, fault);
    }

    /// The one of these words, of the language or of the file, that `written` may be a slip of. They can be very many, and nobody reads more suggestions
    /// than findings are shown.
    pub(crate) fn suggest<'a>(
        &mut self,
        written: &str,
        known: impl IntoIterator<Item = &'a str>,
    ) -> Option<&'a str> {
        let mut compared = 0;
        let known = known.into_iter().take(self.suggestions);
        let meant = suggestion::nearest(written, known.inspect(|_| compared += 1));
        self.suggestions = self.suggestions.saturating_sub(compared);
        meant
    }

    /// Whether an error was noted.
    pub(crate) fn failed(&self) -> bool {
        !self.errors.kept.is_empty()
    }

    /// The errors with their source lines, and for programs the warnings.
    pub(crate) fn into_errors(self) -> Diagnostics {
        let warnings = render(self.warnings, &self.sources);
        Diagnostics {
            beside: warnings.found,
            more_beside: warnings.more,
            ..render(self.errors, &self.sources)
        }
    }

    /// The warnings and notes with their source lines.
    pub(crate) fn into_warnings(self) -> Diagnostics {
        render(self.warnings, &self.sources)
    }
}

fn render(mut found: Found, sources: &[(PathBuf, String)]) -> Diagnostics {
    let findings = &mut found.kept;
    findings.sort_by_key(|(_, place, _)| (place.file, place.line, place.column));
    // An entry of a set that several rules name is wrong once.
    findings.dedup();
    let more = found.more + findings.len().saturating_sub(MOST_SHOWN);
    findings.truncate(MOST_SHOWN);
    let mut all = Vec::with_capacity(findings.len());
    for (number, (file, text)) in (0u16..).zip(sources) {
        let here = findings.iter().filter(|(_, place, _)| place.file == number);
        all.extend(render_one(here, file, text));
    }
    Diagnostics {
        found: all,
        more,
        beside: Vec::new(),
        more_beside: 0,
    }
}

fn render_one<'a>(
    found: impl Iterator<Item = &'a (Severity, Place, Fault)>,
    file: &Path,
    text: &str,
) -> Vec<Diagnostic> {
    // The line breaks of YAML 1.2, section 5.4.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = text.replace("\r\n", "\n");
    let mut lines = text.split(['\n', '\r']);
    let mut current = (0, Line::default());
    found
        .map(|(severity, place, fault)| {
            while current.0 < place.line {
                current = (current.0 + 1, Line::new(lines.next().unwrap_or_default()));
            }
            let (excerpt, caret, width) = current
                .1
                .excerpt(number(place.column), number(place.length));
            Diagnostic {
                severity: *severity,
                file: file.to_path_buf(),
                place: *place,
                fault: fault.clone(),
                excerpt,
                caret,
                width,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, place: (u32, u32, u32), expected: &str) {
        let mut findings = Findings::new();
        findings.add_source(Path::new("f.yaml"), text);
        let (line, column, length) = place;
        findings.error(
            Place {
                file: 0,
                line,
                column,
                length,
            },
            Fault::new("no").hint("yes"),
        );
        let rendered = findings.into_errors().to_string();
        assert_eq!(rendered, expected);
    }

    #[test]
    fn points_at_the_place() {
        check(
            "a\nbb cc\n",
            (2, 4, 2),
            "error: no\n --> f.yaml:2:4\n  |\n2 | bb cc\n  |    ^^\n  = hint: yes",
        );
    }

    #[test]
    fn counts_lines_as_yaml_does() {
        check(
            "\u{feff}a\r\nb\rcc\n",
            (3, 2, 1),
            "error: no\n --> f.yaml:3:2\n  |\n3 | cc\n  |  ^\n  = hint: yes",
        );
    }

    #[test]
    fn points_past_the_end_of_an_empty_file() {
        check(
            "",
            (1, 1, 0),
            "error: no\n --> f.yaml:1:1\n  |\n1 | \n  | ^\n  = hint: yes",
        );
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        check(
            "\ta\u{1b}[31m\u{202e}x",
            (1, 2, 1),
            "error: no\n --> f.yaml:1:2\n  |\n1 |  a\u{fffd}[31m\u{fffd}x\n  |  ^\n  = hint: yes",
        );
    }

    #[test]
    fn wide_characters_take_two_cells() {
        check(
            "東京: 大阪x\n",
            (1, 5, 3),
            "error: no\n --> f.yaml:1:5\n  |\n1 | 東京: 大阪x\n  |       ^^^^^\n  = hint: yes",
        );
        check(
            "a\u{200b}b\u{301}c\n",
            (1, 5, 1),
            "error: no\n --> f.yaml:1:5\n  |\n1 | a\u{fffd}b\u{fffd}c\n  |     ^\n  = hint: yes",
        );
    }

    #[test]
    fn a_long_line_is_cut_around_the_caret() {
        let text = format!("{}X{}", "a".repeat(1000), "b".repeat(1000));
        let shown = format!("{}X{}", "a".repeat(80), "b".repeat(79));
        let expected = format!(
            "error: no\n --> f.yaml:1:1001\n  |\n1 | {shown}\n  | {}^\n  = hint: yes",
            " ".repeat(80)
        );
        check(&text, (1, 1001, 1), &expected);
    }

    #[test]
    fn many_findings_are_counted() {
        let mut findings = Findings::new();
        findings.add_source(Path::new("f"), "x\n");
        for line in 1..=120 {
            findings.warning(
                Place {
                    file: 0,
                    line,
                    column: 1,
                    length: 1,
                },
                Fault::new("w"),
            );
        }
        let warnings = findings.into_warnings();
        assert_eq!(warnings.iter().count(), 100);
        assert_eq!(warnings.more(), 20);
        assert!(warnings.to_string().ends_with("\n\nand 20 more"));
    }

    #[test]
    fn programs_hear_of_warnings_beside_errors() {
        let place = |line| Place {
            file: 0,
            line,
            column: 1,
            length: 1,
        };
        let mut findings = Findings::new();
        findings.add_source(Path::new("f"), "x\ny\n");
        findings.warning(place(1), Fault::new("w"));
        findings.error(place(2), Fault::new("e"));
        let errors = findings.into_errors();
        assert!(!errors.to_string().contains("warning"), "{errors}");
        let list = serde_json::to_value(&errors).unwrap();
        let severities = [&list[0]["severity"], &list[1]["severity"]];
        assert_eq!(severities, ["error", "warning"]);
    }
}
