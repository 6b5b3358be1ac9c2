//! `adit replay`: what other rules would have given for the connections of the past.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use adit_broker::decision_log::{self, Record};
use adit_broker::replay::{Change, Given, NO_SUCH_TUNNEL, Replay, Untold, replay};
use adit_broker::rule_sources::RuleSources;
use adit_broker::user::User;
use adit_rules::Policy;
use anyhow::Context;
use jiff::Timestamp;
use nix::unistd::Uid;

use super::Failure;
use super::check::{absolute, read_rules};
use crate::command_line;
use crate::{default_paths, output};

pub(crate) fn run(options: command_line::Replay) -> Result<(), Failure> {
    let named = absolute(Some(options.rules.clone()))?;
    let sources = RuleSources::new(named, None, &User::current()?);
    let policy = read_rules(&sources)?.0.policy;
    let user = User::by_uid(default_paths::usual_user())?;
    let directory = options.state.decisions(&user);
    let mut decisions = decision_log::read(&directory)
        .with_context(|| format!("no decisions that could be read in {}", directory.display()))?;
    if let Some(since) = options.since {
        decisions.records.retain(|record| record.time >= since);
    }
    let policies = Policies::of(&policy, &decisions.records)?;
    let replayed = replay(&decisions.records, |record| policies.policy_for(record));
    let file = options.rules.display().to_string();
    if options.form.json {
        output::json(&serde_json::json!({
            "file": file,
            "since": options.since,
            "summary": replayed.summary(),
            "unreadable": decisions.unreadable,
            "replay": replayed,
        }))?;
    } else {
        show(&replayed, &file, decisions.unreadable);
    }
    Ok(())
}

/// The rules as they are for each user of whom something is recorded.
struct Policies {
    by_uid: HashMap<u32, Policy>,
    anybody: Policy,
}

impl Policies {
    fn of(policy: &Policy, records: &[Record]) -> anyhow::Result<Self> {
        let mut by_uid = HashMap::new();
        for record in records {
            if let Entry::Vacant(place) = by_uid.entry(record.uid) {
                let user = User::by_uid(Uid::from_raw(record.uid))?.of_rules()?;
                place.insert(policy.for_user(user));
            }
        }
        Ok(Self {
            by_uid,
            anybody: policy.clone(),
        })
    }

    fn policy_for(&self, record: &Record) -> &Policy {
        self.by_uid.get(&record.uid).unwrap_or(&self.anybody)
    }
}

fn show(replayed: &Replay, file: &str, unreadable: usize) {
    output::line(format_args!("{}", replayed.summary()));
    for change in &replayed.changes {
        output::line(format_args!("{}", describe(change, file)));
    }
    for untold in &replayed.untold {
        output::line(format_args!("{}", describe_untold(untold)));
    }
    if unreadable > 0 {
        output::line(format_args!("{unreadable} lines of the log can't be read"));
    }
}

fn describe(change: &Change, file: &str) -> String {
    let line = change.to.line.map(|line| format!(" ({file}:{line})"));
    let what = what(
        change.application.as_deref(),
        &change.destination,
        change.count,
    );
    let to = match change.to.no_such_tunnel {
        true => NO_SUCH_TUNNEL.to_owned(),
        false => format!("{}, by {:?}", given(&change.to), change.to.rule),
    };
    format!(
        "{what}: {}, by {:?} → {to}{}",
        given(&change.from),
        change.from.rule,
        line.unwrap_or_default()
    )
}

fn describe_untold(untold: &Untold) -> String {
    let what = what(
        untold.application.as_deref(),
        &untold.destination,
        untold.count,
    );
    format!(
        "{what}: cannot be told, as its `{}` was not recorded",
        untold.needs
    )
}

fn what(application: Option<&str>, destination: &str, count: usize) -> String {
    let application = output::printable(application.unwrap_or("unknown"));
    format!("  {count} × {application} to {destination}")
}

fn given(given: &Given) -> String {
    match &given.zone {
        Some(zone) => format!("{} {zone}", given.action),
        None => given.action.clone(),
    }
}

/// Reads `90m`, `1h`, `2d`, or a time as RFC 3339 has it.
pub(crate) fn since(text: &str) -> Result<Timestamp, String> {
    since_before(text, Timestamp::now())
}

fn since_before(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let wrong =
        || format!("{text:?} is neither a while like 90m, 1h or 2d nor a time like {now:.0}");
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let unit = text.chars().next_back().ok_or_else(wrong)?;
    let seconds: i64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let count = &text[..text.len() - unit.len_utf8()];
    let is_plain = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
    let count: i64 = count.parse().ok().filter(|_| is_plain).ok_or_else(wrong)?;
    let ago = count.checked_mul(seconds).ok_or_else(wrong)?;
    now.checked_sub(jiff::SignedDuration::from_secs(ago))
        .map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_people_write_them() {
        let now: Timestamp = "2026-07-03T12:00:00Z".parse().unwrap();
        let check = |text: &str, expected: Option<&str>| {
            let expected = expected.map(|time| time.parse::<Timestamp>().unwrap());
            assert_eq!(since_before(text, now).ok(), expected, "{text}");
        };
        check("1h", Some("2026-07-03T11:00:00Z"));
        check("90m", Some("2026-07-03T10:30:00Z"));
        check("45s", Some("2026-07-03T11:59:15Z"));
        check("2d", Some("2026-07-01T12:00:00Z"));
        check("2026-07-01T08:00:00+02:00", Some("2026-07-01T06:00:00Z"));
        for text in [
            "",
            "h",
            "1",
            "-1h",
            "1w",
            "1.5h",
            "yesterday",
            "99999999999999d",
            "ü",
        ] {
            check(text, None);
        }
    }
}
