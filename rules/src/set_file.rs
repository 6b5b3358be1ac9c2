//! Sets that are read from files: plain lines, or any JSON document.

use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;

use smol_str::SmolStr;

use crate::address;
use crate::diagnostics::{Fault, Place};
use crate::findings::Findings;
use crate::published_entry::PublishedEntry;
use crate::sets::{Files, LARGEST_FILE};
use crate::unusual_range::unusual;
use crate::written::At;
use crate::written_pattern::WrittenPattern;

/// Reads the file of a set. `None`: it was wrong, and noted.
pub(crate) fn read(
    file: &At<SmolStr>,
    files: &mut dyn Files,
    findings: &mut Findings,
) -> Option<Vec<At<WrittenPattern>>> {
    let path = beside(findings.file(file.place.file), &file.value);
    let text = match files.read(&path, LARGEST_FILE) {
        Ok(text) if text.len() <= LARGEST_FILE => text,
        Ok(_) => {
            let fault = Fault::new(format!("{} is too large for a set", path.display()));
            findings.error(
                file.place,
                fault.hint(format!("at most {LARGEST_FILE} bytes are read")),
            );
            return None;
        }
        Err(why) => {
            let fault = Fault::new(format!("{} cannot be read: {why}", path.display()));
            let hint = "a path is absolute, or begins where the rule file is";
            findings.error(file.place, fault.hint(hint));
            return None;
        }
    };
    let source = findings.add_source(&path, &text);
    let is_json = text
        .trim_start_matches('\u{feff}')
        .trim_start()
        .starts_with(['{', '[']);
    let entries = match is_json {
        false => lines(&text, source),
        true => match json(&text, source, findings) {
            Ok(entries) => entries,
            Err((place, fault)) => {
                findings.error(place, fault);
                return None;
            }
        },
    };
    if entries.is_empty() {
        // A vendor that changes its format must not change what the rules say while nobody looks.
        let fault = Fault::new(format!("there is no entry in {}", path.display()));
        let hint = "a set that is to be empty is written as `[]`";
        findings.error(file.place, fault.hint(hint));
        return None;
    }
    warn_of_unusual(&entries, findings);
    Some(entries)
}

fn warn_of_unusual(entries: &[At<WrittenPattern>], findings: &mut Findings) {
    for At { place, value } in entries {
        let WrittenPattern::Text(text) = value else {
            continue;
        };
        if let Some(Ok(range)) = address::parse(text)
            && let Some(what) = unusual(range)
        {
            let fault = Fault::new(format!("{text} {what}, and is an entry of the set"));
            let hint = "if it is not meant as one, write what is meant into a set of your own";
            findings.warning(*place, fault.hint(hint));
        }
    }
}

/// The path of a file that a rule file names.
pub(crate) fn beside(rules: &Path, file: &str) -> PathBuf {
    // Joining an absolute path gives that path.
    rules.parent().unwrap_or(Path::new("")).join(file)
}

/// One entry a line; a `#` in front, or behind a blank, begins a comment.
fn lines(text: &str, source: u16) -> Vec<At<WrittenPattern>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = (1u32..).zip(text.lines());
    lines
        .filter_map(|(line, text)| {
            let is_comment =
                |(at, _): &(usize, &str)| *at == 0 || text[..*at].ends_with(char::is_whitespace);
            let comment = text.match_indices('#').find(is_comment);
            let text = &text[..comment.map_or(text.len(), |(at, _)| at)];
            let entry = text.trim();
            let indent = text.len() - text.trim_start().len();
            let place = Place {
                file: source,
                line,
                column: count(&text[..indent]) + 1,
                length: count(entry),
            };
            let value = WrittenPattern::Text(entry.into());
            (!entry.is_empty()).then_some(At { place, value })
        })
        .collect()
}

/// Every text in the document, keys too, that is an address, a network, a range, a name with a dot or a `*.wildcard`.
fn json(
    text: &str,
    source: u16,
    findings: &mut Findings,
) -> Result<Vec<At<WrittenPattern>>, (Place, Fault)> {
    let body = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Err(error) = serde_json::from_str::<IgnoredAny>(body) {
        let at = |number: usize| u32::try_from(number).unwrap_or(u32::MAX).max(1);
        let place = Place {
            file: source,
            line: at(error.line()),
            column: at(error.column()),
            length: 1,
        };
        let message = error.to_string();
        let reason = message.split(" at line ").next().unwrap_or_default();
        let fault = Fault::new(format!("this is not JSON: {reason}"));
        let hint = "a file that begins with `{` or `[` is read as JSON, any other as lines";
        return Err((place, fault.hint(hint)));
    }
    let mut entries = Vec::new();
    let (mut line, mut line_start, mut at) = (1, 0, 0);
    // In a valid document a quotation mark outside a text begins one.
    while let Some(found) = body[at..].find(['"', '\n']) {
        let start = at + found;
        at = start + 1;
        if body.as_bytes()[start] == b'\n' {
            (line, line_start) = (line + 1, at);
            continue;
        }
        let end = at + end_of_text(&body.as_bytes()[at..]);
        let quoted = &body[start..=end];
        at = end + 1;
        let Ok(value) = serde_json::from_str::<String>(quoted) else {
            continue;
        };
        let place = Place {
            file: source,
            line,
            column: count(&body[line_start..start]) + 2,
            length: count(quoted).saturating_sub(2),
        };
        let text = value.trim();
        match PublishedEntry::of(text) {
            PublishedEntry::Other => {}
            PublishedEntry::LeftOut(fault) => findings.warning(place, fault),
            PublishedEntry::Host => {
                let value = WrittenPattern::Text(text.into());
                entries.push(At { place, value });
            }
        }
    }
    Ok(entries)
}

/// How far the closing quotation mark is.
fn end_of_text(rest: &[u8]) -> usize {
    let mut escaped = false;
    let is_end = |&byte: &u8| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    };
    rest.iter()
        .position(is_end)
        .unwrap_or(rest.len().saturating_sub(1))
}

fn count(text: &str) -> u32 {
    u32::try_from(text.chars().count()).unwrap_or(u32::MAX)
}
