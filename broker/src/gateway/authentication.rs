//! Proving to a gateway who the user is: keys and certificates in files and in the agent, passwords, and answers to what it asks
//! (RFC 4252, RFC 4256). Several steps where the gateway wants several.

use std::path::PathBuf;
use std::time::Duration;

use adit_rules::{Identity, Method};
use russh::MethodSet;
use russh::client::{AuthResult, Handle};

use super::connection::{HANDSHAKE_TIMEOUT, Target};
use super::host_key::HostKeyCheck;
use super::questions::Questions;
use super::unlocking::Unlocking;

/// Steps that one gateway may want.
const MOST_STEPS: usize = 8;

/// Why the gateway did not let the user in.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticationError {
    /// A key file can't be used.
    #[error("cannot use the key {}: {reason}", file.display())]
    KeyFile {
        /// Which file.
        file: PathBuf,
        /// Why, in words.
        reason: String,
    },
    /// The user has to say something first.
    #[error("locked: run `adit unlock`: {what}")]
    Locked {
        /// What is missing.
        what: String,
    },
    /// No agent where one was asked for.
    #[error("no SSH agent: {0}")]
    NoAgent(String),
    /// There was nothing to offer.
    #[error("no key to offer: no agent holds one and {} has none", directory.display())]
    NoKeys {
        /// Where key files were looked for.
        directory: PathBuf,
    },
    /// Every key was refused.
    #[error(
        "{} user {user}; keys offered: {}{}",
        if *unsigned { "the agent did not sign for a key that the gateway wanted, and nothing else let in" } else { "the gateway refused" },
        offered.join(", "),
        if wanted.is_empty() { String::new() } else { format!("; it goes on with {}, which the zone's `methods` does not have", wanted.join(", ")) }
    )]
    Refused {
        /// The user name.
        user: String,
        /// What was offered.
        offered: Vec<String>,
        /// Methods that the gateway would go on with, and the zone does not have.
        wanted: Vec<String>,
        /// It wanted a key that the agent did not sign with: its user did not touch it, or said no.
        unsigned: bool,
    },
    /// It has, lately.
    #[error(
        "{words}; it is left in peace for {} s, unless the agent or ~/.ssh changes (`adit unlock` tries at once)", wait.as_secs()
    )]
    NotYet {
        /// How it refused.
        words: String,
        /// Until it is tried again.
        wait: Duration,
    },
    /// The gateway is silent.
    #[error("no answer in {} s while authenticating", .0.as_secs())]
    TimedOut(Duration),
    /// The connection failed meanwhile.
    #[error("the connection ended during authentication")]
    Ssh(#[from] russh::Error),
}

impl AuthenticationError {
    /// Whether trying again can't help before someone changes something.
    pub(super) fn is_lasting(&self) -> bool {
        match self {
            Self::KeyFile { .. }
            | Self::Locked { .. }
            | Self::NoAgent(_)
            | Self::NoKeys { .. }
            | Self::Refused { .. }
            | Self::NotYet { .. } => true,
            Self::TimedOut(_) | Self::Ssh(_) => false,
        }
    }
}

/// A connection whose user is not known yet.
pub(super) type Session = Handle<HostKeyCheck>;
/// What comes of a step.
pub(super) type Outcome<T> = Result<T, AuthenticationError>;

/// Logs in at `target` by the methods of its zone; without an identity: the agent's keys, then the usual files of the user's .ssh.
pub(super) async fn authenticate(
    session: &mut Session,
    target: &Target,
    questions: &Questions,
) -> Outcome<()> {
    questions.unlocking.log_in();
    let mut attempt = Attempt {
        session,
        target,
        user: target.gateway.user.as_deref().unwrap_or(&target.login),
        unlocking: &questions.unlocking,
        offered: Vec::new(),
        unsigned: false,
    };
    let (mut tried, mut goes_on, mut steps) = (Vec::new(), None, 0);
    loop {
        let next = target.methods.iter().copied().find(|method| {
            !tried.contains(method) && goes_on.as_ref().is_none_or(|set| has(set, *method))
        });
        let Some(method) = next else {
            return Err(attempt.refused(goes_on));
        };
        tried.push(method);
        match attempt.by(method).await? {
            AuthResult::Success => return Ok(()),
            AuthResult::Failure {
                remaining_methods,
                partial_success,
            } => {
                // What was right so far may be wanted again, with another key.
                if partial_success && steps < MOST_STEPS {
                    steps += 1;
                    tried.clear();
                }
                goes_on = Some(remaining_methods);
            }
        }
    }
}

/// Whether the gateway would go on with it.
pub(super) fn has(set: &MethodSet, method: Method) -> bool {
    set.iter().any(|kind| <&str>::from(kind) == method.as_str())
}

/// What a gateway says that has said nothing yet.
pub(super) fn nothing_said() -> AuthResult {
    AuthResult::Failure {
        remaining_methods: MethodSet::from(
            &[
                russh::MethodKind::PublicKey,
                russh::MethodKind::KeyboardInteractive,
                russh::MethodKind::Password,
            ][..],
        ),
        partial_success: false,
    }
}

/// A user at the door of a gateway.
pub(super) struct Attempt<'s> {
    pub(super) session: &'s mut Session,
    pub(super) target: &'s Target,
    pub(super) user: &'s str,
    pub(super) unlocking: &'s Unlocking,
    /// Keys and certificates, for people.
    pub(super) offered: Vec<String>,
    /// The agent did not sign with one of them.
    pub(super) unsigned: bool,
}

impl Attempt<'_> {
    fn refused(&self, goes_on: Option<MethodSet>) -> AuthenticationError {
        let methods = &self.target.methods;
        if self.offered.is_empty() && *methods == [Method::PublicKey] {
            return AuthenticationError::NoKeys {
                directory: self.target.home.join(".ssh"),
            };
        }
        let goes_on = goes_on.iter().flat_map(|set| set.iter());
        let wanted = goes_on
            .map(<&str>::from)
            .filter(|kind| !methods.iter().any(|method| method.as_str() == *kind));
        AuthenticationError::Refused {
            user: self.user.to_owned(),
            offered: self.offered.clone(),
            wanted: wanted.map(str::to_owned).collect(),
            unsigned: self.unsigned,
        }
    }

    async fn by(&mut self, method: Method) -> Outcome<AuthResult> {
        match method {
            Method::PublicKey => match self.target.identity.clone() {
                Some(Identity::File(file)) => self.file(&file).await,
                Some(Identity::Agent) => {
                    let listed = self.listed().await;
                    let (agent, held) = listed.map_err(AuthenticationError::NoAgent)?;
                    self.agent(agent, held).await
                }
                None => self.anything().await,
            },
            Method::KeyboardInteractive => self.keyboard_interactive().await,
            Method::Password => self.password().await,
        }
    }
}

/// The gateway took too long for a step.
pub(super) fn late(_: tokio::time::error::Elapsed) -> AuthenticationError {
    AuthenticationError::TimedOut(HANDSHAKE_TIMEOUT)
}
