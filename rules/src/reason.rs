//! What an explanation says of one rule.

use std::fmt;

use crate::application::Application;
use crate::destination::Destination;
use crate::doubt;
use crate::first_few::list;
use crate::port;
use crate::rule::{Answer, Circumstances, Matcher, Rule, Validity};
use crate::truth::OneOf;

/// The one sentence about a rule.
pub(crate) fn because(
    rule: &Rule,
    answer: Answer,
    destination: &Destination,
    application: &Application,
    circumstances: &Circumstances,
) -> String {
    let matcher = match answer {
        Answer::Yes | Answer::Needs(_) => return "it matches".to_owned(),
        Answer::Doubt(matcher) => {
            return doubt::because(rule, matcher, destination, application);
        }
        Answer::No(matcher) => matcher,
    };
    let people = rule.people.as_deref();
    let user = &circumstances.user;
    match matcher {
        Matcher::Enabled => "it is switched off".to_owned(),
        Matcher::Expires => match rule.validity {
            Validity::Until(last) => format!("it expired: {last} was its last day"),
            Validity::Always | Validity::Off => "it expired".to_owned(),
        },
        Matcher::User => {
            let users = people.and_then(|people| people.users.as_ref());
            format!("the user {user} is not in its `user` ({})", one_of(users))
        }
        Matcher::Group => {
            let groups = people.and_then(|people| people.groups.as_ref());
            format!(
                "the user {user} is in none of its `group` ({})",
                one_of(groups)
            )
        }
        Matcher::Target => {
            let targets = rule.targets.as_deref();
            let asks_for_names = targets.is_some_and(|it| !it.any.names.is_empty());
            let host = match (&destination.name, destination.address) {
                (Some(name), Some(address)) => format!("{name} ({address})"),
                (Some(name), None) => name.clone(),
                (None, Some(address)) if asks_for_names => {
                    format!("{address}, of no known name,")
                }
                (None, Some(address)) => address.to_string(),
                (None, None) => "a host that is not known".to_owned(),
            };
            let shown = targets.map_or("any", |targets| targets.shown.as_str());
            format!("{host} is not in its `to` ({shown})")
        }
        Matcher::Port => {
            let ports = list(port::show(&rule.ports));
            format!("port {} is not in its `ports` ({ports})", destination.port)
        }
        Matcher::Application => {
            let patterns = one_of(rule.applications.as_ref());
            format!("the application {application} is not in its `app` ({patterns})")
        }
    }
}

fn one_of<T: fmt::Display>(patterns: Option<&OneOf<T>>) -> String {
    let Some(patterns) = patterns else {
        return "any".to_owned();
    };
    let any = list(patterns.any.iter().map(T::to_string));
    match &patterns.none_of {
        None => any,
        Some(none_of) => {
            let rest = format!("all but {}", list(none_of.iter().map(T::to_string)));
            if any.is_empty() {
                rest
            } else {
                format!("{any}, {rest}")
            }
        }
    }
}
