//! How much rule files may hold: what is beyond takes memory and time that no rule needs.

use crate::diagnostics::Fault;

/// Nodes of all documents together, those that aliases repeat included; a list or a mapping counts twice, as it begins and ends.
const MOST_NODES: usize = 2_000_000;
/// So many a document may have however short it is, …
const ALWAYS_ALLOWED: usize = 20_000;
/// … and one more for so many bytes. Rules that say something need five; what is denser takes longer to read than its length promises.
const BYTES_PER_NODE: usize = 4;
/// Nodes that aliases repeat, and those that they could.
const MOST_REPEATED: usize = 100_000;
/// Lists and mappings inside one another; a rule file needs nine.
pub(crate) const DEEPEST: usize = 16;

/// How much documents may still hold together.
#[derive(Debug)]
pub(crate) struct Allowance {
    /// Of all of them.
    nodes: usize,
    /// Of those so far, for their length.
    for_length: usize,
    repeated: usize,
}

impl Default for Allowance {
    fn default() -> Self {
        Self {
            nodes: MOST_NODES,
            for_length: 0,
            repeated: MOST_REPEATED,
        }
    }
}

impl Allowance {
    pub(crate) fn for_document(&mut self, text: &str) {
        let nodes = ALWAYS_ALLOWED + text.len() / BYTES_PER_NODE;
        self.for_length = self.for_length.saturating_add(nodes);
    }

    /// `None`: there is no room for so many more.
    pub(crate) fn spend(&mut self, nodes: usize) -> Option<()> {
        self.nodes = self.nodes.checked_sub(nodes)?;
        self.for_length = self.for_length.checked_sub(nodes)?;
        Some(())
    }

    /// As `spend`, of what an alias repeats, or could.
    pub(crate) fn spend_on_aliases(&mut self, nodes: usize) -> Option<()> {
        self.repeated = self.repeated.checked_sub(nodes)?;
        self.nodes = self.nodes.checked_sub(nodes)?;
        Some(())
    }
}

/// What is said of more.
pub(crate) fn too_much() -> Fault {
    Fault::new("the file is too deep, or has too many values")
        .hint(format!(
            "the limits: {DEEPEST} levels; {MOST_NODES} values, and {ALWAYS_ALLOWED} beside one for every {BYTES_PER_NODE} bytes"
        ))
}
