//! What other rules would have given for the decisions of the past: by the same code that decides.

use std::collections::BTreeMap;

use adit_rules::{Application, Decision, Fact, Judgement, Policy};
use serde::Serialize;

use crate::accepted::Asked;
use crate::decision_log::Record;

/// What changes.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Replay {
    /// Decisions that were judged.
    pub judged: usize,
    /// Those that stay what they were.
    pub unchanged: usize,
    /// Those that become something else, the most frequent first.
    pub changes: Vec<Change>,
    /// Those of which too little was recorded, the most frequent first.
    pub untold: Vec<Untold>,
}

/// Decisions about one application and one destination that become the same something else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Change {
    /// Who opened them; null when that is not known.
    pub application: Option<String>,
    /// Where they went.
    pub destination: String,
    /// How many.
    pub count: usize,
    /// What they got.
    pub from: Given,
    /// What they would get.
    pub to: Given,
}

/// What rules give.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Given {
    /// `tunnel`, `pass` or `block`.
    pub action: String,
    /// The zone of a tunnel.
    pub zone: Option<String>,
    /// The rule.
    pub rule: String,
    /// Its line, of the rules that are judged by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// Whether it is blocked because nothing listens: the rules have no static tunnel of the name that `rule` is then.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_such_tunnel: bool,
}

/// Decisions of which it cannot be told what they would be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Untold {
    /// Who opened them, as far as known.
    pub application: Option<String>,
    /// Where they went.
    pub destination: String,
    /// How many.
    pub count: usize,
    /// What a rule asks for and nobody looked up then: `path`, `unit`, `script`, `parent` or `sha256`.
    pub needs: &'static str,
}

/// What became of a decision.
enum Outcome {
    Same,
    Changes(Given, Given),
    Untold(&'static str),
}

/// Judges `records` by the rules that `policy_of` gives for the user of each.
pub fn replay<'a>(records: &[Record], mut policy_of: impl FnMut(&Record) -> &'a Policy) -> Replay {
    let mut replay = Replay::default();
    let (mut changes, mut untold) = (BTreeMap::new(), BTreeMap::new());
    for record in records {
        replay.judged += 1;
        let application = record
            .application
            .as_ref()
            .map(|recorded| recorded.application());
        let shown = match &application {
            Some(Application::Known(facts)) => Some(facts.path.to_string_lossy().into_owned()),
            Some(Application::Unknown) | None => None,
        };
        let asked = record.asked();
        let key = (shown, asked.destination().to_string());
        let policy = policy_of(record);
        let outcome = outcome(record, policy, &asked, application.as_ref());
        match outcome {
            Outcome::Same => replay.unchanged += 1,
            Outcome::Changes(from, to) => *changes.entry((key, from, to)).or_insert(0) += 1,
            Outcome::Untold(needs) => *untold.entry((key, needs)).or_insert(0) += 1,
        }
    }
    let changes = changes.into_iter().map(|((key, from, to), count)| Change {
        application: key.0,
        destination: key.1,
        count,
        from,
        to,
    });
    replay.changes = changes.collect();
    replay
        .changes
        .sort_by_key(|change| std::cmp::Reverse(change.count));
    let untold = untold.into_iter().map(|((key, needs), count)| Untold {
        application: key.0,
        destination: key.1,
        count,
        needs,
    });
    replay.untold = untold.collect();
    replay
        .untold
        .sort_by_key(|untold| std::cmp::Reverse(untold.count));
    replay
}

fn outcome(
    record: &Record,
    policy: &Policy,
    asked: &Asked,
    application: Option<&Application>,
) -> Outcome {
    let decision = match asked.judge(policy, application) {
        Judgement::Decided(decision) => decision,
        Judgement::Needs(fact) => return Outcome::Untold(key_of(fact)),
    };
    let given = (record.action.as_str(), record.zone.as_deref());
    if (decision.action(), decision.zone()) == given {
        return Outcome::Same;
    }
    let from = Given {
        action: record.action.as_str().to_owned(),
        zone: record.zone.clone(),
        rule: record.rule.clone(),
        line: None,
        no_such_tunnel: false,
    };
    let line = line_of(policy, &decision, asked, application);
    let to = Given {
        action: decision.action().to_owned(),
        zone: decision.zone().map(str::to_owned),
        rule: decision.rule().to_owned(),
        line,
        no_such_tunnel: !has_tunnel(policy, asked),
    };
    Outcome::Changes(from, to)
}

/// Whether what the program connected to would be there.
fn has_tunnel(policy: &Policy, asked: &Asked) -> bool {
    match asked {
        Asked::Destination(_) => true,
        Asked::Tunnel { name, .. } => {
            let mut tunnels = policy.static_tunnels().iter();
            tunnels.any(|it| it.name() == name.as_ref())
        }
    }
}

/// A rule's place is only in the explanation, which says the same as the decision.
fn line_of(
    policy: &Policy,
    decision: &Decision,
    asked: &Asked,
    application: Option<&Application>,
) -> Option<usize> {
    let application = application.unwrap_or(&Application::Unknown);
    let explanation = policy.explain(asked.destination(), application);
    let is_same = explanation.decision().rule() == decision.rule();
    explanation.line().filter(|_| is_same)
}

/// As rules call the fact.
fn key_of(fact: Fact) -> &'static str {
    match fact {
        Fact::Path => "path",
        Fact::Cgroup => "unit",
        Fact::Script => "script",
        Fact::Ancestors => "parent",
        Fact::Sha256 => "sha256",
    }
}

impl Replay {
    /// One line: `4 tunnel→pass, 1 becomes blocked, 212 unchanged`.
    pub fn summary(&self) -> String {
        let mut kinds: Vec<(String, usize)> = Vec::new();
        for change in &self.changes {
            let kind = kind_of(change);
            match kinds.iter_mut().find(|(known, _)| *known == kind) {
                Some((_, count)) => *count += change.count,
                None => kinds.push((kind, change.count)),
            }
        }
        kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let mut parts: Vec<String> = kinds
            .into_iter()
            .map(|(kind, count)| match kind.as_str() {
                BLOCKED if count == 1 => "1 becomes blocked".to_owned(),
                BLOCKED => format!("{count} become blocked"),
                kind => format!("{count} {kind}"),
            })
            .collect();
        parts.push(format!("{} unchanged", self.unchanged));
        let untold: usize = self.untold.iter().map(|untold| untold.count).sum();
        if untold > 0 {
            parts.push(format!("{untold} cannot be told"));
        }
        parts.join(", ")
    }
}

const BLOCKED: &str = "blocked";
/// What becomes of a connection through a static tunnel that is not there.
pub const NO_SUCH_TUNNEL: &str = "no such tunnel";

fn kind_of(Change { from, to, .. }: &Change) -> String {
    match (from.action.as_str(), to.action.as_str()) {
        (from, _) if to.no_such_tunnel => format!("{from}→{NO_SUCH_TUNNEL}"),
        (_, "block") => BLOCKED.to_owned(),
        ("tunnel", "tunnel") => "through another zone".to_owned(),
        (from, to) => format!("{from}→{to}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision_log::RecordedApplication;
    use crate::flow_table::{Action, State};
    use adit_rules::Date;
    use std::path::Path;

    fn policy(rules: &str) -> Policy {
        read(&format!("rules:\n{rules}"))
    }

    fn read(rest: &str) -> Policy {
        let text = format!(
            "version: 1\nzones: {{a: {{gateways: x}}, b: {{gateways: y}}}}\ndefault: pass\n{rest}"
        );
        let today = Date::new(2026, 7, 1).unwrap();
        let mut none = |_: &Path, _: usize| Err("no file".to_owned());
        let checked = Policy::parse(Path::new("new.yaml"), &text, today, &mut none);
        checked.unwrap_or_else(|errors| panic!("{errors}")).policy
    }

    fn record(app: Option<&str>, address: &str, action: Action, zone: Option<&str>) -> Record {
        let application = app.map(|app| RecordedApplication::of(&Application::parse(app).unwrap()));
        Record {
            time: jiff::Timestamp::UNIX_EPOCH,
            flow: 1,
            address: Some(address.parse().unwrap()),
            name: None,
            port: 443,
            tunnel: None,
            application,
            user: "eve".to_owned(),
            uid: 1000,
            rule: "old".to_owned(),
            action,
            zone: zone.map(str::to_owned),
            state: State::Open,
            stage: None,
        }
    }

    #[test]
    fn exactly_what_changes() {
        let policy = policy(
            "  - {name: curl out, app: curl, to: 10.0.0.0/24, action: pass}\n  \
             - {name: shut, to: 10.0.1.0/24, action: block}\n  \
             - {name: by script, app: {path: python3, script: /opt/x}, to: 10.0.2.0/24, action: block}\n  \
             - {name: moved, to: 10.0.3.0/24, action: tunnel, zone: b}\n  \
             - {name: rest, to: 10.0.0.0/8, action: tunnel, zone: a}\n",
        );
        let curl = Some("/usr/bin/curl");
        let tunnel = |app, to| record(app, to, Action::Tunnel, Some("a"));
        let records = [
            tunnel(curl, "10.0.0.1"),
            tunnel(curl, "10.0.0.1"),
            tunnel(Some("/usr/bin/wget"), "10.0.0.1"),
            tunnel(Some("unknown"), "10.0.0.1"),
            tunnel(None, "10.0.0.1"),
            tunnel(None, "10.0.1.1"),
            tunnel(Some("/usr/bin/python3"), "10.0.2.1"),
            tunnel(None, "10.0.3.1"),
            record(None, "10.0.1.1", Action::Block, None),
            record(None, "192.0.2.1", Action::Pass, None),
        ];
        let replay = replay(&records, |_| &policy);
        assert_eq!(
            replay.summary(),
            "2 tunnel→pass, 1 becomes blocked, 1 through another zone, 4 unchanged, 2 cannot be told"
        );
        let first = &replay.changes[0];
        let shown = (first.application.as_deref(), first.destination.as_str());
        assert_eq!(shown, (curl, "10.0.0.1:443"));
        assert_eq!((first.count, first.to.line), (2, Some(5)));
        assert_eq!(
            (first.from.rule.as_str(), first.to.rule.as_str()),
            ("old", "curl out")
        );
        let needs: Vec<&str> = replay.untold.iter().map(|untold| untold.needs).collect();
        assert_eq!(needs, ["path", "script"]);
    }

    #[test]
    fn static_tunnels_that_are_not_there_are_told() {
        let through = |tunnel: &str, action, zone| Record {
            tunnel: Some(tunnel.to_owned()),
            rule: tunnel.to_owned(),
            ..record(Some("/usr/bin/psql"), "10.0.0.1", action, zone)
        };
        let records = [
            through("db", Action::Tunnel, Some("a")),
            through("kept", Action::Tunnel, Some("a")),
            through("moved", Action::Tunnel, Some("a")),
            through("shut", Action::Tunnel, Some("a")),
            through("blocked", Action::Block, None),
        ];
        let policy = read(
            "tunnels:\n  - {name: kept, listen: 5433, zone: a, to: \"10.0.0.1:443\"}\n  \
             - {name: moved, listen: 5434, zone: b, to: \"10.0.0.1:443\"}\n  \
             - {name: shut, listen: 5435, zone: a, to: \"10.0.1.1:443\"}\n\
             rules:\n  - {name: nobody, to: 10.0.1.0/24, action: block}\n",
        );
        let replay = replay(&records, |_| &policy);
        assert_eq!(
            replay.summary(),
            "1 tunnel→no such tunnel, 1 through another zone, 1 becomes blocked, 2 unchanged"
        );
        let missing: Vec<&Given> = replay
            .changes
            .iter()
            .map(|change| &change.to)
            .filter(|to| to.no_such_tunnel)
            .collect();
        let rules: Vec<&str> = missing.iter().map(|to| to.rule.as_str()).collect();
        assert_eq!((rules, missing[0].action.as_str()), (vec!["db"], "block"));
    }
}
