//! A line of a file as a terminal can show it, with a caret below.

use unicode_width::UnicodeWidthChar;

/// A longer source line is shown as the part of it around the caret.
const WIDEST_EXCERPT: usize = 160;

/// A line in which places are looked up from left to right: it can be a whole file, with many of them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Line<'a> {
    text: &'a str,
    /// The last place, in characters and in bytes.
    characters: usize,
    bytes: usize,
}

impl<'a> Line<'a> {
    /// At its beginning.
    pub(crate) fn new(text: &'a str) -> Self {
        Self {
            text,
            ..Self::default()
        }
    }

    /// The part to show around `column` (from 1), where in it that is, and how wide `length` characters are there, in cells.
    /// Characters that could move a terminal's
    /// cursor, or have no width there, are replaced so that the caret stands where it should.
    pub(crate) fn excerpt(&mut self, column: usize, length: usize) -> (String, usize, usize) {
        let before = column.saturating_sub(1);
        let skipped = before.saturating_sub(WIDEST_EXCERPT / 2);
        let (words, more) = self.words_around(before, skipped);
        let shown = without_passwords(words).into_iter().skip(more);
        excerpt(shown, before - skipped, length)
    }

    /// The words of which the characters behind the first `skipped` are, and how many characters of theirs are none of these.
    fn words_around(&mut self, before: usize, skipped: usize) -> (&'a str, usize) {
        self.go_to(before);
        let (left, right) = self.text.split_at(self.bytes);
        let shown = self.characters.saturating_sub(skipped);
        let start = left
            .char_indices()
            .rev()
            .take(shown)
            .last()
            .map_or(left.len(), |(at, _)| at);
        let word = left[..start].rfind(ends_a_word).map_or(0, |at| {
            at + left[at..].chars().next().map_or(0, char::len_utf8)
        });
        let shown = right.char_indices().nth(WIDEST_EXCERPT);
        let shown = shown.map_or(right.len(), |(at, _)| at);
        let end = right[shown..].find(ends_a_word);
        let end = end.map_or(right.len(), |at| shown + at);
        let words = &self.text[word..self.bytes + end];
        (words, left[word..start].chars().count())
    }

    fn go_to(&mut self, characters: usize) {
        if characters < self.characters {
            *self = Self::new(self.text);
        }
        let right = self.text[self.bytes..].char_indices();
        let more = characters - self.characters;
        match right.clone().nth(more) {
            Some((at, _)) => {
                self.bytes += at;
                self.characters = characters;
            }
            None => {
                self.characters += right.count();
                self.bytes = self.text.len();
            }
        }
    }
}

fn excerpt(
    characters: impl Iterator<Item = char>,
    at: usize,
    length: usize,
) -> (String, usize, usize) {
    let shown: String = characters
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
            rest.first().copied().is_some_and(ends_a_word)
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

/// What is in no URL, as far as it is written here.
fn ends_a_word(character: char) -> bool {
    character.is_whitespace() || "\"',}]".contains(character)
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

    #[test]
    fn shows_no_password_of_a_url_that_is_cut() {
        let before = "[x, ".repeat(1000);
        let long = "p".repeat(500);
        let line = format!("{before}\"http://alice:{long}@proxy.example:8080\", z]");
        let whole: String = without_passwords(&line).into_iter().collect();
        assert!(
            whole.contains("alice:***") && whole.contains("*@proxy"),
            "{whole}"
        );
        let whole: Vec<char> = whole.chars().collect();
        let mut looked_up = Line::new(&line);
        for column in (1..=whole.len() + 200).step_by(7) {
            let start = column.saturating_sub(1 + WIDEST_EXCERPT / 2);
            let expected: String = whole.iter().skip(start).take(WIDEST_EXCERPT).collect();
            let (shown, ..) = looked_up.excerpt(column, 1);
            assert_eq!(shown, expected.trim_end(), "{column}");
        }
    }
}
