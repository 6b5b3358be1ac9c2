//! What is said of rules that can never match.

use crate::diagnostics::{Fault, Findings, Place};
use crate::index::Index;
use crate::policy::matches_everything;
use crate::rule::Rule;
use crate::shadow;

/// Pairs of rules that are compared for whether one shadows the other: about a second.
const PATIENCE: usize = 30_000_000;

/// Refuses rules that can never match.
pub(crate) fn check(rules: &[Rule], index: &Index, places: &[Place], findings: &mut Findings) {
    let mut search = shadow::Search::new(rules, index, PATIENCE);
    for position in 0..rules.len() {
        let Ok(shadows) = search.shadows_of(position) else {
            let fault = Fault::new("from here on, rules that can never match are not found");
            let hint = "too many rules before this one are about the same hosts";
            findings.warning(places[position], fault.hint(hint));
            return;
        };
        let names: Vec<String> = shadows
            .iter()
            .map(|&it| format!("{:?} (line {})", rules[it].label, places[it].line))
            .collect();
        let fault = Fault::new(format!("{:?} can never match", rules[position].label));
        let fault = match names.as_slice() {
            [] => continue,
            [one] if matches_everything(&rules[shadows[0]]) => {
                fault.hint(format!("{one} takes every flow before it"))
            }
            [one] => fault.hint(format!("{one} takes all its flows before it")),
            several => {
                let several = several.join(", ");
                fault.hint(format!(
                    "together these take all its flows before it: {several}"
                ))
            }
        };
        findings.error(places[position], fault);
    }
}
