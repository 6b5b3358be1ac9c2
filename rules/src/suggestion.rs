//! "Did you mean …?"

/// Longer words are not compared.
const LONGEST: usize = 64;
/// Words that one is compared with.
const MOST_COMPARED: usize = 1000;

/// The one of `known` that `written` is most likely a slip of, if any is near enough: a third of it at most is wrong.
pub(crate) fn nearest<'a>(
    written: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let length = written.chars().count();
    if length > LONGEST {
        return None;
    }
    let lower = written.to_lowercase();
    let most_wrong = |word: &str| length.max(word.chars().count()) / 3;
    known
        .into_iter()
        .take(MOST_COMPARED)
        // Each character more or less is one that is wrong.
        .filter(|word| word.chars().count().abs_diff(length) <= most_wrong(word))
        .map(|word| (distance(&lower, &word.to_lowercase()), word))
        .filter(|(distance, word)| *distance <= most_wrong(word))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// How many characters to insert, drop, change or swap with their neighbour (optimal string alignment).
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().take(LONGEST).collect();
    let mut before = Vec::new();
    let mut previous: Vec<usize> = (0..=right.len()).collect();
    for (row, one) in left.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, other) in right.iter().enumerate() {
            let changed = previous[column] + usize::from(one != other);
            let mut least = changed
                .min(previous[column + 1] + 1)
                .min(current[column] + 1);
            let swapped =
                row > 0 && column > 0 && *one == right[column - 1] && left[row - 1] == *other;
            if swapped {
                let before: &Vec<usize> = &before;
                least = least.min(before[column - 1] + 1);
            }
            current.push(least);
        }
        before = std::mem::replace(&mut previous, current);
    }
    previous.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(written: &str, expected: Option<&str>) {
        let known = [
            "name", "app", "to", "ports", "action", "zone", "on_down", "connect",
        ];
        assert_eq!(nearest(written, known), expected, "{written}");
    }

    #[test]
    fn finds_slips() {
        check("port", Some("ports"));
        check("actoin", Some("action"));
        check("Zone", Some("zone"));
        check("on-down", Some("on_down"));
        check("conect", Some("connect"));
        check("zoen", Some("zone"));
        check("destination", None);
        check("gateways", None);
        check("ot", None);
        check("", None);
        check(&"x".repeat(100_000), None);
    }

    #[test]
    fn counts_edits() {
        for (left, right, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
            ("ab", "ba", 1),
            ("ca", "abc", 3),
        ] {
            assert_eq!(distance(left, right), expected, "{left} {right}");
        }
    }
}
