//! Warnings of what cannot be known of a captured flow in this version, so that nobody waits for a match in vain.

use crate::diagnostics::Fault;
use crate::findings::Findings;
use crate::targets::Targets;
use crate::written::At;
use crate::written_pattern::WrittenPattern;

const THROUGH_ENTRIES: &str = "those that come through `entries` and `tunnels` have one";
const GIVE_ADDRESSES: &str = "give the addresses behind the name";

/// Captured flows have no name as long as nothing tells the broker which name an address was looked up for.
pub(crate) fn warn_of_names(
    written: &[At<WrittenPattern>],
    targets: &Targets,
    has_names: bool,
    findings: &mut Findings,
) {
    let is_name = |at: &&At<WrittenPattern>| match &at.value {
        WrittenPattern::Text(text) => {
            !text.starts_with('@') && crate::address::parse(text).is_none()
        }
        WrittenPattern::Regex(_) => true,
        WrittenPattern::Not(_) | WrittenPattern::Facts(_) => false,
    };
    let is_set = |at: &&At<WrittenPattern>| matches!(&at.value, WrittenPattern::Text(text) if text.starts_with('@'));
    let first = |list: &[At<WrittenPattern>]| {
        let place = |at: &At<WrittenPattern>| (at.place, at.value.to_string());
        list.iter()
            .find(is_name)
            .or_else(|| list.iter().find(is_set))
            .map(place)
    };
    warn_of_no_address(written, targets, has_names, findings);
    if !targets.any.names.is_empty()
        && let Some((place, name)) = first(written)
    {
        let consequence = if targets.any.addresses.is_empty() && targets.none_of.is_none() {
            "so this rule matches none of them"
        } else {
            "so only the addresses of this rule match them"
        };
        let fault = |_: &mut Findings| nameless(&name, consequence);
        match has_names {
            true => findings.note_of(place, |it| fault(it).hint(THROUGH_ENTRIES)),
            false => findings.warning_of(place, |it| fault(it).hint(GIVE_ADDRESSES)),
        }
    }
    if targets.excludes_names()
        && let Some((place, name)) = written.iter().find_map(|at| first(at.value.under_not()))
    {
        let consequence = "so the `not` cannot be answered, and this rule blocks them";
        findings.warning_of(place, |_| nameless(&name, consequence).hint(GIVE_ADDRESSES));
    }
}

/// Such a `not` leaves only flows of no known address, which have a name.
fn warn_of_no_address(
    written: &[At<WrittenPattern>],
    targets: &Targets,
    has_names: bool,
    findings: &mut Findings,
) {
    let is_not = |at: &&At<WrittenPattern>| matches!(at.value, WrittenPattern::Not(_));
    let Some(not) = written
        .iter()
        .find(is_not)
        .filter(|_| targets.excludes_every_address())
    else {
        return;
    };
    let fault = Fault::new(
        "this `not` excludes every address, and in this version captured flows have no name, so this rule matches none of them",
    );
    match has_names {
        true => findings.note(not.place, fault.hint(THROUGH_ENTRIES)),
        false => findings.warning(not.place, fault.hint("leave the rule out")),
    }
}

fn nameless(name: &str, consequence: &str) -> Fault {
    let what = match name.strip_prefix('@') {
        Some(_) => format!("{name} has names"),
        None => format!("{name} is a name"),
    };
    Fault::new(format!(
        "{what}, and in this version captured flows have none, {consequence}"
    ))
}
