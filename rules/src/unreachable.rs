//! What is said of rules that can never match.

use crate::diagnostics::{Fault, Findings, Place};
use crate::index::Index;
use crate::policy::matches_everything;
use crate::rule::Rule;
use crate::shadow;

/// Patterns that are compared for whether one rule shadows another: about 50 ms, …
const LEAST_PATIENCE: usize = 1_500_000;
/// … and for each byte of the file, which makes 20 ms for a mebibyte.
const PATIENCE_PER_BYTE: usize = 1;

/// Refuses rules that can never match. `bytes`: how long their files are. `layers`: how many rules there are up to the end of each
/// layer. What an earlier layer takes from a later one is only warned of: who wrote the later one cannot know what the earlier one
/// will say tomorrow, and that must not be refused because of it.
pub(crate) fn check(
    rules: &[Rule],
    index: &Index,
    layers: &[usize],
    places: &[Place],
    bytes: usize,
    findings: &mut Findings,
) {
    let patience = LEAST_PATIENCE + bytes.saturating_mul(PATIENCE_PER_BYTE);
    let layer_of = |position: usize| layers.partition_point(|end| *end <= position);
    let mut search = shadow::Search::new(rules, index, patience);
    for position in 0..rules.len() {
        let Ok(shadows) = search.shadows_of(position) else {
            let fault = Fault::new("from here on, rules that can never match are not found");
            let hint = "too many rules before this one can only be compared one by one: globs, expressions, `not`, or the same hosts";
            findings.warning(places[position], fault.hint(hint));
            return;
        };
        let names: Vec<String> = shadows
            .iter()
            .map(|&it| {
                let at = findings.seen_from(places[position], places[it]);
                format!("{:?} ({at})", rules[it].label)
            })
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
        // A list that somebody else let grow must not make the file a wrong one.
        let by_a_file = shadows
            .iter()
            .chain([&position])
            .any(|&it| rules[it].is_of_a_file);
        let by_one_layer = shadows.iter().all(|&it| layer_of(it) == layer_of(position));
        match by_a_file || !by_one_layer {
            true => findings.warning(places[position], fault),
            false => findings.error(places[position], fault),
        }
    }
}
