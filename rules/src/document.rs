//! A YAML text as a tree of nodes, each with its place. Nothing here knows what a rule file is.
//!
//! The tree is built straight from the parser's events: a large file is mostly this.

use std::collections::{HashMap, HashSet};

use granit_parser::{Event, Options, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};
use smol_str::SmolStr;

use crate::allowance::{Allowance, DEEPEST, too_much};
use crate::diagnostics::{Fault, Place};

/// A mapping with more keys is searched for duplicates by hash.
const MANY_KEYS: usize = 16;
/// The key that takes over the entries of another mapping.
const MERGE: &str = "<<";

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
    /// Text as it stands in the file: `1.50` stays `1.50`, and `no` stays `no`. Most are short, and need no memory of their own.
    Scalar(SmolStr),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the file; no two keys are alike.
    Map(Vec<(Node, Node)>),
}

impl Node {
    /// Whether it is this text.
    pub(crate) fn is(&self, meant: &str) -> bool {
        text(self) == Some(meant)
    }
}

/// Why a document cannot be read, and where.
type Wrong = (Place, Fault);

/// Reads a document, which is this `file`. An error ends the reading: behind it nothing is certain.
pub(crate) fn read(text: &str, file: u16, allowance: &mut Allowance) -> Result<Node, Wrong> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    allowance.for_document(text);
    let mut parser = Parser::<StrInput<'_>>::new_from_str_with_options(text, options());
    let mut builder = Builder::new(file, allowance);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| no_yaml(&error, file))?;
        builder.take(event, span)?;
    }
    Ok(builder.root.unwrap_or(Node {
        place: builder.end,
        content: Content::Nothing,
    }))
}

fn options() -> Options {
    let mut options = Options::default();
    options.emit_unresolved_aliases = true;
    options
}

/// A list or a mapping that is not at its end yet.
struct Open {
    place: Place,
    anchor: usize,
    content: OpenContent,
}

enum OpenContent {
    List(Vec<Node>),
    /// Entries, and the key whose value comes next.
    Map(Vec<(Node, Node)>, Option<Node>),
}

struct Builder<'a> {
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    allowance: &'a mut Allowance,
    documents: usize,
    root: Option<Node>,
    end: Place,
}

impl<'a> Builder<'a> {
    fn new(file: u16, allowance: &'a mut Allowance) -> Self {
        Self {
            open: Vec::new(),
            anchors: HashMap::new(),
            allowance,
            documents: 0,
            root: None,
            end: Place {
                file,
                line: 1,
                column: 1,
                length: 0,
            },
        }
    }

    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Wrong> {
        let place = place(span, self.end.file);
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    let fault = Fault::new("a second document begins");
                    return Err((place, fault.hint("a rule file is one document")));
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                refuse_tag(tag.as_deref(), place)?;
                let is_nothing = style == ScalarStyle::Plain
                    && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let content = match is_nothing {
                    true => Content::Nothing,
                    false => Content::Scalar(text.into()),
                };
                self.add(Node { place, content }, anchor)?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                refuse_tag(tag.as_deref(), place)?;
                self.begin(place, anchor, OpenContent::List(Vec::new()))?;
            }
            Event::MappingStart(_, anchor, tag) => {
                refuse_tag(tag.as_deref(), place)?;
                self.begin(place, anchor, OpenContent::Map(Vec::new(), None))?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.open.pop() {
                    let content = match open.content {
                        OpenContent::List(nodes) => Content::List(nodes),
                        OpenContent::Map(written, _) => Content::Map(entries(written)?),
                    };
                    let node = Node {
                        place: open.place,
                        content,
                    };
                    self.add(node, open.anchor)?;
                }
            }
            Event::Alias(anchor) => self.repeat(anchor, place)?,
            Event::StreamEnd => self.end = place,
            Event::UnresolvedAlias(name) => {
                let fault = Fault::new(format!("no anchor is called {name:?}"));
                return Err((place, fault.hint("a text with `*` in front needs quotes")));
            }
            // These say nothing about what is in the document.
            Event::StreamStart | Event::DocumentEnd | Event::Anchor(..) => {}
            // What a later parser may know.
            _ => {
                return Err((
                    place,
                    Fault::new("this is YAML of a kind that is not known"),
                ));
            }
        }
        Ok(())
    }

    fn begin(&mut self, place: Place, anchor: usize, content: OpenContent) -> Result<(), Wrong> {
        if self.open.len() == DEEPEST || self.allowance.spend(1).is_none() {
            return Err((place, too_much()));
        }
        self.open.push(Open {
            place,
            anchor,
            content,
        });
        Ok(())
    }

    fn add(&mut self, node: Node, anchor: usize) -> Result<(), Wrong> {
        let left = self.allowance.spend(1);
        left.ok_or_else(|| (node.place, too_much()))?;
        if anchor > 0 {
            let left = self.allowance.spend_on_aliases(size(&node).0);
            left.ok_or_else(|| (node.place, too_much()))?;
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            Some(OpenContent::List(nodes)) => nodes.push(node),
            Some(OpenContent::Map(entries, key)) => match key.take() {
                Some(key) => entries.push((key, node)),
                None => *key = Some(node),
            },
            None => self.root = Some(node),
        }
        Ok(())
    }

    fn repeat(&mut self, anchor: usize, place: Place) -> Result<(), Wrong> {
        let Some(node) = self.anchors.get(&anchor) else {
            let fault = Fault::new("the alias stands inside of what it repeats");
            return Err((place, fault));
        };
        let (nodes, depth) = size(node);
        let left = self.allowance.spend_on_aliases(nodes);
        let is_flat = self.open.len() + depth <= DEEPEST;
        if left.is_none() || !is_flat {
            return Err((place, too_much()));
        }
        let content = node.content.clone();
        self.add(Node { place, content }, 0)
    }
}

/// The entries of a mapping, of those that were written; those that are merged last.
fn entries(mut written: Vec<(Node, Node)>) -> Result<Vec<(Node, Node)>, Wrong> {
    let merged: Vec<Node> = written
        .extract_if(.., |(key, _)| key.is(MERGE))
        .map(|(_, value)| value)
        .collect();
    refuse_twins(&written)?;
    for value in merged {
        merge(&mut written, value)?;
    }
    Ok(written)
}

/// Takes over entries of other mappings whose keys are not there yet (<https://yaml.org/type/merge.html>).
fn merge(entries: &mut Vec<(Node, Node)>, value: Node) -> Result<(), Wrong> {
    let place = value.place;
    let maps = match value.content {
        Content::List(items) => items,
        content @ (Content::Nothing | Content::Scalar(_) | Content::Map(_)) => {
            vec![Node { place, content }]
        }
    };
    let mut keys: HashSet<SmolStr> = entries
        .iter()
        .filter_map(|(key, _)| text(key))
        .map(SmolStr::from)
        .collect();
    for map in maps {
        let Content::Map(others) = map.content else {
            let fault = Fault::new(format!("what `{MERGE}` takes over is not a mapping"));
            return Err((map.place, fault));
        };
        let is_new = |(key, _): &(Node, Node)| text(key).is_none_or(|key| keys.insert(key.into()));
        entries.extend(others.into_iter().filter(is_new));
    }
    Ok(())
}

fn refuse_twins(entries: &[(Node, Node)]) -> Result<(), Wrong> {
    let twin = if entries.len() <= MANY_KEYS {
        let is_twin = |index: usize| {
            let (before, key) = (&entries[..index], text(&entries[index].0));
            key.is_some() && before.iter().any(|(other, _)| text(other) == key)
        };
        (1..entries.len()).find(|&index| is_twin(index))
    } else {
        let mut seen = HashSet::with_capacity(entries.len());
        let mut keys = entries.iter().map(|(key, _)| text(key));
        keys.position(|key| key.is_some_and(|key| !seen.insert(key)))
    };
    let Some((key, _)) = twin.map(|index| &entries[index]) else {
        return Ok(());
    };
    let fault = Fault::new(format!(
        "the key {:?} is given twice",
        text(key).unwrap_or_default()
    ));
    Err((key.place, fault.hint("keep one of them")))
}

fn text(node: &Node) -> Option<&str> {
    match &node.content {
        Content::Scalar(text) => Some(text),
        Content::Nothing | Content::List(_) | Content::Map(_) => None,
    }
}

/// How many nodes there are in `node`, itself included, and how many lists and mappings lie in one another.
fn size(node: &Node) -> (usize, usize) {
    let of_children = |nodes: &mut dyn Iterator<Item = &Node>| {
        let sizes = nodes.map(size);
        let (nodes, depth) = sizes.fold((0, 0), |(nodes, deepest), (more, depth)| {
            (nodes + more, deepest.max(depth))
        });
        (nodes + 1, depth + 1)
    };
    match &node.content {
        Content::Nothing | Content::Scalar(_) => (1, 0),
        Content::List(items) => of_children(&mut items.iter()),
        Content::Map(entries) => {
            of_children(&mut entries.iter().flat_map(|(key, value)| [key, value]))
        }
    }
}

/// `!something` makes of a value what only its author knows. Those of YAML itself change nothing here.
fn refuse_tag(tag: Option<&Tag>, place: Place) -> Result<(), Wrong> {
    match tag {
        Some(tag) if !tag.is_yaml_core_schema() => {
            let fault = Fault::new("a value is marked with a tag");
            Err((place, fault.hint("a text with `!` in front needs quotes")))
        }
        Some(_) | None => Ok(()),
    }
}

fn place(span: Span, file: u16) -> Place {
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    Place {
        file,
        line: number(span.start.line()).max(1),
        column: number(span.start.col()).saturating_add(1),
        length: number(span.len()),
    }
}

fn no_yaml(error: &ScanError, file: u16) -> Wrong {
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    let place = Place {
        file,
        line: number(error.marker().line()).max(1),
        column: number(error.marker().col()).saturating_add(1),
        length: 1,
    };
    let message = error.info();
    // Its own limits are wider than ours, but asked before.
    if message.contains("recursion limit") || message.contains("nesting") {
        return (place, too_much());
    }
    (place, Fault::new(format!("this is not YAML: {message}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Node, Wrong> {
        super::read(text, 0, &mut Allowance::default())
    }

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
            Content::Scalar(text) => text.to_string(),
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
            "3:1+3 a second document begins; a rule file is one document",
        );
        check(
            &"[".repeat(999),
            "1:256+1 the file is too deep, or has too many values; the limits: 16 levels; 2000000 values, and 20000 beside one for every 4 bytes",
        );
        check(
            &("[".repeat(40) + &"]".repeat(40)),
            "1:17+1 the file is too deep, or has too many values; the limits: 16 levels; 2000000 values, and 20000 beside one for every 4 bytes",
        );
    }

    #[test]
    fn takes_over_what_is_merged() {
        check(
            "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: [*a, {z: 4}]}\n",
            "{a@1:1+1={x@1:8+1=1@1:11+1 y@1:14+1=2@1:17+1}@1:7+1 \
             b@2:1+1={y@2:13+1=3@2:16+1 x@1:8+1=1@1:11+1}@2:4+1 \
             c@3:1+1={x@1:8+1=1@1:11+1 y@1:14+1=2@1:17+1 z@3:15+1=4@3:18+1}@3:4+1}@1:1+0",
        );
        check(
            "a: {<<: 1}\n",
            "1:9+1 what `<<` takes over is not a mapping",
        );
    }

    #[test]
    fn tags_and_aliases_do_nothing_odd() {
        check("a: !!str 1\n", "{a@1:1+1=1@1:10+1}@1:1+0");
        check(
            "a: !10.0.0.1 x\n",
            "1:14+1 a value is marked with a tag; a text with `!` in front needs quotes",
        );
        check(
            "a: &a [*a]\n",
            "1:8+2 the alias stands inside of what it repeats",
        );
        check(
            "a: *.corp\n",
            "1:4+6 no anchor is called \".corp\"; a text with `*` in front needs quotes",
        );
        let mut keys: Vec<String> = (0..40).map(|key| format!("k{key}: 1\n")).collect();
        keys.push("k7: 2\n".to_owned());
        check(
            &keys.concat(),
            "41:1+2 the key \"k7\" is given twice; keep one of them",
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
        // A copy is kept of whatever has an anchor.
        let items = "x, ".repeat(10_000);
        let anchored = format!("a: &a [&b [&c [&d [&e [{items}]]]]]\n");
        assert!(read(&anchored).is_ok());
        assert!(read(&(anchored.clone() + &anchored.replace("a:", "b:"))).is_err());
    }

    #[test]
    fn what_is_denser_than_any_rule_file_is_refused() {
        let read_many = |text: &str, times: usize| {
            let text = format!("x: [{}]\n", text.repeat(times));
            read(&text).map_err(|(_, fault)| fault.message)
        };
        for (text, few, many) in [("1,", 30_000, 50_000), ("[],", 10_000, 20_000)] {
            assert!(read_many(text, few).is_ok(), "{text}");
            let refused = read_many(text, many).unwrap_err();
            assert_eq!(refused, "the file is too deep, or has too many values");
        }
        assert!(read_many("1234,", 200_000).is_ok());
        assert!(read_many("{to: 192.0.2.1, action: pass}, ", 100_000).is_ok());
    }
}
