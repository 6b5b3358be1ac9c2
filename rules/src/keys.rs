//! Reading mappings with a fixed set of keys, lists and texts, each with what is said when it is none.

use std::fmt;

use smol_str::SmolStr;

use crate::diagnostics::{Fault, Place};
use crate::document::{Content, Node};
use crate::findings::Findings;
use crate::language::Key;
use crate::written::At;

/// What something is called in messages. Most values are right, and nothing is said of them.
#[derive(Debug, Clone, Copy)]
pub(crate) enum What<'a> {
    /// As it is.
    Words(&'a str),
    /// The value of a key.
    Key(&'a str),
    /// One of several values of a key.
    EntryOf(&'a str),
    /// A rule, by its position.
    Rule(usize),
    /// A set, by its name.
    Set(&'a str),
    /// A zone, by its name.
    Zone(&'a str),
}

impl fmt::Display for What<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words(words) => f.write_str(words),
            Self::Key(key) => write!(f, "`{key}`"),
            Self::EntryOf(key) => write!(f, "an entry of `{key}`"),
            Self::Rule(position) => write!(f, "rule {position}"),
            Self::Set(name) => write!(f, "the set {name:?}"),
            Self::Zone(name) => write!(f, "the zone {name:?}"),
        }
    }
}

/// The entries of a mapping that has a fixed set of keys.
pub(crate) struct Keys<'a> {
    what: What<'a>,
    /// Where the mapping begins.
    pub(crate) place: Place,
    entries: Vec<(Node, Node)>,
    /// For each key that is not known, the known one it may be a slip of.
    unknown: Vec<Option<&'static str>>,
}

impl<'a> Keys<'a> {
    /// `what` names the mapping in messages. Keys that are not `known` are noted and left out.
    pub(crate) fn of(
        node: Node,
        what: What<'a>,
        known: &'static [Key],
        findings: &mut Findings,
    ) -> Option<Self> {
        let place = node.place;
        let mut entries = mapping(node, what, findings)?;
        let mut unknown = Vec::new();
        let is_known = |key: &Node| known.iter().any(|it| key.is(it.name));
        for (key, _) in entries.extract_if(.., |(key, _)| !is_known(key)) {
            let Some(At { place, value: key }) = scalar(key, What::Words("a key"), findings) else {
                continue;
            };
            let meant = findings.suggest(&key, known.iter().map(|it| it.name));
            findings.error_of(place, |_| {
                let fault = Fault::new(format!("{what} has no key {key:?}"));
                fault.hint(match meant {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => names(known),
                })
            });
            unknown.push(meant);
        }
        Some(Self {
            what,
            place,
            entries,
            unknown,
        })
    }

    /// Whether all of its keys are known.
    pub(crate) fn are_known(&self) -> bool {
        self.unknown.is_empty()
    }

    /// Whether known keys are left.
    pub(crate) fn has_more(&self) -> bool {
        !self.entries.is_empty()
    }

    /// The first key that is left.
    pub(crate) fn next(&mut self) -> Option<(SmolStr, Node)> {
        while !self.entries.is_empty() {
            let (key, node) = self.entries.remove(0);
            if let Content::Scalar(key) = key.content {
                return Some((key, node));
            }
        }
        None
    }

    /// The value of this key.
    pub(crate) fn take(&mut self, key: &str) -> Option<Node> {
        let found = self.entries.iter().position(|(own, _)| own.is(key))?;
        Some(self.entries.swap_remove(found).1)
    }

    /// The text of this key.
    pub(crate) fn scalar(&mut self, key: &str, findings: &mut Findings) -> Option<At<SmolStr>> {
        scalar(self.take(key)?, What::Key(key), findings)
    }

    /// As `scalar`; notes when the key is missing, unless a slip of it was noted.
    pub(crate) fn required(
        &mut self,
        key: &str,
        hint: &str,
        findings: &mut Findings,
    ) -> Option<At<SmolStr>> {
        if let Some(node) = self.take(key) {
            return scalar(node, What::Key(key), findings);
        }
        if self.unknown.contains(&Some(key)) {
            return None;
        }
        let what = self.what;
        findings.error_of(self.place, |_| {
            Fault::new(format!("{what} has no `{key}`")).hint(hint)
        });
        None
    }

    /// Whether this key is there, or was meant by a slip that was noted.
    pub(crate) fn names(&self, key: &str) -> bool {
        self.entries.iter().any(|(own, _)| own.is(key)) || self.unknown.contains(&Some(key))
    }

    /// One value or a list of them. The outer `None`: something in it was wrong, and noted.
    pub(crate) fn list<T>(
        &mut self,
        key: &str,
        findings: &mut Findings,
        item: impl Fn(Node, What<'_>, &mut Findings) -> Option<At<T>>,
    ) -> Option<Option<Vec<At<T>>>> {
        match self.take(key) {
            None => Some(None),
            Some(node) => items(node, key, findings, item).map(Some),
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
    item: impl Fn(Node, What<'_>, &mut Findings) -> Option<At<T>>,
) -> Option<Vec<At<T>>> {
    let place = node.place;
    let nodes = match node.content {
        Content::List(nodes) => nodes,
        Content::Nothing | Content::Scalar(_) | Content::Map(_) => {
            return item(node, What::Key(key), findings).map(|item| vec![item]);
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
        .filter_map(|node| item(node, What::EntryOf(key), findings))
        .collect();
    (read.len() == count).then_some(read)
}

/// A list that may be empty or missing.
pub(crate) fn list(keys: &mut Keys, key: &str, findings: &mut Findings) -> Vec<Node> {
    let Some(node) = keys.take(key).filter(has_content) else {
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
pub(crate) fn has_content(node: &Node) -> bool {
    node.content != Content::Nothing
}

/// The entries of a mapping.
pub(crate) fn mapping(
    node: Node,
    what: What<'_>,
    findings: &mut Findings,
) -> Option<Vec<(Node, Node)>> {
    if let Content::Map(entries) = node.content {
        return Some(entries);
    }
    findings.error_of(node.place, |_| {
        Fault::new(format!("{what} is not a mapping")).hint("write `key: value` lines")
    });
    None
}

/// A text.
pub(crate) fn scalar(node: Node, what: What<'_>, findings: &mut Findings) -> Option<At<SmolStr>> {
    let place = node.place;
    if let Content::Scalar(value) = node.content {
        return Some(At { place, value });
    }
    findings.error_of(place, |_| match node.content {
        Content::Scalar(_) | Content::Nothing => Fault::new(format!("{what} has no value")),
        Content::List(_) => Fault::new(format!("{what} is one value, not a list")),
        Content::Map(_) => Fault::new(format!("{what} is a text, not a mapping"))
            .hint("a text with `{` in front or `: ` inside needs quotes"),
    });
    None
}
