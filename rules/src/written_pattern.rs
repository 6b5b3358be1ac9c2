//! What was written in `app:`, `to:`, `ports:`, `user:` and `group:`.

use std::fmt;

use smol_str::SmolStr;

use crate::diagnostics::Fault;
use crate::document::{Content, Node};
use crate::findings::Findings;
use crate::keys::{Keys, What, items, scalar};
use crate::language::{self, Key};
use crate::written::At;

/// An entry of such a list.
#[derive(Debug, Clone)]
pub(crate) enum WrittenPattern {
    /// A text.
    Text(SmolStr),
    /// `{regex: …}`
    Regex(SmolStr),
    /// `{not: […]}`
    Not(Vec<At<WrittenPattern>>),
    /// A mapping of several keys, or of one that is neither of these.
    Facts(Vec<(SmolStr, Vec<At<WrittenPattern>>)>),
}

/// An entry of `to:`.
pub(crate) fn host(
    node: Node,
    what: What<'_>,
    findings: &mut Findings,
) -> Option<At<WrittenPattern>> {
    pattern(
        node,
        what,
        (language::HOST_MAPPING, language::REGEX),
        findings,
    )
}

/// An entry of `app:`.
pub(crate) fn application(
    node: Node,
    what: What<'_>,
    findings: &mut Findings,
) -> Option<At<WrittenPattern>> {
    let keys = (
        language::APPLICATION_MAPPING,
        language::PLAIN_APPLICATION_MAPPING,
    );
    pattern(node, what, keys, findings)
}

/// An entry of `ports:`.
pub(crate) fn ports(
    node: Node,
    what: What<'_>,
    findings: &mut Findings,
) -> Option<At<WrittenPattern>> {
    pattern(node, what, (language::NOT_PORTS, &[]), findings)
}

/// An entry of `user:` or `group:`.
pub(crate) fn name(
    node: Node,
    what: What<'_>,
    findings: &mut Findings,
) -> Option<At<WrittenPattern>> {
    pattern(node, what, (language::NOT_NAMES, &[]), findings)
}

/// An entry of a set, which may become an entry of any of these.
pub(crate) fn set_entry(
    node: Node,
    what: What<'_>,
    findings: &mut Findings,
) -> Option<At<WrittenPattern>> {
    pattern(
        node,
        what,
        (language::PLAIN_APPLICATION_MAPPING, &[]),
        findings,
    )
}

/// `keys`: those that a mapping may have, and those that it may have under `not`.
fn pattern(
    node: Node,
    what: What<'_>,
    (keys_of, under_not): (&'static [Key], &'static [Key]),
    findings: &mut Findings,
) -> Option<At<WrittenPattern>> {
    let place = node.place;
    if !matches!(node.content, Content::Map(_)) {
        let At { place, value } = scalar(node, what, findings)?;
        let value = WrittenPattern::Text(value);
        return Some(At { place, value });
    }
    if keys_of.is_empty() {
        let At { place, value } = scalar(node, what, findings)?;
        let value = WrittenPattern::Text(value);
        return Some(At { place, value });
    }
    if !keys_of.iter().any(|key| key.name == "not") && undoes_itself(&node) {
        let fault = Fault::new("a `not` is inside a `not`");
        findings.error(place, fault.hint("say what is meant without the two"));
        return None;
    }
    let mut keys = Keys::of(node, what, keys_of, findings)?;
    let mut facts = Vec::new();
    let mut failed = !keys.are_known();
    while let Some((key, node)) = keys.next() {
        let place = node.place;
        match values(&key, under_not, node, findings) {
            Some(values) => facts.push((key, place, values)),
            None => failed = true,
        }
    }
    if failed {
        return None;
    }
    let is_of_applications = keys_of.iter().any(|key| key.name == "path");
    if facts.len() > 1 && !is_of_applications {
        let fault = Fault::new("two keys are in one mapping");
        findings.error(
            place,
            fault.hint("write a list: [{regex: \"…\"}, {not: […]}]"),
        );
        return None;
    }
    if facts.is_empty() {
        let fault = Fault::new(format!("{what} is an empty mapping"));
        findings.error(place, fault.hint("write a text, or {regex: \"…\"}"));
        return None;
    }
    Some(match facts.as_mut_slice() {
        [(key, place, values)] if key == "not" => At {
            place: *place,
            value: WrittenPattern::Not(std::mem::take(values)),
        },
        [(key, _, values)] if key == "regex" => values.swap_remove(0),
        _ => At {
            place,
            value: WrittenPattern::Facts(
                facts
                    .into_iter()
                    .map(|(key, _, values)| (key, values))
                    .collect(),
            ),
        },
    })
}

fn values(
    key: &str,
    under_not: &'static [Key],
    node: Node,
    findings: &mut Findings,
) -> Option<Vec<At<WrittenPattern>>> {
    let keys = match key {
        "regex" => {
            let At { place, value } = scalar(node, What::Key("regex"), findings)?;
            let value = WrittenPattern::Regex(value);
            return Some(vec![At { place, value }]);
        }
        "not" => under_not,
        "path" | "script" | "parent" => language::REGEX,
        _ => &[],
    };
    items(node, key, findings, |node, what, findings| {
        if key != "not" && undoes_itself(&node) {
            let fault = Fault::new(format!("a `not` is inside `{key}`"));
            findings.error(
                node.place,
                fault.hint(format!("write {{not: {{{key}: …}}}}")),
            );
            return None;
        }
        pattern(node, what, (keys, &[]), findings)
    })
}

fn undoes_itself(node: &Node) -> bool {
    let Content::Map(entries) = &node.content else {
        return false;
    };
    entries.iter().any(|(key, _)| key.is("not"))
}

impl WrittenPattern {
    /// What is under its `not`.
    pub(crate) fn under_not(&self) -> &[At<Self>] {
        match self {
            Self::Not(entries) => entries,
            Self::Text(_) | Self::Regex(_) | Self::Facts(_) => &[],
        }
    }
}

/// As explanations show it.
impl fmt::Display for WrittenPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Regex(source) => write!(f, "/{source}/"),
            Self::Not(_) | Self::Facts(_) => f.write_str("{…}"),
        }
    }
}
