//! Named lists: `sets:`.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use smol_str::SmolStr;

use crate::diagnostics::{Fault, Place};
use crate::findings::Findings;
use crate::first_few;
use crate::programs::AtPath;
use crate::set_file;
use crate::targets::Targets;
use crate::written::At;
use crate::written_pattern::WrittenPattern;

/// Bytes of a file with a set.
pub(crate) const LARGEST_FILE: usize = 16 * 1024 * 1024;
/// Files with sets.
const MOST_FILES: usize = 256;
/// Entries of sets that are read again, because a set is used once more and not as the whole of a `to`: about 100 ms.
const MOST_AGAIN: usize = 100_000;
/// Bytes of a set's name.
const LONGEST_NAME: usize = 64;

/// Where files that a rule file names are read from: the one thing that this crate does not do itself.
pub trait Files {
    /// The text of a file of at most `at_most` bytes. `path` is absolute, or relative to where the rule file's own path is.
    ///
    /// # Errors
    ///
    /// Why there is none, in a few words.
    fn read(&mut self, path: &Path, at_most: usize) -> Result<String, String>;

    /// The one path of the file at `path`, however it was written. `None`: it is not known, and files are told apart by how they
    /// were written.
    fn own_path(&mut self, path: &Path) -> Option<PathBuf> {
        let _ = path;
        None
    }

    /// What is at the path of a program that a rule names. `None`: nobody looks, as when rules are read for another host.
    fn program(&mut self, path: &Path) -> Option<AtPath> {
        let _ = path;
        None
    }
}

impl<F: FnMut(&Path, usize) -> Result<String, String>> Files for F {
    fn read(&mut self, path: &Path, at_most: usize) -> Result<String, String> {
        self(path, at_most)
    }
}

/// A set as it was written.
#[derive(Debug)]
pub(crate) struct WrittenSet {
    pub(crate) name: At<SmolStr>,
    pub(crate) content: SetContent,
}

/// What is in a set.
#[derive(Debug)]
pub(crate) enum SetContent {
    /// Its entries.
    Inline(Vec<At<WrittenPattern>>),
    /// The name of a file.
    File(At<SmolStr>),
    /// It was wrong, and noted.
    Wrong,
}

/// The sets that rules can name.
#[derive(Debug, Default)]
pub(crate) struct Sets {
    by_name: BTreeMap<SmolStr, Set>,
    again: usize,
    opened: usize,
}

#[derive(Debug)]
struct Set {
    place: Place,
    /// `None`: it was wrong, and noted.
    entries: Option<Arc<[At<WrittenPattern>]>>,
    is_of_a_file: bool,
    /// As the whole of a `to:`, once it was.
    targets: Option<Arc<Targets>>,
    is_used: Cell<bool>,
}

impl Sets {
    /// Reads what is written, the files too, and adds it.
    pub(crate) fn add(
        &mut self,
        written: Vec<WrittenSet>,
        files: &mut dyn Files,
        findings: &mut Findings,
    ) {
        for WrittenSet { name, content } in written {
            if let Err(fault) = is_name(&name.value) {
                findings.error(name.place, fault);
            }
            if let Some(before) = self.by_name.get(&name.value) {
                let fault = Fault::new(format!("the set {:?} is defined already", name.value));
                let hint = format!("it stands at {}", findings.at(before.place));
                findings.error(name.place, fault.hint(hint));
                continue;
            }
            let is_of_a_file = matches!(content, SetContent::File(_));
            let entries = match content {
                SetContent::Inline(entries) => Some(entries),
                SetContent::Wrong => None,
                SetContent::File(file) => {
                    self.opened += 1;
                    if self.opened <= MOST_FILES {
                        set_file::read(&file, files, findings)
                    } else {
                        let fault = Fault::new(format!("more than {MOST_FILES} sets are in files"));
                        findings.error(file.place, fault);
                        None
                    }
                }
            };
            if entries.as_ref().is_some_and(Vec::is_empty) {
                let fault = Fault::new(format!("the set {:?} is empty", name.value));
                findings.warning(
                    name.place,
                    fault.hint("a rule that names it alone matches nothing, and under `not` it is an error"),
                );
            }
            let entries = entries.filter(|entries| has_no_sets(entries, findings));
            self.by_name.insert(
                name.value,
                Set {
                    place: name.place,
                    entries: entries.map(Arc::from),
                    is_of_a_file,
                    targets: None,
                    is_used: Cell::new(false),
                },
            );
        }
    }

    /// The set that `pattern` names, if it does.
    pub(crate) fn named<'a>(&self, pattern: &'a WrittenPattern) -> Option<&'a str> {
        match pattern {
            WrittenPattern::Text(text) => text.strip_prefix('@'),
            WrittenPattern::Regex(_) | WrittenPattern::Not(_) | WrittenPattern::Facts(_) => None,
        }
    }

    /// Whether one of these names, or has somewhere inside, a set whose entries are in a file.
    pub(crate) fn are_of_a_file(&self, written: &[At<WrittenPattern>]) -> bool {
        written.iter().any(|at| match &at.value {
            WrittenPattern::Text(_) => {
                let set = self
                    .named(&at.value)
                    .and_then(|name| self.by_name.get(name));
                set.is_some_and(|set| set.is_of_a_file)
            }
            WrittenPattern::Regex(_) => false,
            WrittenPattern::Not(entries) => self.are_of_a_file(entries),
            WrittenPattern::Facts(keys) => {
                let mut lists = keys.iter().map(|(_, list)| list);
                lists.any(|list| self.are_of_a_file(list))
            }
        })
    }

    /// The entries of the set of this name.
    pub(crate) fn entries(
        &mut self,
        name: &str,
        place: Place,
        findings: &mut Findings,
    ) -> Option<Arc<[At<WrittenPattern>]>> {
        let Some(set) = self.by_name.get(name) else {
            findings.error_of(place, |findings| self.unknown(name, findings));
            return None;
        };
        let again = set.is_used.replace(true);
        let entries = set.entries.clone()?;
        if again {
            self.again = self.again.saturating_add(entries.len());
        }
        if self.again > MOST_AGAIN {
            findings.error_of(place, |_| {
                let fault =
                    Fault::new("the sets of this file are too large for how often they are used");
                fault.hint("name a large set alone in `to`: that may be done as often as you like")
            });
            return None;
        }
        Some(entries)
    }

    /// What the set is as the whole of a `to:`, if it was one before.
    pub(crate) fn targets(&self, name: &str) -> Option<Arc<Targets>> {
        self.by_name.get(name)?.targets.clone()
    }

    /// Remembers what the set is as the whole of a `to:`.
    pub(crate) fn keep_targets(&mut self, name: String, targets: &Arc<Targets>) {
        if let Some(set) = self.by_name.get_mut(name.as_str()) {
            set.targets = Some(Arc::clone(targets));
        }
    }

    /// Warns of sets that no rule names.
    pub(crate) fn warn_of_unused(&self, findings: &mut Findings) {
        for (name, set) in &self.by_name {
            if !set.is_used.get() {
                findings.warning_of(set.place, |_| {
                    let fault = Fault::new(format!("nothing uses the set {name:?}"));
                    fault.hint(format!("name it in a rule: \"@{name}\""))
                });
            }
        }
    }

    fn unknown(&self, name: &str, findings: &mut Findings) -> Fault {
        let fault = Fault::new(format!("no set is called {name:?}"));
        let names = self.by_name.keys().map(SmolStr::as_str);
        match findings.suggest(name, names.clone()) {
            Some(meant) => fault.hint(format!("did you mean \"@{meant}\"?")),
            None if self.by_name.is_empty() => {
                fault.hint("define it under `sets:`; names of users and groups have no `@`")
            }
            None => {
                let names = names.map(str::to_owned);
                fault.hint(format!("the sets are {}", first_few::list(names)))
            }
        }
    }
}

fn is_name(name: &str) -> Result<(), Fault> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(is_plain) {
        return Ok(());
    }
    Err(
        Fault::new(format!("{name:?} cannot be the name of a set")).hint(format!(
            "take 1 to {LONGEST_NAME} letters, digits, `-`, `_` and `.`"
        )),
    )
}

fn has_no_sets(entries: &[At<WrittenPattern>], findings: &mut Findings) -> bool {
    let mut sets = entries.iter().filter(
        |at| matches!(&at.value, WrittenPattern::Text(text) if text.starts_with('@') || text == "any"),
    );
    let Some(first) = sets.next() else {
        return true;
    };
    let fault = Fault::new("a set has patterns alone, no other set and not `any`");
    findings.error(
        first.place,
        fault.hint("name several sets in the rule: [\"@a\", \"@b\"]"),
    );
    false
}
