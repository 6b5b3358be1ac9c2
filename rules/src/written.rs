//! The first stage: what was written. Keys are known and values have the right shape; what they mean is not asked yet.

use crate::diagnostics::{Fault, Findings, Place};
use crate::document::{Content, Node};
use crate::suggestion;

/// The version of the file's format that is understood.
const VERSION: &str = "1";
/// Unknown keys of one mapping that are compared with the known ones.
const MOST_SUGGESTIONS: usize = 100;
/// Characters of a label that people are to read in a table.
const LONGEST_NAME: usize = 120;

/// A value and its place.
#[derive(Debug, Clone)]
pub(crate) struct At<T> {
    pub(crate) place: Place,
    pub(crate) value: T,
}

/// A rule file.
#[derive(Debug, Default)]
pub(crate) struct WrittenFile {
    pub(crate) zones: Vec<WrittenZone>,
    pub(crate) rules: Vec<WrittenRule>,
    pub(crate) default: Option<At<String>>,
    pub(crate) tests: Vec<WrittenTest>,
}

/// An entry of `zones:`.
#[derive(Debug)]
pub(crate) struct WrittenZone {
    pub(crate) name: At<String>,
    pub(crate) gateways: Vec<At<String>>,
    pub(crate) identity: Option<At<String>>,
    pub(crate) known_hosts: Option<At<String>>,
    pub(crate) engine: Option<At<String>>,
    pub(crate) on_down: Option<At<String>>,
    pub(crate) connect: Option<At<String>>,
}

/// An entry of `rules:`.
#[derive(Debug)]
pub(crate) struct WrittenRule {
    pub(crate) place: Place,
    /// From 1.
    pub(crate) position: usize,
    pub(crate) name: Option<At<String>>,
    pub(crate) app: Option<Vec<At<WrittenPattern>>>,
    pub(crate) to: Option<Vec<At<WrittenPattern>>>,
    pub(crate) ports: Option<Vec<At<String>>>,
    pub(crate) action: At<String>,
    pub(crate) zone: Option<At<String>>,
    pub(crate) on_down: Option<At<String>>,
    pub(crate) connect: Option<At<String>>,
}

/// A text, or `{regex: …}`.
#[derive(Debug, Clone)]
pub(crate) enum WrittenPattern {
    Text(String),
    Regex(String),
}

/// An entry of `tests:`.
#[derive(Debug)]
pub(crate) struct WrittenTest {
    pub(crate) app: Option<At<String>>,
    pub(crate) to: At<String>,
    pub(crate) expect: At<String>,
}

/// Reads the tree of a file. What cannot be read is noted and left out.
pub(crate) fn read(root: Node, findings: &mut Findings) -> WrittenFile {
    let place = root.place;
    if root.content == Content::Nothing {
        let hint = "the least that makes sense: `version: 1` and `default: pass`";
        findings.error(place, Fault::new("the file is empty").hint(hint));
        return WrittenFile::default();
    }
    if let Err((place, fault)) = is_known_version(&root.content) {
        findings.error(place, fault);
        return WrittenFile::default();
    }
    let known = &["version", "zones", "rules", "default", "tests"];
    let Some(mut keys) = Keys::of(root, "the file", known, findings) else {
        return WrittenFile::default();
    };
    keys.required("version", &only_version(), findings);
    WrittenFile {
        zones: zones(&mut keys, findings),
        rules: rules(&mut keys, findings),
        default: keys.required("default", "say what flows get that no rule matches: `default: pass`, `default: block` or `default: tunnel ZONE`", findings),
        tests: tests(&mut keys, findings),
    }
}

/// A file of another version is not looked at further: its keys may mean something else.
fn is_known_version(root: &Content) -> Result<(), (Place, Fault)> {
    let Content::Map(entries) = root else {
        return Ok(());
    };
    let is_version = |key: &Node| matches!(&key.content, Content::Scalar(key) if key == "version");
    match entries.iter().find(|(key, _)| is_version(key)) {
        Some((_, node)) => match &node.content {
            Content::Scalar(version) if version != VERSION => Err((
                node.place,
                Fault::new(format!("version {version:?} is not known")).hint(only_version()),
            )),
            Content::Scalar(_) | Content::Nothing | Content::List(_) | Content::Map(_) => Ok(()),
        },
        None => Ok(()),
    }
}

fn only_version() -> String {
    format!("this program reads `version: {VERSION}`")
}

fn zones(keys: &mut Keys, findings: &mut Findings) -> Vec<WrittenZone> {
    let Some((_, node)) = keys.take("zones").filter(has_content) else {
        return Vec::new();
    };
    let Some(entries) = mapping(node, "`zones`", findings) else {
        return Vec::new();
    };
    let zones = entries.into_iter();
    let zones = zones.filter_map(|(name, node)| zone(name, node, findings));
    zones.collect()
}

fn zone(name: Node, node: Node, findings: &mut Findings) -> Option<WrittenZone> {
    let name = scalar(name, "the name of a zone", findings)?;
    let what = format!("the zone {:?}", name.value);
    let known = &[
        "gateways",
        "identity",
        "known_hosts",
        "engine",
        "on_down",
        "connect",
    ];
    let nothing = WrittenZone {
        name,
        gateways: Vec::new(),
        identity: None,
        known_hosts: None,
        engine: None,
        on_down: None,
        connect: None,
    };
    let Some(mut keys) = Keys::of(node, &what, known, findings) else {
        return Some(nothing);
    };
    let gateways = keys.take("gateways");
    if gateways.is_none() {
        let fault = Fault::new(format!("{what} has no gateways"));
        findings.error(
            nothing.name.place,
            fault.hint("write `gateways: [USER@HOST:PORT]`"),
        );
    }
    Some(WrittenZone {
        gateways: gateways
            .and_then(|(_, node)| items(node, "gateways", findings, scalar))
            .unwrap_or_default(),
        identity: keys.scalar("identity", findings),
        known_hosts: keys.scalar("known_hosts", findings),
        engine: keys.scalar("engine", findings),
        on_down: keys.scalar("on_down", findings),
        connect: keys.scalar("connect", findings),
        ..nothing
    })
}

fn rules(keys: &mut Keys, findings: &mut Findings) -> Vec<WrittenRule> {
    let rules = list(keys, "rules", findings).into_iter().enumerate();
    rules
        .filter_map(|(index, node)| rule(index + 1, node, findings))
        .collect()
}

fn rule(position: usize, node: Node, findings: &mut Findings) -> Option<WrittenRule> {
    let known = &[
        "name", "app", "to", "ports", "action", "zone", "on_down", "connect",
    ];
    let mut keys = Keys::of(node, &format!("rule {position}"), known, findings)?;
    let name = keys.scalar("name", findings);
    let name = name.filter(|name| is_readable(name, findings));
    let app = keys.list("app", findings, pattern);
    let to = keys.list("to", findings, pattern);
    let ports = keys.list("ports", findings, scalar);
    let zone = keys.scalar("zone", findings);
    let on_down = keys.scalar("on_down", findings);
    let connect = keys.scalar("connect", findings);
    let hint = "write `action: tunnel`, `action: pass` or `action: block`";
    let action = keys.required("action", hint, findings)?;
    if !keys.unknown.is_empty() {
        // What the rule would match without that key is not what was meant.
        return None;
    }
    Some(WrittenRule {
        place: name.as_ref().map_or(keys.place, |name| name.place),
        position,
        name,
        app: app?,
        to: to?,
        ports: ports?,
        action,
        zone,
        on_down,
        connect,
    })
}

fn tests(keys: &mut Keys, findings: &mut Findings) -> Vec<WrittenTest> {
    let tests = list(keys, "tests", findings).into_iter();
    tests.filter_map(|node| test(node, findings)).collect()
}

fn test(node: Node, findings: &mut Findings) -> Option<WrittenTest> {
    let mut keys = Keys::of(node, "a test", &["app", "to", "expect"], findings)?;
    let app = keys.scalar("app", findings);
    let to = keys.required("to", "write `to: \"10.20.1.1:443\"`", findings);
    let hint = "write `expect: tunnel ZONE`, `expect: pass` or `expect: block`";
    let expect = keys.required("expect", hint, findings);
    Some(WrittenTest {
        app,
        to: to?,
        expect: expect?,
    })
}

/// A name stands in tables, logs and messages on one line.
fn is_readable(name: &At<String>, findings: &mut Findings) -> bool {
    let text = name.value.trim();
    let fault = if text.is_empty() {
        Fault::new("a name is empty")
            .hint("leave the key out: the rule is then called by its position")
    } else if name.value.chars().any(char::is_control) {
        Fault::new("a name has control characters or several lines")
    } else if name.value.chars().count() > LONGEST_NAME {
        Fault::new(format!("a name has at most {LONGEST_NAME} characters"))
    } else {
        return true;
    };
    findings.error(name.place, fault);
    false
}

/// The entries of a mapping that has a fixed set of keys.
struct Keys {
    what: String,
    place: Place,
    entries: Vec<(String, Place, Node)>,
    /// For each key that is not known, the known one it may be a slip of.
    unknown: Vec<Option<String>>,
}

impl Keys {
    /// `what` names the mapping in messages. Keys that are not `known` are noted and left out.
    fn of(node: Node, what: &str, known: &[&str], findings: &mut Findings) -> Option<Self> {
        let place = node.place;
        let (mut entries, mut unknown) = (Vec::new(), Vec::new());
        for (key, value) in mapping(node, what, findings)? {
            let Some(At { place, value: key }) = scalar(key, "a key", findings) else {
                continue;
            };
            if known.contains(&key.as_str()) {
                entries.push((key, place, value));
                continue;
            }
            let fault = Fault::new(format!("{what} has no key {key:?}"));
            let meant = if unknown.len() < MOST_SUGGESTIONS {
                suggestion::nearest(&key, known.iter().copied())
            } else {
                None
            };
            let hint = match meant {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("its keys are {}", known.join(", ")),
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

    fn take(&mut self, key: &str) -> Option<(Place, Node)> {
        let found = self.entries.iter().position(|(own, ..)| own == key)?;
        let (_, place, node) = self.entries.swap_remove(found);
        Some((place, node))
    }

    fn scalar(&mut self, key: &str, findings: &mut Findings) -> Option<At<String>> {
        let (_, node) = self.take(key)?;
        scalar(node, &format!("`{key}`"), findings)
    }

    /// As `scalar`; notes when the key is missing, unless a slip of it was noted.
    fn required(&mut self, key: &str, hint: &str, findings: &mut Findings) -> Option<At<String>> {
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

    /// One value or a list of them. The outer `None`: something in it was wrong, and noted.
    fn list<T>(
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

/// One value or a list with at least one; `None` when something was wrong, and noted.
fn items<T>(
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
fn list(keys: &mut Keys, key: &str, findings: &mut Findings) -> Vec<Node> {
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

fn has_content((_, node): &(Place, Node)) -> bool {
    node.content != Content::Nothing
}

fn mapping(node: Node, what: &str, findings: &mut Findings) -> Option<Vec<(Node, Node)>> {
    if let Content::Map(entries) = node.content {
        return Some(entries);
    }
    let fault = Fault::new(format!("{what} is not a mapping"));
    findings.error(node.place, fault.hint("write `key: value` lines"));
    None
}

fn scalar(node: Node, what: &str, findings: &mut Findings) -> Option<At<String>> {
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

fn pattern(node: Node, what: &str, findings: &mut Findings) -> Option<At<WrittenPattern>> {
    let place = node.place;
    if !matches!(node.content, Content::Map(_)) {
        let At { place, value } = scalar(node, what, findings)?;
        let value = WrittenPattern::Text(value);
        return Some(At { place, value });
    }
    let mut keys = Keys::of(node, what, &["regex"], findings)?;
    if keys.entries.is_empty() && keys.unknown.is_empty() {
        let fault = Fault::new(format!("{what} is a mapping without `regex`"));
        findings.error(place, fault.hint("write a text, or {regex: \"…\"}"));
        return None;
    }
    let At { place, value } = keys.scalar("regex", findings)?;
    let value = WrittenPattern::Regex(value);
    Some(At { place, value })
}
