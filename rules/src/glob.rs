//! Globs on paths: `*`, `?` and `[…]` stay within one component, `**` stands for any number of components.

use crate::diagnostics::Fault;

/// Longest glob in bytes: as long as a path can be on Linux (PATH_MAX).
const LONGEST: usize = 4096;

/// A glob, split at its slashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob {
    source: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// `**`
    AnyDepth,
    /// One component.
    Component(Vec<Token>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// `*`
    Run,
    /// `?`
    One,
    /// `[…]` or `[!…]`: inclusive ranges.
    Class {
        negated: bool,
        ranges: Vec<(Character, Character)>,
    },
    /// This character.
    Literal(Character),
}

/// A Unicode scalar value, or, above those, a byte of a path that is not UTF-8 there.
type Character = u32;

/// Whether `text` is a glob rather than a plain path or name.
pub(crate) fn is_glob(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

impl Glob {
    /// Reads a glob.
    pub(crate) fn parse(source: &str) -> Result<Self, Fault> {
        if source.len() > LONGEST {
            return Err(Fault::new(format!(
                "a glob of {} bytes is longer than any path",
                source.len()
            )));
        }
        let mut parts = source.split('/').map(part).collect::<Result<Vec<_>, _>>()?;
        if parts.last() == Some(&Part::AnyDepth) {
            // What is in a directory, at any depth, and not the directory.
            parts.push(Part::Component(vec![Token::Run]));
        }
        Ok(Self {
            source: source.to_owned(),
            parts,
        })
    }

    /// As written.
    pub(crate) fn as_str(&self) -> &str {
        &self.source
    }

    /// What everything that matches begins with.
    pub(crate) fn literal_start(&self) -> &str {
        let end = self.source.find(['*', '?', '[']);
        &self.source[..end.unwrap_or(self.source.len())]
    }

    /// Whether the whole of `path` matches.
    pub(crate) fn matches(&self, path: &[u8]) -> bool {
        self.matches_components(path, b'/')
    }

    /// Whether the whole of a name of a host matches, whose labels stand for components.
    pub(crate) fn matches_name(&self, name: &str) -> bool {
        self.matches_components(name.as_bytes(), b'.')
    }

    fn matches_components(&self, text: &[u8], separator: u8) -> bool {
        let components: Vec<&[u8]> = text.split(|&byte| byte == separator).collect();
        matches_greedily(
            &self.parts,
            &components,
            |part| *part == Part::AnyDepth,
            |part, component| match part {
                Part::AnyDepth => true,
                Part::Component(tokens) => matches_component(tokens, component),
            },
        )
    }
}

fn part(text: &str) -> Result<Part, Fault> {
    if text == "**" {
        return Ok(Part::AnyDepth);
    }
    if text.contains("**") {
        return Err(Fault::new(format!("`**` is only a part of {text:?}"))
            .hint("`**` stands alone between two slashes; within a component write `*`"));
    }
    let text = characters(text.as_bytes());
    let mut text = text.as_slice();
    let mut tokens = Vec::new();
    while let Some((&first, rest)) = text.split_first() {
        text = rest;
        tokens.push(match char::from_u32(first) {
            Some('*') => Token::Run,
            Some('?') => Token::One,
            Some('[') => {
                let (token, rest) = class(rest)?;
                text = rest;
                token
            }
            Some(_) | None => Token::Literal(first),
        });
    }
    Ok(Part::Component(tokens))
}

/// Reads a class behind its `[`. As in shells, a `]` that comes first is a member.
fn class(text: &[Character]) -> Result<(Token, &[Character]), Fault> {
    let (negated, text) = match text.strip_prefix(&['!' as Character]) {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let end = text.iter().skip(1).position(|&it| it == ']' as Character);
    let Some(end) = end.map(|found| found + 1) else {
        return Err(Fault::new("a `[` of the glob is never closed")
            .hint("close it with `]` before the next slash; a plain `[` is written [[]"));
    };
    let (mut members, rest) = (&text[..end], &text[end + 1..]);
    let mut ranges = Vec::new();
    loop {
        let (range, more) = match *members {
            [] => return Ok((Token::Class { negated, ranges }, rest)),
            [low, dash, high, ref more @ ..] if dash == '-' as Character => ((low, high), more),
            [one, ref more @ ..] => ((one, one), more),
        };
        if range.0 > range.1 {
            return Err(Fault::new("a range in the glob's [ ] is empty")
                .hint("the lower end comes first: [a-z]"));
        }
        ranges.push(range);
        members = more;
    }
}

fn matches_component(tokens: &[Token], component: &[u8]) -> bool {
    matches_greedily(
        tokens,
        &characters(component),
        |token| *token == Token::Run,
        |token, character| match token {
            Token::Run | Token::One => true,
            Token::Literal(own) => own == character,
            Token::Class { negated, ranges } => {
                let mut ranges = ranges.iter();
                ranges.any(|(low, high)| (low..=high).contains(&character)) != *negated
            }
        },
    )
}

fn characters(bytes: &[u8]) -> Vec<Character> {
    const FIRST_BYTE: Character = char::MAX as Character + 1;
    let chunks = bytes.utf8_chunks();
    chunks
        .flat_map(|chunk| {
            let invalid = chunk.invalid().iter();
            let invalid = invalid.map(|&byte| FIRST_BYTE + Character::from(byte));
            chunk.valid().chars().map(Character::from).chain(invalid)
        })
        .collect()
}

/// Matches all of `input`, going back only to the latest run: time is the product of both lengths at most.
fn matches_greedily<P, I>(
    pattern: &[P],
    input: &[I],
    is_run: impl Fn(&P) -> bool,
    matches_one: impl Fn(&P, &I) -> bool,
) -> bool {
    let (mut at, mut next, mut latest_run) = (0, 0, None);
    while let Some(item) = input.get(next) {
        match (pattern.get(at), latest_run) {
            (Some(part), _) if is_run(part) => {
                latest_run = Some((at, next));
                at += 1;
            }
            (Some(part), _) if matches_one(part, item) => {
                at += 1;
                next += 1;
            }
            (Some(_) | None, Some((run, taken))) => {
                latest_run = Some((run, taken + 1));
                at = run + 1;
                next = taken + 1;
            }
            (Some(_) | None, None) => return false,
        }
    }
    pattern[at..].iter().all(is_run)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(glob: &str, path: &str, expected: bool) {
        let matches = Glob::parse(glob).unwrap().matches(path.as_bytes());
        assert_eq!(matches, expected, "{glob} {path}");
    }

    #[test]
    fn matches_paths() {
        check("/opt/erp/**", "/opt/erp/bin/client", true);
        check("/opt/erp/**", "/opt/erp/x", true);
        check("/opt/erp/**", "/opt/erp", false);
        check("/opt/erp/**", "/opt/erpx/y", false);
        check("/opt/*/bin", "/opt/a/bin", true);
        check("/opt/*/bin", "/opt/a/b/bin", false);
        check("/opt/*", "/opt/a/b", false);
        check("/**/firefox", "/firefox", true);
        check("/**/firefox", "/usr/lib/x/firefox", true);
        check("/**/firefox", "/usr/lib/firefox/x", false);
        check("/a/**/b/**/c", "/a/x/b/b/y/z/c", true);
        check("python?.*", "python3.11", true);
        check("python?.*", "python", false);
        check("/usr/bin/[a-c]x", "/usr/bin/bx", true);
        check("/usr/bin/[!a-c]x", "/usr/bin/bx", false);
        check("/usr/bin/[]x]", "/usr/bin/]", true);
        check("/usr/bin/[[]", "/usr/bin/[", true);
        check("/usr/bin/[a-]", "/usr/bin/-", true);
        check("/b?cher/[ä-ü]", "/bücher/ö", true);
    }

    #[test]
    fn matches_bytes_that_are_no_text() {
        let glob = Glob::parse("/a/?*").unwrap();
        assert!(glob.matches(b"/a/\xff\xfe"));
        assert!(!Glob::parse("/a/??").unwrap().matches(b"/a/\xff"));
    }

    #[test]
    fn says_what_is_wrong() {
        let refused = |text: &str| Glob::parse(text).unwrap_err().to_string();
        assert!(refused("/a/b**").contains("only a part of \"b**\""));
        assert!(refused("/a/[b").contains("never closed"));
        assert!(refused("/a/[b/]").contains("never closed"));
        assert!(refused("/a/[z-a]").contains("lower end comes first"));
        assert!(refused(&"/a".repeat(3000)).contains("longer than any path"));
    }

    /// The same language by another engine.
    fn as_regex(glob: &str) -> regex::Regex {
        let mut pattern = String::from("^");
        let parts: Vec<&str> = glob.split('/').collect();
        for (index, part) in parts.iter().enumerate() {
            let is_last = index + 1 == parts.len();
            match (*part, is_last) {
                ("**", true) => pattern += ".+",
                ("**", false) => pattern += "(?:[^/]*/)*",
                (part, _) => {
                    for character in part.chars() {
                        match character {
                            '*' => pattern += "[^/]*",
                            '?' => pattern += "[^/]",
                            other => pattern += &regex::escape(&other.to_string()),
                        }
                    }
                    if !is_last {
                        pattern.push('/');
                    }
                }
            }
        }
        regex::Regex::new(&(pattern + "$")).unwrap()
    }

    proptest! {
        #[test]
        fn agrees_with_a_regular_expression(
            parts in prop::collection::vec("\\*\\*|(?:[ab?]\\*?){1,3}", 1..5),
            path in "(?:/[ab]{1,3}){1,5}",
        ) {
            let glob = format!("/{}", parts.join("/"));
            let expected = as_regex(&glob).is_match(&path);
            prop_assert_eq!(Glob::parse(&glob).unwrap().matches(path.as_bytes()), expected, "{} {}", glob, path);
        }

        #[test]
        fn never_panics(glob in ".{0,40}", path in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(glob) = Glob::parse(&glob) {
                let _ = glob.matches(&path);
            }
        }
    }
}
