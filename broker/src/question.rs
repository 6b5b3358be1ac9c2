//! What people ask of the rules: `adit explain`, of a rule file or of a running broker, by the same code.

use adit_capture::attribution::{Hashes, Process, Unknowable};
use adit_rules::{
    AccountName, Ancestors, Application, Destination, Explanation, Facts, Group, Host, Learned,
    Policy, PortMatters,
};
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};

use crate::user::{User, UserError};

/// A question about a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// `HOST:PORT`; or `HOST`, where all ports get the same.
    pub to: String,
    /// The path of a binary, or `unknown`.
    pub app: Option<String>,
    /// A live process instead of it.
    pub pid: Option<u32>,
    /// Whose connection, by name or number; without it that of the broker's user.
    pub user: Option<String>,
    /// The groups of that user, by name or number, instead of those that the system knows.
    #[serde(default)]
    pub group: Vec<String>,
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QuestionError {
    /// The destination or the application can't be read.
    #[error("{0}")]
    Nonsense(String),
    /// Neither an application nor a process, or both.
    #[error("say which application: `app`, or `pid`")]
    NoApplication,
    /// No such process that could be looked at.
    #[error("there is no process {0} of this user that could be looked at")]
    NoProcess(u32),
    /// The user database could not be asked.
    #[error(transparent)]
    User(#[from] UserError),
    /// All ports do not get the same.
    #[error(transparent)]
    Port(#[from] PortMatters),
}

impl Question {
    /// What `policy`, which is for `user`, says of it.
    ///
    /// # Errors
    /// See [`QuestionError`].
    pub fn answer(&self, policy: &Policy, user: &User) -> Result<Explanation, QuestionError> {
        let application = self.application(user.uid)?;
        let policy = match self.user(user)? {
            Some(user) => &policy.for_user(user),
            None => policy,
        };
        match Destination::parse(&self.to) {
            Ok(destination) => Ok(policy.explain(&destination, &application)),
            Err(why) => match Host::parse(&self.to) {
                Ok(host) => Ok(policy.explain_host(&host, &application)?),
                Err(_) => Err(QuestionError::Nonsense(why)),
            },
        }
    }

    fn application(&self, user: Uid) -> Result<Application, QuestionError> {
        match (&self.app, self.pid) {
            (Some(app), None) => Application::parse(app).map_err(QuestionError::Nonsense),
            (None, Some(pid)) => facts_of(pid, user).ok_or(QuestionError::NoProcess(pid)),
            (Some(_), Some(_)) | (None, None) => Err(QuestionError::NoApplication),
        }
    }

    fn user(&self, own: &User) -> Result<Option<adit_rules::User>, QuestionError> {
        let mut user = match &self.user {
            Some(name) => named(name)?,
            None if self.group.is_empty() => return Ok(None),
            None => own.of_rules()?,
        };
        if !self.group.is_empty() {
            let groups = self.group.iter().map(|group| group_of(group));
            user.groups = Some(groups.collect::<Result<_, _>>()?);
        }
        Ok(Some(user))
    }
}

/// All that rules can ask of a process of this user.
fn facts_of(pid: u32, user: Uid) -> Option<Application> {
    let process = Process::of(pid, user.as_raw())?;
    let ancestors = process.ancestors();
    Some(Application::Known(Facts {
        script: learned(process.script()),
        ancestors: Learned::Is(Ancestors {
            binaries: ancestors.binaries,
            complete: ancestors.complete,
        }),
        cgroup: learned(process.cgroup()),
        sha256: learned(Hashes::default().of(&process)),
        path: process.path,
    }))
}

fn learned<T>(found: Result<T, Unknowable>) -> Learned<T> {
    found.map_or(Learned::Unknowable, Learned::Is)
}

/// A user whom the system does not know has no groups that are known.
fn named(name: &str) -> Result<adit_rules::User, UserError> {
    match User::by_name(name) {
        Ok(user) => user.of_rules(),
        Err(UserError::Unknown(name)) => Ok(adit_rules::User {
            name: AccountName::Is(name),
            uid: None,
            groups: None,
        }),
        Err(error) => Err(error),
    }
}

fn group_of(text: &str) -> Result<Group, UserError> {
    use nix::unistd::{Gid, Group as Entry};
    let number = text.parse().ok();
    let entry = match number {
        Some(gid) => Entry::from_gid(Gid::from_raw(gid))?,
        None => Entry::from_name(text)?,
    };
    let name = match number {
        None => AccountName::Is(text.to_owned()),
        Some(_) => AccountName::Nameless,
    };
    Ok(match entry {
        Some(entry) => Group {
            name: AccountName::Is(entry.name),
            gid: Some(entry.gid.as_raw()),
        },
        None => Group { name, gid: number },
    })
}

/// An answer, for programs and for people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explained {
    /// As `adit explain --json` prints it.
    pub explanation: serde_json::Value,
    /// As `adit explain` prints it.
    pub text: String,
    /// The rule that decided.
    pub rule: String,
}

impl Explained {
    /// Both forms.
    ///
    /// # Errors
    /// Never, as far as we know: an explanation is plain data.
    pub fn of(explanation: &Explanation) -> serde_json::Result<Self> {
        Ok(Self {
            explanation: serde_json::to_value(explanation)?,
            text: explanation.to_string(),
            rule: explanation.decision().rule().to_owned(),
        })
    }
}
