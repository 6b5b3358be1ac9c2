//! Reading mappings with a fixed set of keys, lists and texts, each with what is said when it is none.

use crate::diagnostics::{Fault, Findings, Place};
use crate::document::{Content, Node};
use crate::language::Key;
use crate::written::At;

/// The entries of a mapping that has a fixed set of keys.
pub(crate) struct Keys {
    what: String,
    /// Where the mapping begins.
    pub(crate) place: Place,
    entries: Vec<(String, Place, Node)>,
    /// For each key that is not known, the known one it may be a slip of.
    unknown: Vec<Option<String>>,
}

impl Keys {
    /// `what` names the mapping in messages. Keys that are not `known` are noted and left out.
    pub(crate) fn of(
        node: Node,
        what: &str,
        known: &'static [Key],
        findings: &mut Findings,
    ) -> Option<Self> {
        let place = node.place;
        let (mut entries, mut unknown) = (Vec::new(), Vec::new());
        for (key, value) in mapping(node, what, findings)? {
            let Some(At { place, value: key }) = scalar(key, "a key", findings) else {
                continue;
            };
            if known.iter().any(|it| it.name == key) {
                entries.push((key, place, value));
                continue;
            }
            let fault = Fault::new(format!("{what} has no key {key:?}"));
            let meant = findings.suggest(&key, known.iter().map(|it| it.name));
            let hint = match meant {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => names(known),
            };
            findings.error(place, fault.hint(hint));
            unknown.push(meant.map(str::to_owned));
        }
        Some(Self {
            what: what.to_owned(),
            place,
            entries,
            unknown,
        })
    }

    /// Whether all of its keys are known.
    pub(crate) fn are_known(&self) -> bool {
        self.unknown.is_empty()
    }

    /// The first key that is left.
    pub(crate) fn next(&mut self) -> Option<(String, Node)> {
        let first = (!self.entries.is_empty()).then(|| self.entries.remove(0));
        first.map(|(key, _, node)| (key, node))
    }

    /// The value of this key.
    pub(crate) fn take(&mut self, key: &str) -> Option<(Place, Node)> {
        let found = self.entries.iter().position(|(own, ..)| own == key)?;
        let (_, place, node) = self.entries.swap_remove(found);
        Some((place, node))
    }

    /// The text of this key.
    pub(crate) fn scalar(&mut self, key: &str, findings: &mut Findings) -> Option<At<String>> {
        let (_, node) = self.take(key)?;
        scalar(node, &format!("`{key}`"), findings)
    }

    /// As `scalar`; notes when the key is missing, unless a slip of it was noted.
    pub(crate) fn required(
        &mut self,
        key: &str,
        hint: &str,
        findings: &mut Findings,
    ) -> Option<At<String>> {
        if self.entries.iter().any(|(own, ..)| own == key) {
            return self.scalar(key, findings);
        }
        if self
            .unknown
            .iter()
            .any(|meant| meant.as_deref() == Some(key))
        {
            return None;
        }
        let fault = Fault::new(format!("{} has no `{key}`", self.what));
        findings.error(self.place, fault.hint(hint));
        None
    }

    /// Whether this key is there, or was meant by a slip that was noted.
    pub(crate) fn names(&self, key: &str) -> bool {
        let is_meant = |meant: &Option<String>| meant.as_deref() == Some(key);
        self.entries.iter().any(|(own, ..)| own == key) || self.unknown.iter().any(is_meant)
    }

    /// One value or a list of them. The outer `None`: something in it was wrong, and noted.
    pub(crate) fn list<T>(
        &mut self,
        key: &str,
        findings: &mut Findings,
        item: impl Fn(Node, &str, &mut Findings) -> Option<At<T>>,
    ) -> Option<Option<Vec<At<T>>>> {
        match self.take(key) {
            None => Some(None),
            Some((_, node)) => items(node, key, findings, item).map(Some),
        }
    }
}

fn names(keys: &[Key]) -> String {
    match keys {
        [only] => format!("its one key is {}", only.name),
        several => {
            let names: Vec<&str> = several.iter().map(|key| key.name).collect();
            format!("its keys are {}", names.join(", "))
        }
    }
}

/// One value or a list with at least one; `None` when something was wrong, and noted.
pub(crate) fn items<T>(
    node: Node,
    key: &str,
    findings: &mut Findings,
    item: impl Fn(Node, &str, &mut Findings) -> Option<At<T>>,
) -> Option<Vec<At<T>>> {
    let place = node.place;
    let what = format!("an entry of `{key}`");
    let nodes = match node.content {
        Content::List(nodes) => nodes,
        Content::Nothing | Content::Scalar(_) | Content::Map(_) => {
            return item(node, &format!("`{key}`"), findings).map(|item| vec![item]);
        }
    };
    if nodes.is_empty() {
        let fault = Fault::new(format!("the list of `{key}` is empty"));
        let hint = match key {
            "gateways" => "write at least one gateway",
            "methods" => "leave the key out to mean publickey",
            "known_hosts" => "leave the key out to mean the usual files",
            "via" => "write at least one jump host, or leave the key out",
            "socks5" | "http" => "write where to listen, or leave the key out",
            _ => "leave the key out to mean any",
        };
        findings.error(place, fault.hint(hint));
        return None;
    }
    let count = nodes.len();
    let read: Vec<At<T>> = nodes
        .into_iter()
        .filter_map(|node| item(node, &what, findings))
        .collect();
    (read.len() == count).then_some(read)
}

/// A list that may be empty or missing.
pub(crate) fn list(keys: &mut Keys, key: &str, findings: &mut Findings) -> Vec<Node> {
    let Some((_, node)) = keys.take(key).filter(has_content) else {
        return Vec::new();
    };
    if let Content::List(nodes) = node.content {
        return nodes;
    }
    let fault = Fault::new(format!("`{key}` is not a list"));
    findings.error(node.place, fault.hint("begin each entry with `- `"));
    Vec::new()
}

/// Whether anything was written there.
pub(crate) fn has_content((_, node): &(Place, Node)) -> bool {
    node.content != Content::Nothing
}

/// The entries of a mapping.
pub(crate) fn mapping(
    node: Node,
    what: &str,
    findings: &mut Findings,
) -> Option<Vec<(Node, Node)>> {
    if let Content::Map(entries) = node.content {
        return Some(entries);
    }
    let fault = Fault::new(format!("{what} is not a mapping"));
    findings.error(node.place, fault.hint("write `key: value` lines"));
    None
}

/// A text.
pub(crate) fn scalar(node: Node, what: &str, findings: &mut Findings) -> Option<At<String>> {
    let place = node.place;
    let fault = match node.content {
        Content::Scalar(value) => return Some(At { place, value }),
        Content::Nothing => Fault::new(format!("{what} has no value")),
        Content::List(_) => Fault::new(format!("{what} is one value, not a list")),
        Content::Map(_) => Fault::new(format!("{what} is a text, not a mapping"))
            .hint("a text with `{` in front or `: ` inside needs quotes"),
    };
    findings.error(place, fault);
    None
}
