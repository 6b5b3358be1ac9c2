//! What a rule is in doubt about, in words.

use std::fmt::Display;

use crate::application::{Application, Learned};
use crate::clause::{Applications, Clause};
use crate::destination::Destination;
use crate::first_few::list;
use crate::rule::{Matcher, Rule};
use crate::targets::Targets;
use crate::truth::{OneOf, Truth};

/// Which entry under the `not` of `matcher` cannot be answered, and what is not known.
pub(crate) fn because(
    rule: &Rule,
    matcher: Matcher,
    destination: &Destination,
    application: &Application,
) -> String {
    let people = rule.people.as_deref();
    let (entry, unknown) = match matcher {
        Matcher::User => (
            excluded(people.and_then(|it| it.users.as_ref())),
            "the user is not known",
        ),
        Matcher::Group => (
            excluded(people.and_then(|it| it.groups.as_ref())),
            "the user's groups are not known",
        ),
        Matcher::Target => of_host(rule.targets.as_deref(), destination),
        Matcher::Application | Matcher::Port | Matcher::Enabled | Matcher::Expires => {
            of_application(rule.applications.as_ref(), application)
        }
    };
    format!(
        "its `{}` has `not: {entry}`, and {unknown}: blocked",
        matcher.key()
    )
}

fn excluded<T: Display>(patterns: Option<&OneOf<T>>) -> String {
    let none_of = patterns.and_then(|it| it.none_of.as_deref());
    list(none_of.unwrap_or_default().iter().map(T::to_string))
}

fn of_host(targets: Option<&Targets>, destination: &Destination) -> (String, &'static str) {
    let none_of = targets.and_then(|it| it.none_of.as_ref());
    let name = none_of.and_then(|it| it.names.first_shown());
    let network = || {
        let networks = none_of?.addresses.networks();
        networks.first().map(ToString::to_string)
    };
    match (&destination.name, name) {
        (None, Some(name)) => (name, "the host's name is not known"),
        (_, name) => (
            network().or(name).unwrap_or_default(),
            "the host's address is not known",
        ),
    }
}

fn of_application(
    applications: Option<&Applications>,
    application: &Application,
) -> (String, &'static str) {
    let is_in_doubt = |clause: &&Clause| clause.truth(Some(application)) == Truth::Doubt;
    let clauses = applications.and_then(|it| it.none_of.as_deref());
    // An entry outside the list's own `not` is in doubt because of what it has under one itself.
    let of_entries = applications.iter().flat_map(|it| &it.any);
    let of_entries = of_entries
        .filter(|entry| entry.takes(Some(application)) == Truth::Doubt)
        .filter_map(|entry| match entry {
            Clause::Facts(patterns) => patterns.none_of.as_deref(),
            Clause::Unknown | Clause::Path(_) => None,
        });
    let mut clauses = clauses.into_iter().chain(of_entries).flatten();
    match clauses.find(is_in_doubt) {
        Some(clause) => (clause.to_string(), lacking(clause, application)),
        None => (String::new(), "the application is not known"),
    }
}

/// What of `application` `clause` asks for in vain.
fn lacking(clause: &Clause, application: &Application) -> &'static str {
    let (Application::Known(facts), Clause::Facts(patterns)) = (application, clause) else {
        return "the application is not known";
    };
    let has_all_parents = matches!(&facts.ancestors, Learned::Is(all) if all.complete);
    if patterns.unit.is_some() && !matches!(facts.cgroup, Learned::Is(_)) {
        "its unit is not known"
    } else if patterns.script.is_some() && !matches!(facts.script, Learned::Is(_)) {
        "its script is not known"
    } else if patterns.parent.is_some() && !has_all_parents {
        "not all its parents are known"
    } else {
        "the hash of its binary is not known"
    }
}
