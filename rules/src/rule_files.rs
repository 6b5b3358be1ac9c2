//! Reading the files of layers, and those that they include.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::allowance::Allowance;
use crate::diagnostics::{Fault, Place};
use crate::document;
use crate::findings::Findings;
use crate::layer::{Author, Layer};
use crate::set_file::beside;
use crate::sets::Files;
use crate::written::{self, At, WrittenFile};

/// Bytes of all rule files together.
const LARGEST: usize = 16 * 1024 * 1024;
/// Rule files.
const MOST_FILES: usize = 256;
/// Files that include one another.
const DEEPEST: usize = 8;

/// A layer as it was written.
#[derive(Debug)]
pub(crate) struct WrittenLayer {
    pub(crate) author: Author,
    /// In the order of their rules: an included file stands before the one that includes it.
    pub(crate) files: Vec<WrittenFile>,
}

/// What was read, and how much.
#[derive(Debug)]
pub(crate) struct RuleFiles {
    pub(crate) layers: Vec<WrittenLayer>,
    pub(crate) bytes: usize,
}

impl RuleFiles {
    /// Whether programs can ask for connections, by name.
    pub(crate) fn listens(&self) -> bool {
        let mut files = self.layers.iter().flat_map(|layer| &layer.files);
        files.any(|file| !file.entries.is_empty() || !file.tunnels.is_empty())
    }
}

/// Reads all files of `layers`. `first`: the text of the very first, if it is at hand. `None`: one could not be read, and it was
/// noted; what the others mean cannot be said without it.
pub(crate) fn read(
    layers: &[Layer],
    first: Option<&str>,
    files: &mut dyn Files,
    findings: &mut Findings,
) -> Option<RuleFiles> {
    let mut reader = Reader {
        files,
        findings,
        at_hand: first,
        seen: HashMap::new(),
        bytes: 0,
        allowance: Allowance::default(),
        failed: false,
    };
    let layers = layers
        .iter()
        .map(|layer| {
            let mut files = Vec::new();
            for path in &layer.files {
                reader.read(path.clone(), None, &mut files);
            }
            WrittenLayer {
                author: layer.author,
                files,
            }
        })
        .collect();
    (!reader.failed).then_some(RuleFiles {
        layers,
        bytes: reader.bytes,
    })
}

/// Where a file is included, and how deep.
#[derive(Debug, Clone, Copy)]
struct Included {
    at: Place,
    depth: usize,
}

struct Reader<'a> {
    files: &'a mut dyn Files,
    findings: &'a mut Findings,
    at_hand: Option<&'a str>,
    /// What was read, by its own path, and where it was included.
    seen: HashMap<PathBuf, Option<Place>>,
    bytes: usize,
    allowance: Allowance,
    failed: bool,
}

impl Reader<'_> {
    fn read(&mut self, path: PathBuf, included: Option<Included>, into: &mut Vec<WrittenFile>) {
        let own = self.files.own_path(&path).unwrap_or_else(|| path.clone());
        if let Err(fault) = self.may_read(&own, included) {
            return self.fail(&path, included, fault);
        }
        self.seen.insert(own, included.map(|it| it.at));
        let text = match self.text(&path) {
            Ok(text) => text,
            Err(fault) => return self.fail(&path, included, fault),
        };
        let number = self.findings.add_source(&path, &text);
        let root = match document::read(&text, number, &mut self.allowance) {
            Ok(root) => root,
            Err((place, fault)) => {
                self.findings.error(place, fault);
                self.failed = true;
                return;
            }
        };
        let mut written = written::read(root, self.findings);
        let depth = included.map_or(0, |it| it.depth) + 1;
        for At { place: at, value } in std::mem::take(&mut written.include) {
            self.read(beside(&path, &value), Some(Included { at, depth }), into);
        }
        into.push(written);
    }

    fn may_read(&self, path: &Path, included: Option<Included>) -> Result<(), Fault> {
        if let Some(before) = self.seen.get(path) {
            let fault = Fault::new(format!("{} is read already", path.display()));
            return Err(match before {
                Some(place) => {
                    fault.hint(format!("it is included at {}", self.findings.at(*place)))
                }
                None => fault.hint("a file is read once, and does not include itself"),
            });
        }
        if included.is_some_and(|it| it.depth >= DEEPEST) {
            let fault = Fault::new("too many files include one another");
            return Err(fault.hint(format!("at most {DEEPEST} deep")));
        }
        if self.seen.len() == MOST_FILES {
            return Err(Fault::new(format!(
                "there are more than {MOST_FILES} rule files"
            )));
        }
        Ok(())
    }

    fn text(&mut self, path: &Path) -> Result<String, Fault> {
        let room = LARGEST - self.bytes;
        let text = match self.at_hand.take() {
            Some(text) => text.to_owned(),
            None => self
                .files
                .read(path, room)
                .map_err(|why| Fault::new(format!("{} cannot be read: {why}", path.display())))?,
        };
        if text.len() > room {
            let fault = match self.bytes {
                0 => Fault::new(format!("the file has {} bytes", text.len())),
                _ => Fault::new("the rule files are too large together"),
            };
            return Err(fault.hint(format!("at most {LARGEST} are read")));
        }
        self.bytes += text.len();
        Ok(text)
    }

    fn fail(&mut self, path: &Path, included: Option<Included>, fault: Fault) {
        self.failed = true;
        let place = match included {
            Some(Included { at, .. }) => at,
            None => Place {
                file: self.findings.add_source(path, ""),
                line: 1,
                column: 1,
                length: 1,
            },
        };
        self.findings.error(place, fault);
    }
}
