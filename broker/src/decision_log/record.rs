//! One decision as it is written down.

use std::net::IpAddr;
use std::path::PathBuf;

use adit_rules::{Ancestors, Application, Destination, Learned};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::accepted::Asked;
use crate::flow_table::{Action, FlowView, Judged, State};
use crate::stage::Stage;

/// One decision, and what became of it: a line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When the flow was begun.
    pub time: jiff::Timestamp,
    /// Its id in that broker's life.
    pub flow: u64,
    /// Where it wanted to go.
    pub address: Option<IpAddr>,
    /// The name that was asked for, when it was known.
    pub name: Option<String>,
    /// The port.
    pub port: u16,
    /// The static tunnel that it came through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<String>,
    /// Who opened it; null when nobody looked.
    pub application: Option<RecordedApplication>,
    /// The login name of the broker's user.
    pub user: String,
    /// The number of the broker's user.
    pub uid: u32,
    /// The rule that decided.
    pub rule: String,
    /// What it gave.
    pub action: Action,
    /// The zone of a tunnel.
    pub zone: Option<String>,
    /// How far the flow got until this was written, which is when it opened or failed to.
    pub state: State,
    /// Where it failed.
    pub stage: Option<Stage>,
}

/// Who opened a flow, as far as the rules asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RecordedApplication {
    /// It was looked for and not found.
    Unknown(UnknownWord),
    /// It was found.
    Known(Box<Facts>),
}

/// `"unknown"`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownWord {
    /// The one word.
    Unknown,
}

/// What was found out of a program. A fact that stands nowhere was not asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Path of the binary.
    pub path: String,
    /// The script that it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
    /// Its control group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// The binaries of its ancestors, the parent's first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ancestors: Option<Vec<String>>,
    /// Whether these are all that count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all_ancestors: Option<bool>,
    /// The hash of the binary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Facts that it is known not to have: `script`, `cgroup`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<FactName>,
    /// Facts that were asked for and could not be found out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknowable: Vec<FactName>,
}

/// A fact beside the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FactName {
    /// `script`
    Script,
    /// `cgroup`
    Cgroup,
    /// `ancestors`
    Ancestors,
    /// `sha256`
    Sha256,
}

impl Record {
    /// Of what the rules gave; a flow that they tunnel may have passed while no gateway answered.
    pub fn of(flow: FlowView, judged: Judged, user: &str, uid: u32) -> Self {
        let known = flow.application.map(Application::of);
        let application = judged.application.or(known);
        let tunnel = match &judged.asked {
            Asked::Destination(_) => None,
            Asked::Tunnel { name, .. } => Some(name.as_ref().to_owned()),
        };
        let destination = judged.asked.destination();
        Self {
            time: flow.opened_at,
            flow: flow.id,
            address: destination.address,
            name: destination.name.clone(),
            port: destination.port,
            tunnel,
            application: application.as_ref().map(RecordedApplication::of),
            user: user.to_owned(),
            uid,
            rule: judged.decision.rule().to_owned(),
            action: Action::of(&judged.decision),
            zone: judged.decision.zone().map(str::to_owned),
            state: flow.state,
            stage: flow.stage,
        }
    }

    /// What was asked for, for the rules to be asked again.
    pub fn asked(&self) -> Asked {
        let to = Destination {
            address: self.address,
            name: self.name.clone(),
            port: self.port,
        };
        match &self.tunnel {
            None => Asked::Destination(to),
            Some(name) => Asked::Tunnel {
                name: name.as_str().into(),
                to,
            },
        }
    }
}

impl RecordedApplication {
    /// What is known of `application`. What is not UTF-8 in a path is replaced.
    pub fn of(application: &Application) -> Self {
        match application {
            Application::Unknown => Self::Unknown(UnknownWord::Unknown),
            Application::Known(facts) => Self::Known(Box::new(Facts::of(facts))),
        }
    }

    /// For the rules to be asked again. What was not asked for then is not known now.
    pub fn application(&self) -> Application {
        match self {
            Self::Unknown(UnknownWord::Unknown) => Application::Unknown,
            Self::Known(facts) => Application::Known(facts.facts()),
        }
    }
}

impl Facts {
    fn of(facts: &adit_rules::Facts) -> Self {
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        let mut written = Self {
            path: text(&facts.path),
            script: None,
            cgroup: None,
            ancestors: None,
            all_ancestors: None,
            sha256: None,
            without: Vec::new(),
            unknowable: Vec::new(),
        };
        let script = written.note(FactName::Script, &facts.script);
        match script {
            Some(Some(script)) => written.script = Some(text(script)),
            Some(None) => written.without.push(FactName::Script),
            None => {}
        }
        match written.note(FactName::Cgroup, &facts.cgroup) {
            Some(cgroup @ Some(_)) => written.cgroup.clone_from(cgroup),
            Some(None) => written.without.push(FactName::Cgroup),
            None => {}
        }
        if let Some(ancestors) = written.note(FactName::Ancestors, &facts.ancestors) {
            written.ancestors = Some(ancestors.binaries.iter().map(text).collect());
            written.all_ancestors = Some(ancestors.complete);
        }
        if let Some(hash) = written.note(FactName::Sha256, &facts.sha256) {
            written.sha256 = Some(HEXLOWER.encode(hash));
        }
        written
    }

    /// The fact, if it is known.
    fn note<'a, T>(&mut self, name: FactName, fact: &'a Learned<T>) -> Option<&'a T> {
        match fact {
            Learned::NotAsked => None,
            Learned::Unknowable => {
                self.unknowable.push(name);
                None
            }
            Learned::Is(value) => Some(value),
        }
    }

    fn facts(&self) -> adit_rules::Facts {
        let hash = self.sha256.as_ref().and_then(|text| {
            let bytes = HEXLOWER.decode(text.as_bytes()).ok()?;
            bytes.try_into().ok()
        });
        let ancestors = self.ancestors.as_ref().map(|binaries| Ancestors {
            binaries: binaries.iter().map(PathBuf::from).collect(),
            complete: self.all_ancestors == Some(true),
        });
        adit_rules::Facts {
            path: PathBuf::from(&self.path),
            script: self.learned_or_none(FactName::Script, self.script.as_ref().map(PathBuf::from)),
            ancestors: self.learned(FactName::Ancestors, ancestors),
            cgroup: self.learned_or_none(FactName::Cgroup, self.cgroup.clone()),
            sha256: self.learned(FactName::Sha256, hash),
        }
    }

    fn learned<T>(&self, name: FactName, value: Option<T>) -> Learned<T> {
        match value {
            Some(value) => Learned::Is(value),
            None if self.unknowable.contains(&name) => Learned::Unknowable,
            None => Learned::NotAsked,
        }
    }

    fn learned_or_none<T>(&self, name: FactName, value: Option<T>) -> Learned<Option<T>> {
        let is_without = self.without.contains(&name);
        self.learned(name, value.map(Some).or(is_without.then_some(None)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn comes_back(application: &Application, text: &str) {
        let written = RecordedApplication::of(application);
        assert_eq!(serde_json::to_string(&written).unwrap(), text);
        let read: RecordedApplication = serde_json::from_str(text).unwrap();
        assert_eq!(&read.application(), application);
    }

    #[test]
    fn what_was_known_is_known_again_and_nothing_more() {
        comes_back(&Application::Unknown, r#""unknown""#);
        comes_back(&Application::of("/bin/sh"), r#"{"path":"/bin/sh"}"#);
        let mut facts = adit_rules::Facts::of("/usr/bin/python3");
        facts.script = Learned::Is(None);
        facts.cgroup = Learned::Unknowable;
        comes_back(
            &Application::Known(facts.clone()),
            r#"{"path":"/usr/bin/python3","without":["script"],"unknowable":["cgroup"]}"#,
        );
        facts.script = Learned::Is(Some("/opt/x.py".into()));
        facts.cgroup = Learned::Is(Some("/user.slice".to_owned()));
        facts.sha256 = Learned::Is([0xab; 32]);
        facts.ancestors = Learned::Is(Ancestors {
            binaries: vec!["/bin/sh".into()],
            complete: false,
        });
        let hash = "ab".repeat(32);
        comes_back(
            &Application::Known(facts),
            &format!(
                r#"{{"path":"/usr/bin/python3","script":"/opt/x.py","cgroup":"/user.slice","ancestors":["/bin/sh"],"all_ancestors":false,"sha256":"{hash}"}}"#
            ),
        );
    }
}
