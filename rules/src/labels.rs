//! What rules and static tunnels are called: no two alike, in whichever files they stand.

use std::collections::HashMap;
use std::path::PathBuf;

use smol_str::{SmolStr, format_smolstr};

use crate::diagnostics::{Fault, Place};
use crate::findings::Findings;
use crate::policy::DEFAULT;
use crate::written::WrittenRule;
use crate::written_entrances::WrittenTunnel;

/// The labels of rules.
#[derive(Debug)]
pub(crate) struct Labels {
    /// Where each name is; what decides when no rule matches stands nowhere.
    places: HashMap<SmolStr, Option<(&'static str, Place)>>,
    /// Rules without a name, in the order of their files and positions.
    unnamed: Vec<(u16, usize, Place)>,
    /// What rules without a name are called after, of each file; empty where there is but one.
    files: Vec<String>,
}

impl Labels {
    /// Of rules in these files.
    pub(crate) fn new(rule_files: &[PathBuf]) -> Self {
        Self {
            places: HashMap::from([(DEFAULT.into(), None)]),
            unnamed: Vec::new(),
            files: file_labels(rule_files),
        }
    }

    /// Adds the rules and static tunnels of a layer, and refuses names that are taken.
    pub(crate) fn add<'w, R: Iterator<Item = &'w WrittenRule>>(
        &mut self,
        written: impl Fn() -> R,
        tunnels: impl Iterator<Item = &'w WrittenTunnel>,
        findings: &mut Findings,
    ) {
        let unnamed = written().filter(|rule| rule.name.is_none());
        self.unnamed
            .extend(unnamed.map(|rule| (rule.place.file, rule.position, rule.place)));
        self.unnamed
            .sort_by_key(|(file, position, _)| (*file, *position));
        let of_rules = written().filter_map(|rule| rule.name.as_ref());
        let names = of_rules.map(|name| ("rule", name));
        for (what, name) in names.chain(tunnels.map(|tunnel| ("tunnel", &tunnel.name))) {
            let here = Some((what, name.place));
            let before = self.places.insert(name.value.clone(), here);
            let unnamed = || self.called_by_position(&name.value);
            let Some(first) = before.or_else(|| unnamed().map(|place| Some(("rule", place))))
            else {
                continue;
            };
            let fault = Fault::new(format!("the name {:?} is taken", name.value));
            let hint = match first {
                Some((what, first)) => {
                    let at = findings.seen_from(name.place, first);
                    format!("the {what} in {at} is called so")
                }
                None => "what decides when no rule matches is called so".to_owned(),
            };
            findings.error(name.place, fault.hint(hint));
        }
    }

    /// Its name, or its position.
    pub(crate) fn of(&self, rule: &WrittenRule) -> SmolStr {
        match &rule.name {
            Some(name) => name.value.clone(),
            None => self.by_position(rule.place.file, rule.position),
        }
    }

    fn by_position(&self, file: u16, position: usize) -> SmolStr {
        match self.files.get(usize::from(file)) {
            None => format_smolstr!("rule {position}"),
            Some(file) => format_smolstr!("rule {position} of {file}"),
        }
    }

    /// Where the rule without a name is that is called so.
    fn called_by_position(&self, label: &str) -> Option<Place> {
        let rest = label.strip_prefix("rule ")?;
        let digits = rest.find(|it: char| !it.is_ascii_digit());
        let position = rest[..digits.unwrap_or(rest.len())].parse().ok()?;
        let file = match rest.split_once(" of ") {
            None => 0,
            Some((_, file)) => self.files.iter().position(|it| it == file)?,
        };
        let file = u16::try_from(file).ok()?;
        let found = self
            .unnamed
            .binary_search_by_key(&(file, position), |(file, position, _)| (*file, *position))
            .ok()?;
        let is_called_so = self.by_position(file, position) == label;
        self.unnamed
            .get(found)
            .filter(|_| is_called_so)
            .map(|(.., place)| *place)
    }
}

/// What rules without a name are called after: the names of their files, where these tell one from the other.
fn file_labels(rule_files: &[PathBuf]) -> Vec<String> {
    if rule_files.len() < 2 {
        return Vec::new();
    }
    let mut names = HashMap::new();
    for file in rule_files {
        *names.entry(file.file_name()).or_insert(0) += 1;
    }
    let label = |file: &PathBuf| match file.file_name() {
        Some(name) if names.get(&Some(name)) == Some(&1) => name.to_string_lossy().into_owned(),
        Some(_) | None => file.to_string_lossy().into_owned(),
    };
    rule_files.iter().map(label).collect()
}
