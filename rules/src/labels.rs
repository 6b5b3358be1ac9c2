//! What rules and static tunnels are called: no two alike, in whichever files they stand.

use std::collections::HashMap;
use std::path::PathBuf;

use crate::diagnostics::{Fault, Findings, Place};
use crate::policy::DEFAULT;
use crate::written::WrittenRule;
use crate::written_entrances::WrittenTunnel;

/// The labels of rules.
#[derive(Debug)]
pub(crate) struct Labels {
    /// Where each is; what decides when no rule matches stands nowhere.
    places: HashMap<String, Option<(&'static str, Place)>>,
    /// What rules without a name are called after, of each file; empty where there is but one.
    files: Vec<String>,
}

impl Labels {
    /// Of rules in these files.
    pub(crate) fn new(rule_files: &[PathBuf]) -> Self {
        Self {
            places: HashMap::from([(DEFAULT.to_owned(), None)]),
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
        for rule in written().filter(|rule| rule.name.is_none()) {
            let label = self.of(rule);
            self.places.insert(label, Some(("rule", rule.place)));
        }
        let of_rules = written().filter_map(|rule| rule.name.as_ref());
        let names = of_rules.map(|name| ("rule", name));
        for (what, name) in names.chain(tunnels.map(|tunnel| ("tunnel", &tunnel.name))) {
            let here = Some((what, name.place));
            let Some(first) = self.places.insert(name.value.clone(), here) else {
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
    pub(crate) fn of(&self, rule: &WrittenRule) -> String {
        let file = self.files.get(usize::from(rule.place.file));
        match (&rule.name, file) {
            (Some(name), _) => name.value.clone(),
            (None, None) => format!("rule {}", rule.position),
            (None, Some(file)) => format!("rule {} of {file}", rule.position),
        }
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
