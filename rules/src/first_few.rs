//! Long lists, as people read them.

/// More patterns of one list than this are only counted.
const MOST_PATTERNS: usize = 5;

/// The first few of a list, and how many there are beyond.
pub(crate) fn list(items: impl ExactSizeIterator<Item = String>) -> String {
    let more = items.len().saturating_sub(MOST_PATTERNS);
    let mut items: Vec<String> = items.take(MOST_PATTERNS).collect();
    if more > 0 {
        items.push(format!("and {more} more"));
    }
    items.join(", ")
}
