//! Patterns with `*` and `?` (ssh_config(5), PATTERNS).

/// Does the whole text fit? `*` stands for any characters, `?` for one; letters of either case are the
/// same.
pub(crate) fn fits(pattern: &str, text: &str) -> bool {
    fits_by(pattern, text, |one, other| one.eq_ignore_ascii_case(&other))
}

/// The same, and letters of either case are different ones.
pub(crate) fn fits_exactly(pattern: &str, text: &str) -> bool {
    fits_by(pattern, text, |one, other| one == other)
}

fn fits_by(pattern: &str, text: &str, same: impl Fn(u8, u8) -> bool) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to go on when it does not fit: behind the last star, with one more byte for that star.
    let mut again = None;
    while let Some(byte) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                again = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some(expected) if *expected == b'?' || same(*expected, *byte) => {
                (p, t) = (p + 1, t + 1);
                continue;
            }
            _ => {}
        }
        let Some((behind, from)) = again else {
            return false;
        };
        again = Some((behind, from + 1));
        (p, t) = (behind, from + 1);
    }
    pattern
        .get(p..)
        .is_some_and(|rest| rest.iter().all(|byte| *byte == b'*'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the two characters mean, word for word.
    fn model(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|n| model(rest, &text[n..])),
            Some((first, rest)) => match text.split_first() {
                Some((byte, text)) => {
                    (*first == b'?' || first.eq_ignore_ascii_case(byte)) && model(rest, text)
                }
                None => false,
            },
        }
    }

    proptest! {
        #[test]
        fn fits_as_the_model_says(pattern in "[aB*?]{0,8}", text in "[abB]{0,8}") {
            prop_assert_eq!(fits(&pattern, &text), model(pattern.as_bytes(), text.as_bytes()));
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        assert!(!fits(&"*a".repeat(500), &"a".repeat(499)));
    }
}
