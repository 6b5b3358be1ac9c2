//! Warnings of what cannot be known of a captured flow in this version, so that nobody waits for a match in vain.

use crate::application::Fact;
use crate::clause::{Applications, Clause};
use crate::diagnostics::{Fault, Findings};
use crate::targets::Targets;
use crate::written::At;
use crate::written_pattern::WrittenPattern;

/// What no broker looks up in this version: of a captured flow it counts as not known.
const NOT_LOOKED_UP: &[Fact] = &[Fact::Cgroup, Fact::Script, Fact::Ancestors, Fact::Sha256];

/// Warns of facts about applications that no broker looks up.
pub(crate) fn warn_of_facts(
    written: &[At<WrittenPattern>],
    applications: &Applications,
    findings: &mut Findings,
) {
    let all = applications
        .any
        .iter()
        .chain(applications.none_of.iter().flatten());
    let fact = all
        .flat_map(Clause::asks_for)
        .find(|fact| NOT_LOOKED_UP.contains(fact));
    let (Some(fact), Some(first)) = (fact, written.iter().find(|at| asks_for_facts(&at.value)))
    else {
        return;
    };
    let fault = Fault::new(format!(
        "in this version {} of an application is not looked up, so it counts as not known",
        key_of(fact)
    ));
    let hint = "it satisfies no pattern, and a `not` that asks for it blocks";
    findings.warning(first.place, fault.hint(hint));
}

fn asks_for_facts(pattern: &WrittenPattern) -> bool {
    match pattern {
        WrittenPattern::Text(text) => text.starts_with('@'),
        WrittenPattern::Regex(_) => false,
        WrittenPattern::Facts(_) | WrittenPattern::Not(_) => true,
    }
}

/// As the rule file calls it.
pub(crate) fn key_of(fact: Fact) -> &'static str {
    match fact {
        Fact::Path => "the path",
        Fact::Cgroup => "the unit",
        Fact::Script => "the script",
        Fact::Ancestors => "the parent",
        Fact::Sha256 => "the sha256",
    }
}

/// Captured flows have no name as long as nothing tells the broker which name an address was looked up for.
pub(crate) fn warn_of_names(
    written: &[At<WrittenPattern>],
    targets: &Targets,
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
    if !targets.any.names.is_empty()
        && let Some((place, name)) = first(written)
    {
        let consequence = if targets.any.addresses.is_empty() && targets.none_of.is_none() {
            "so this rule matches none of them"
        } else {
            "so only the addresses of this rule match them"
        };
        findings.warning(
            place,
            nameless(&name, consequence).hint("give the addresses behind the name"),
        );
    }
    if targets.excludes_names()
        && let Some((place, name)) = written.iter().find_map(|at| first(at.value.under_not()))
    {
        let consequence = "so the `not` cannot be answered, and this rule blocks them";
        findings.warning(
            place,
            nameless(&name, consequence).hint("give the addresses behind the name"),
        );
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
