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
    let shown: String = without_passwords(line)
        .into_iter()
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

/// The line as it can be told to others: it may go to a log. A password stands in a URL, `SCHEME://USER:PASSWORD@`.
fn without_passwords(line: &str) -> Vec<char> {
    let mut characters: Vec<char> = line.chars().collect();
    let mut from = 0;
    while let Some(start) = position(&characters, from, |rest| rest.starts_with(&[':', '/', '/'])) {
        from = start + 3;
        let end = position(&characters, from, |rest| {
            rest.first()
                .is_some_and(|it| it.is_whitespace() || "\"',}]".contains(*it))
        });
        let url = from..end.unwrap_or(characters.len());
        let Some(at) = characters[url.clone()].iter().rposition(|it| *it == '@') else {
            continue;
        };
        let credentials = &mut characters[from..from + at];
        let password = credentials.iter_mut().skip_while(|it| **it != ':').skip(1);
        password.for_each(|it| *it = '*');
    }
    characters
}

fn position(characters: &[char], from: usize, is_meant: impl Fn(&[char]) -> bool) -> Option<usize> {
    (from..characters.len()).find(|start| is_meant(&characters[*start..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_no_password_of_a_url() {
        let check = |line: &str, expected: &str| {
            let shown: String = without_passwords(line).into_iter().collect();
            assert_eq!(shown, expected);
        };
        check(
            "proxy: \"http://alice:a@b@p:1\" # x@y:z",
            "proxy: \"http://alice:***@p:1\" # x@y:z",
        );
        check(
            "{proxy: socks5://a:b@p, to: c:d@e}",
            "{proxy: socks5://a:*@p, to: c:d@e}",
        );
        check("proxy: http://alice@p:1", "proxy: http://alice@p:1");
        check(
            "to: [\"a:b@c\", 2001:db8::1]",
            "to: [\"a:b@c\", 2001:db8::1]",
        );
        check("x://", "x://");
    }
}
