//! A YAML text as a tree of nodes, each with its place. Nothing here knows what a rule file is.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::{DuplicateKeyPolicy, NonFiniteFloatPolicy};
use serde_saphyr::{Error, Location, Options, Spanned};

use crate::diagnostics::{Fault, Place};

/// Nodes of a document, those that aliases repeat included.
const MOST_NODES: usize = 1_000_000;
/// Parts of a document that anchors remember and aliases repeat.
const MOST_REPEATED: usize = 100_000;
/// Lists and mappings inside one another; a rule file needs six.
const DEEPEST: usize = 16;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// Where it is used, also when an alias repeats it.
    pub(crate) place: Place,
    /// What it is.
    pub(crate) content: Content,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// No value, `~` or `null`.
    Nothing,
    /// Text as it stands in the file: `1.50` stays `1.50`, and `no` stays `no`.
    Scalar(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the file; no two keys are alike.
    Map(Vec<(Node, Node)>),
}

/// Reads a document. An error ends the reading: behind it nothing is certain.
pub(crate) fn read(text: &str) -> Result<Node, (Place, Fault)> {
    serde_saphyr::from_str_with_options::<Spanned<Raw>>(text, options())
        .map(|root| node(root, text))
        .map_err(|error| fault(&error))
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: MOST_NODES,
            max_events: 4 * MOST_NODES,
            max_recorded_anchor_events: MOST_REPEATED,
            max_depth: DEEPEST,
            max_documents: 2,
            enforce_alias_anchor_ratio: false,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MOST_REPEATED,
            max_replay_stack_depth: DEEPEST,
        },
        emit_comments: false,
        duplicate_keys: DuplicateKeyPolicy::Error,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        ignore_binary_tag_for_string: true,
        strict_booleans: true,
        with_snippet: false,
    }
}

/// As the deserializer gives it. A scalar that is not quoted comes as whatever it looks like; its text is in the file.
enum Raw {
    Nothing,
    Text(String),
    Typed(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<Raw>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Nothing)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}

fn node(raw: Spanned<Raw>, text: &str) -> Node {
    let content = match raw.value {
        Raw::Nothing => Content::Nothing,
        Raw::Text(value) => Content::Scalar(value),
        Raw::Typed(value) => Content::Scalar(source(raw.defined, text).unwrap_or(value)),
        Raw::List(items) => Content::List(items.into_iter().map(|it| node(it, text)).collect()),
        Raw::Map(entries) => Content::Map(
            entries
                .into_iter()
                .map(|(key, value)| (node(key, text), node(value, text)))
                .collect(),
        ),
    };
    Node {
        place: place(raw.referenced),
        content,
    }
}

/// The text of a plain scalar.
fn source(location: Location, text: &str) -> Option<String> {
    let span = location.span();
    let start = usize::try_from(span.byte_offset()?).ok()?;
    let length = usize::try_from(span.byte_len()?).ok()?;
    let source = text.strip_prefix('\u{feff}').unwrap_or(text);
    source
        .get(start..start.checked_add(length)?)
        .filter(|source| !source.is_empty())
        .map(str::to_owned)
}

fn place(location: Location) -> Place {
    let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    Place {
        file: 0,
        line: number(location.line()).max(1),
        column: number(location.column()).max(1),
        length: number(location.span().len()),
    }
}

fn fault(error: &Error) -> (Place, Fault) {
    let location = error.location().unwrap_or(Location::UNKNOWN);
    let mut place = place(location);
    if location == Location::UNKNOWN {
        place.length = 1;
    }
    if let Error::DuplicateMappingKey { key, .. } = error {
        let key = key.as_deref().unwrap_or("?");
        place.length = u32::try_from(key.chars().count()).unwrap_or(u32::MAX);
        let fault = Fault::new(format!("the key {key:?} is given twice"));
        return (place, fault.hint("keep one of them"));
    }
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default();
    // Inside an alias, the error's text is all that is left of its kind.
    let limits = ["budget breached", "alias replay", "recursion limit"];
    if limits.iter().any(|limit| message.starts_with(limit)) {
        let fault = Fault::new("the file is too deep, or has too many values")
            .hint(format!("the limits: {DEEPEST} levels, {MOST_NODES} values"));
        return (place, fault);
    }
    if let Error::MultipleDocuments { .. } = error {
        let fault = Fault::new("a second document begins").hint("a rule file is one document");
        return (place, fault);
    }
    (place, Fault::new(format!("this is not YAML: {message}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tree on one line, each value with its place.
    fn show(node: &Node) -> String {
        let Place {
            line,
            column,
            length,
            file: _,
        } = node.place;
        let content = match &node.content {
            Content::Nothing => "~".to_owned(),
            Content::Scalar(text) => text.clone(),
            Content::List(items) => {
                let items: Vec<String> = items.iter().map(show).collect();
                format!("[{}]", items.join(" "))
            }
            Content::Map(entries) => {
                let entries = entries.iter();
                let entries: Vec<String> = entries
                    .map(|(key, value)| format!("{}={}", show(key), show(value)))
                    .collect();
                format!("{{{}}}", entries.join(" "))
            }
        };
        format!("{content}@{line}:{column}+{length}")
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let shown = match read(text) {
            Ok(node) => show(&node),
            Err((place, fault)) => {
                format!("{}:{}+{} {fault}", place.line, place.column, place.length)
            }
        };
        assert_eq!(shown, expected, "{text:?}");
    }

    #[test]
    fn keeps_text_and_places() {
        check(
            "a: 1.50\nb: [no, true, 0x1F]\n",
            "{a@1:1+1=1.50@1:4+4 b@2:1+1=[no@2:5+2 true@2:9+4 0x1F@2:15+4]@2:4+1}@1:1+0",
        );
        check(
            "a: &x 7\nb: *x\n",
            "{a@1:1+1=7@1:7+1 b@2:1+1=7@2:4+2}@1:1+0",
        );
        check("\u{feff}a: 12\n", "{a@1:1+1=12@1:4+2}@1:1+0");
        check("é: 12\n", "{é@1:1+1=12@1:4+2}@1:1+0");
        check("a: .inf\n", "{a@1:1+1=.inf@1:4+4}@1:1+0");
        check("a:\n", "{a@1:1+1=~@1:2+0}@1:1+0");
        check("", "~@1:1+0");
    }

    #[test]
    fn says_what_is_no_yaml() {
        check(
            "a: 1\na: 2\n",
            "2:1+1 the key \"a\" is given twice; keep one of them",
        );
        check("a: [1\n", "1:4+1 this is not YAML: unclosed bracket '['");
        check(
            "---\na: 1\n---\nb: 2\n",
            "4:1+0 a second document begins; a rule file is one document",
        );
        check(
            &"[".repeat(999),
            "1:256+1 the file is too deep, or has too many values; the limits: 16 levels, 1000000 values",
        );
        check(
            &("[".repeat(40) + &"]".repeat(40)),
            "1:17+1 the file is too deep, or has too many values; the limits: 16 levels, 1000000 values",
        );
    }

    #[test]
    fn repetition_is_bounded() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..9 {
            let below = format!("*a{},", level - 1).repeat(10);
            text += &format!("a{level}: &a{level} [{below}]\n");
        }
        let (_, fault) = read(&text).unwrap_err();
        assert_eq!(
            fault.message,
            "the file is too deep, or has too many values"
        );
    }
}
