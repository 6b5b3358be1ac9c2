//! A line of a file as a terminal can show it, with a caret below.

use unicode_width::UnicodeWidthChar;

/// A longer source line is shown as the part of it around the caret.
const WIDEST_EXCERPT: usize = 160;

/// The part of `line` to show, where in it `column` (from 1) is, and how wide `length` characters are there, in cells.
/// Characters that could move a terminal's
/// cursor, or have no width there, are replaced so that the caret stands where it should.
pub(crate) fn excerpt(line: &str, column: usize, length: usize) -> (String, usize, usize) {
    let before = column.saturating_sub(1);
    let skipped = before.saturating_sub(WIDEST_EXCERPT / 2);
    let shown: String = line
        .chars()
        .skip(skipped)
        .take(WIDEST_EXCERPT)
        .map(|character| match character {
            '\t' => ' ',
            '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' => '\u{fffd}',
            other if other.width().is_none_or(|cells| cells == 0) => '\u{fffd}',
            other => other,
        })
        .collect();
    let shown = shown.trim_end();
    let cells = |from: usize, count: usize| -> usize {
        let part = shown.chars().skip(from).take(count);
        part.filter_map(UnicodeWidthChar::width).sum()
    };
    let at = before - skipped;
    // An indented place may be behind what is there.
    let caret = cells(0, at) + at.saturating_sub(shown.chars().count());
    let width = cells(at, length).max(1);
    (shown.to_owned(), caret, width)
}
