//! What goes over the control socket: one request a connection, one line of JSON each way.

use std::net::SocketAddr;
use std::path::PathBuf;

use adit_capture::wire::QueueBy;

use serde::{Deserialize, Serialize};

use super::reload::{BadRules, Reloaded, RulesStatus};
use crate::decision_log::Standing;
use crate::flow_table::FlowView;
use crate::gateway::{About, Form, Secret};
use crate::question::{Explained, Question};
use crate::why::Why;

/// A longer request is refused unread.
pub const MAX_REQUEST: usize = 4096;
/// A longer answer is not believed: a thousand remembered flows and twenty thousand live ones fit.
pub const MAX_ANSWER: usize = 32 << 20;

/// What is asked of a broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// How it stands.
    Status {},
    /// The flows.
    Flows {},
    /// End one flow.
    Close {
        /// Its id.
        id: u64,
    },
    /// Why a flow failed.
    Why {
        /// Its id; without it the last one of whoever asks that failed.
        #[serde(default)]
        id: Option<u64>,
    },
    /// What the rules in force say of a connection, and why.
    Explain {
        /// Which.
        connection: Question,
    },
    /// End the broker, leaving nothing behind.
    Down {},
    /// Note a host key that a gateway showed.
    Trust {
        /// Of which zone.
        zone: String,
        /// The fingerprint that the user compared.
        fingerprint: String,
    },
    /// Say what a zone's gateways want to know before they let anyone in.
    Unlock {
        /// Which zone.
        zone: String,
        /// To what was asked last; without them it begins.
        #[serde(default)]
        answers: Option<Answers>,
    },
    /// Read the rules anew.
    Reload {
        /// Only say what would change.
        dry_run: bool,
    },
}

/// Answers to a form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answers {
    /// Which form.
    pub id: u64,
    /// One for each prompt.
    pub answers: Vec<Secret>,
}

/// What it answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// To `status`.
    Status(Box<Status>),
    /// To `flows`.
    Flows(Vec<FlowView>),
    /// To `why`.
    Why(Box<Why>),
    /// To `explain`.
    Explained(Box<Explained>),
    /// To `unlock`: what is to be answered.
    Form(Box<Form>),
    /// To `close`, `trust`, `unlock` and `down`: done.
    Done,
    /// To `reload`: what it did, or would do.
    Reloaded(Box<Reloaded>),
    /// To `reload`: nothing was done, as the rules are wrong.
    #[serde(rename = "bad_rules")]
    BadRules(BadRules),
    /// It could not be done; why.
    Error(String),
}

/// How a broker stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// `capturing`, or what it waits for.
    pub state: String,
    /// The broker's version.
    pub version: String,
    /// The broker's process.
    pub pid: u32,
    /// The user whose connections it carries.
    pub uid: u32,
    /// That user's name.
    pub user: String,
    /// When it was started.
    pub since: jiff::Timestamp,
    /// The rule file or directory that was named, else the first that is read; null for `adit up`.
    pub rules: Option<PathBuf>,
    /// Which rules are in force; null for `adit up`.
    pub rules_in_force: Option<RulesStatus>,
    /// The session with the capture helper.
    pub capture: Capture,
    /// How captured connections are met.
    pub connect: Connect,
    /// Where programs can come in on purpose.
    #[serde(default)]
    pub listening: Vec<Listening>,
    /// Every zone.
    pub zones: Vec<ZoneStatus>,
    /// How many flows.
    pub flows: FlowCounts,
    /// The log of decisions; null where none is kept.
    pub decisions: Option<Standing>,
}

/// How the session with the capture helper stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Capture {
    /// The helper's socket.
    pub socket: PathBuf,
    /// Whether the helper answers.
    pub connected: bool,
    /// Why not.
    pub reason: Option<String>,
}

/// How captured connections are met, as far as the rules do not ask for `connect: early`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Connect {
    /// `honest` or `early`.
    pub mode: String,
    /// How the kernel holds connections; null when it does not.
    pub by: Option<QueueBy>,
    /// Why it does not.
    pub reason: Option<String>,
}

/// A listener that the rules want.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Listening {
    /// Where.
    pub address: SocketAddr,
    /// `socks5` or `http`; null for a static tunnel.
    pub speaks: Option<String>,
    /// The static tunnel's name.
    pub tunnel: Option<String>,
}

/// How a zone stands; with gateways that are taken from the destination, how one of its links does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ZoneStatus {
    /// Its name in the rules.
    pub name: String,
    /// The one host that the link leads to, where the zone's gateways are taken from the destination.
    #[serde(default)]
    pub host: Option<String>,
    /// `up`, `connecting` or `down`; `idle` where there is no link until a flow says whereto.
    pub state: String,
    /// The gateway in use.
    pub gateway: Option<String>,
    /// The jump hosts that are passed on the way to it.
    #[serde(default)]
    pub via: Vec<String>,
    /// The proxy that made the first connection.
    #[serde(default)]
    pub proxy: Option<String>,
    /// What speaks SSH to it: `embedded` or `openssh`.
    #[serde(default)]
    pub engine: Option<String>,
    /// Why that.
    #[serde(default)]
    pub engine_because: Option<String>,
    /// What is wrong, or was with the last attempt.
    pub reason: Option<String>,
    /// Milliseconds until the next attempt.
    pub retry_in_ms: Option<u64>,
    /// Streams on the link.
    pub streams: usize,
    /// What its gateways want to know from the user.
    #[serde(default)]
    pub questions: Vec<ZoneQuestion>,
    /// What one of its gateways said last.
    #[serde(default)]
    pub notice: Option<ZoneNotice>,
}

impl ZoneStatus {
    pub(crate) fn new(name: &str, state: &str) -> Self {
        Self {
            name: name.to_owned(),
            host: None,
            state: state.to_owned(),
            gateway: None,
            via: Vec::new(),
            proxy: None,
            engine: None,
            engine_because: None,
            reason: None,
            retry_in_ms: None,
            streams: 0,
            questions: Vec::new(),
            notice: None,
        }
    }
}

/// What a gateway said of its own accord: that a session ends, that it is about to stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneNotice {
    /// Which one.
    pub gateway: String,
    /// For people.
    pub words: String,
    /// Milliseconds since.
    pub age_ms: u64,
}

/// What a gateway wants to know from the user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "about", rename_all = "kebab-case")]
pub enum ZoneQuestion {
    /// Whether its host key is right, which no file knows.
    HostKey {
        /// The gateway as known_hosts names it.
        host: String,
        /// The kind of key, as known_hosts names it.
        kind: String,
        /// SHA256 fingerprint.
        fingerprint: String,
    },
    /// Something that only the user knows: `adit unlock`.
    Unlock {
        /// What.
        wants: About,
        /// Which gateway.
        gateway: String,
    },
    /// A key that is to be touched, or allowed to be used.
    Touch {
        /// Its fingerprint, and what the agent calls it.
        key: String,
    },
}

/// How many flows.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct FlowCounts {
    /// Now.
    pub active: usize,
    /// Since the start.
    pub total: u64,
}

/// Reads a request. Pure: what arrives is not trusted.
pub fn parse_request(line: &[u8]) -> Result<Request, String> {
    if line.len() > MAX_REQUEST {
        return Err(format!("a request has at most {MAX_REQUEST} bytes"));
    }
    serde_json::from_slice(line).map_err(|error| format!("not a request: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: Option<Request>) {
        assert_eq!(parse_request(line.as_bytes()).ok(), expected, "{line}");
    }

    #[test]
    fn requests_as_documented() {
        check(r#"{"request":"status"}"#, Some(Request::Status {}));
        check(r#"{"request":"flows"}"#, Some(Request::Flows {}));
        check(
            r#"{"request":"close","id":7}"#,
            Some(Request::Close { id: 7 }),
        );
        check(r#"{"request":"down"}"#, Some(Request::Down {}));
        check(r#"{"request":"why"}"#, Some(Request::Why { id: None }));
        check(
            r#"{"request":"why","id":7}"#,
            Some(Request::Why { id: Some(7) }),
        );
        let connection = Question {
            to: "192.0.2.1:443".to_owned(),
            app: None,
            pid: Some(42),
            user: Some("eve".to_owned()),
            group: Vec::new(),
        };
        check(
            r#"{"request":"explain","connection":{"to":"192.0.2.1:443","pid":42,"user":"eve"}}"#,
            Some(Request::Explain { connection }),
        );
        check(
            r#"{"request":"explain","connection":{"to":"192.0.2.1:443","pid":42,"more":1}}"#,
            None,
        );
        check(
            r#"{"request":"trust","zone":"lab","fingerprint":"SHA256:x"}"#,
            Some(Request::Trust {
                zone: "lab".to_owned(),
                fingerprint: "SHA256:x".to_owned(),
            }),
        );
        check(r#"{"request":"trust","zone":"lab"}"#, None);
        check(
            r#"{"request":"unlock","zone":"lab"}"#,
            Some(Request::Unlock {
                zone: "lab".to_owned(),
                answers: None,
            }),
        );
        check(
            r#"{"request":"unlock","zone":"lab","answers":{"id":3,"answers":["a","b"]}}"#,
            Some(Request::Unlock {
                zone: "lab".to_owned(),
                answers: Some(Answers {
                    id: 3,
                    answers: ["a", "b"].map(|it| Secret::from(it.to_owned())).to_vec(),
                }),
            }),
        );
        check(
            r#"{"request":"reload","dry_run":true}"#,
            Some(Request::Reload { dry_run: true }),
        );
        check(r#"{"request":"reload"}"#, None);
        check(r#"{"request":"close"}"#, None);
        check(r#"{"request":"close","id":-1}"#, None);
        check(r#"{"request":"status","more":1}"#, None);
        check(r#"{"request":"reboot"}"#, None);
        check("", None);
        check(
            &format!(r#"{{"request":"status"}}{}"#, " ".repeat(MAX_REQUEST)),
            None,
        );
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600)) {
            let _ = parse_request(&bytes);
        }

        #[test]
        fn a_request_comes_back(id in proptest::num::u64::ANY) {
            let text = serde_json::to_vec(&Request::Close { id }).unwrap();
            proptest::prop_assert_eq!(parse_request(&text), Ok(Request::Close { id }));
        }

        /// One byte changed: another request or none, never a panic.
        #[test]
        fn mutated_requests_are_survived(at in 0..24usize, byte in proptest::num::u8::ANY) {
            let mut line = br#"{"request":"close","id":7}"#.to_vec();
            line[at] = byte;
            let _ = parse_request(&line);
        }
    }
}
