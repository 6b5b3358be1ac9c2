//! What is said of rules that can never match.

use crate::diagnostics::{Fault, Place};
use crate::findings::Findings;
use crate::index::Index;
use crate::policy::matches_everything;
use crate::rule::Rule;
use crate::shadow;

/// Patterns that are compared for whether one rule shadows another: about 50 ms, …
const LEAST_PATIENCE: usize = 1_500_000;
/// … and for each byte of the file, which makes 20 ms for a mebibyte.
const PATIENCE_PER_BYTE: usize = 1;
/// In a file with other errors, which are to be mended first: about 2 ms, …
const PATIENCE_BESIDE_ERRORS: usize = 50_000;
/// … and one for so many bytes, which makes 8 ms for a mebibyte.
const BYTES_BESIDE_ERRORS: usize = 4;

/// So many rules are searched beside other errors.
const MOST_BESIDE_ERRORS: usize = 10_000;

/// Whether rules that can never match are looked for; where they are not, warns of it.
pub(crate) fn are_found(rules: &[Rule], places: &[Place], findings: &mut Findings) -> bool {
    match places.first() {
        Some(place) if findings.failed() && rules.len() > MOST_BESIDE_ERRORS => {
            let fault = Fault::new("rules that can never match are not found");
            findings.warning(*place, fault.hint("mend the errors first"));
            false
        }
        Some(_) | None => true,
    }
}

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
    let patience = match findings.failed() {
        false => LEAST_PATIENCE + bytes.saturating_mul(PATIENCE_PER_BYTE),
        true => PATIENCE_BESIDE_ERRORS + bytes / BYTES_BESIDE_ERRORS,
    };
    let layer_of = |position: usize| layers.partition_point(|end| *end <= position);
    let mut search = shadow::Search::new(rules, index, patience);
    for position in 0..rules.len() {
        let Ok(shadows) = search.shadows_of(position) else {
            let fault = Fault::new("from here on, rules that can never match are not found");
            let hint = "too many rules before this one can only be compared one by one: globs, expressions, `not`, or the same hosts";
            findings.warning(places[position], fault.hint(hint));
            return;
        };
        if shadows.is_empty() {
            continue;
        }
        // A list that somebody else let grow must not make the file a wrong one.
        let by_a_file = shadows
            .iter()
            .chain([&position])
            .any(|&it| rules[it].is_of_a_file);
        let by_one_layer = shadows.iter().all(|&it| layer_of(it) == layer_of(position));
        let fault = |findings: &mut Findings| fault(rules, position, &shadows, places, findings);
        match by_a_file || !by_one_layer {
            true => findings.warning_of(places[position], fault),
            false => findings.error_of(places[position], fault),
        }
    }
}

/// That the rule at `position` can never match because of those before it.
fn fault(
    rules: &[Rule],
    position: usize,
    shadows: &[usize],
    places: &[Place],
    findings: &Findings,
) -> Fault {
    let fault = Fault::new(format!("{:?} can never match", rules[position].label));
    let name = |it: &usize| {
        let at = findings.seen_from(places[position], places[*it]);
        format!("{:?} ({at})", rules[*it].label)
    };
    match shadows {
        [one] if matches_everything(&rules[*one]) => {
            fault.hint(format!("{} takes every flow before it", name(one)))
        }
        [one] => fault.hint(format!("{} takes all its flows before it", name(one))),
        several => {
            let several: Vec<String> = several.iter().map(name).collect();
            let several = several.join(", ");
            fault.hint(format!(
                "together these take all its flows before it: {several}"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{Date, Policy};

    #[test]
    fn many_rules_are_not_searched_beside_other_errors() {
        let told = |rules: usize, more: &str| {
            let rule = "  - {to: 192.0.2.1, action: pass}\n";
            let text = format!(
                "version: 1\ndefault: pass\n{more}rules:\n{}",
                rule.repeat(rules)
            );
            let today = Date::new(2026, 7, 1).unwrap();
            let mut none = |_: &Path, _: usize| Err("there is none".to_owned());
            let refused =
                Policy::parse(Path::new("rules.yaml"), &text, today, &mut none).unwrap_err();
            let can_never_match = refused
                .iter()
                .filter(|it| it.message().ends_with("can never match"))
                .count();
            (can_never_match, serde_json::to_string(&refused).unwrap())
        };
        assert_eq!(told(50, "nope: 1\n").0, 49);
        assert_eq!(told(MOST_BESIDE_ERRORS + 1, "").0, 100);
        let (found, all) = told(MOST_BESIDE_ERRORS + 1, "nope: 1\n");
        assert_eq!(found, 0);
        assert!(all.contains("rules that can never match are not found"));
    }
}
