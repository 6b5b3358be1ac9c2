//! First stage: the file as it is written, with the place of every value that the second stage may
//! object to.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::config_error::ConfigError;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    pub(super) version: Spanned<u64>,
    #[serde(default)]
    pub(super) listen: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) host_keys: Vec<PathBuf>,
    pub(super) authorized_keys: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) user_ca: Vec<Spanned<PathBuf>>,
    #[serde(default)]
    pub(super) revoked_keys: Vec<Spanned<PathBuf>>,
    pub(super) passwords: Option<Spanned<PathBuf>>,
    pub(super) totp: Option<Spanned<PathBuf>>,
    pub(super) methods: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) port_forwarding: Option<bool>,
    #[serde(default)]
    pub(super) groups: BTreeMap<String, Vec<Spanned<String>>>,
    #[serde(default)]
    pub(super) policy: Vec<Spanned<WrittenEntry>>,
    #[serde(default)]
    pub(super) limits: Vec<WrittenAllowance>,
    pub(super) max_connections: Option<Spanned<u64>>,
    pub(super) max_connections_per_user: Option<Spanned<u64>>,
    pub(super) max_unauthenticated: Option<Spanned<u64>>,
    pub(super) max_unauthenticated_per_source: Option<Spanned<u64>>,
    pub(super) penalty_exempt: Option<Vec<Spanned<String>>>,
    pub(super) max_streams_per_user: Option<Spanned<u64>>,
    pub(super) login_grace_seconds: Option<Spanned<u64>>,
    pub(super) dial_timeout_seconds: Option<Spanned<u64>>,
    pub(super) rekey_bytes: Option<Spanned<u64>>,
    pub(super) threads: Option<Spanned<u64>>,
    pub(super) control: Option<Spanned<PathBuf>>,
    pub(super) log: Option<WrittenLog>,
    pub(super) banner: Option<Spanned<String>>,
    pub(super) motd: Option<Spanned<String>>,
    pub(super) warning_seconds: Option<Spanned<u64>>,
    pub(super) session_timeout_seconds: Option<Spanned<u64>>,
    pub(super) idle_timeout_seconds: Option<Spanned<u64>>,
    pub(super) audit: Option<Spanned<PathBuf>>,
    pub(super) metrics: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenEntry {
    pub(super) name: Spanned<String>,
    #[serde(default)]
    pub(super) users: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) principals: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) from: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) applications: Vec<Spanned<String>>,
    pub(super) when: Option<Spanned<String>>,
    pub(super) allow: Vec<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenAllowance {
    pub(super) users: Vec<Spanned<String>>,
    pub(super) sessions: Option<Spanned<u64>>,
    pub(super) flows: Option<Spanned<u64>>,
    pub(super) opens_per_second: Option<Spanned<u64>>,
    pub(super) bytes_per_second: Option<Spanned<u64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenLog {
    #[serde(default)]
    pub(super) format: LogFormat,
    #[serde(default)]
    pub(super) to: LogTo,
    #[serde(default)]
    pub(super) level: LogLevel,
}

/// Form of the lines on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// Where the log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogTo {
    /// The journal when systemd started us with it, else stderr; for `--stdio` the journal, or it is an
    /// error.
    #[default]
    Auto,
    /// The journal, or it is an error.
    Journal,
    /// Standard error.
    Stderr,
}

/// How much is logged beside the audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What broke.
    Error,
    /// And what may.
    Warn,
    /// And who comes and goes.
    #[default]
    Info,
    /// And how it is done.
    Debug,
}

impl Written {
    pub(super) fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        serde_saphyr::from_str(text).map_err(|error| ConfigError::yaml(file, text, &error))
    }
}
