//! The gateway's file: what is written (`written`) and, once every value is checked, what is
//! meant ([`Config`]).
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use adit_rules::pattern::AllowEntry;
use ipnet::IpNet;
use serde_saphyr::Spanned;

use crate::allowance::Allowances;
use crate::config_error::ConfigError;
use crate::login::LoginFiles;
use crate::methods::Method;
use crate::policy::{Entry, Policy};
use crate::user_name::UserName;

mod at_next_start;
mod conditions;
mod limits;
mod login;
mod stdio;
mod written;
pub(crate) use at_next_start::waiting as waiting_for_a_start;
pub use written::{LogFormat, LogLevel, LogTo};
use written::{Written, WrittenEntry, WrittenLog};

/// Longest file, in bytes.
pub const MAX_FILE: usize = 1 << 20;
/// Longest text for clients, in bytes.
const MAX_SHOWN: usize = 4096;

/// A checked file.
#[derive(Debug, Clone)]
pub struct Config {
    /// What a Secure Shell server needs; a relay on stdin and stdout does without. See
    /// [`Config::for_server`].
    pub(crate) serving: Result<Serving, ConfigError>,
    /// See [`Config::for_stdio`].
    pub(crate) stdio: Result<(), ConfigError>,
    /// Who may reach what.
    pub policy: Policy,
    /// Bounds.
    pub limits: Limits,
    /// What some users may have of them.
    pub allowances: Allowances,
    /// Where the log goes.
    pub log: Log,
    /// What clients are told before they log in.
    pub banner: Option<Arc<str>>,
    /// What clients are told that ask for a shell, of which there is none.
    pub motd: Option<Arc<str>>,
    /// A file for the audit, beside the log.
    pub audit: Option<PathBuf>,
}

/// What only the Secure Shell server needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serving {
    /// Where to listen. `[::]` is IPv4 too.
    pub listen: Vec<SocketAddr>,
    /// OpenSSH private key files.
    pub host_keys: Vec<PathBuf>,
    /// Who may log in.
    pub login: LoginFiles,
    /// Threads that serve connections.
    pub threads: usize,
    /// The control socket, where it is said.
    pub control: Option<PathBuf>,
    /// Networks that owe nothing for connections that come to nothing.
    pub penalty_exempt: Vec<IpNet>,
    /// Where to tell numbers: a loopback address.
    pub metrics: Option<SocketAddr>,
}

/// Bounds, all with a default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Authenticated connections at a time.
    pub max_connections: usize,
    /// And of one user.
    pub max_connections_per_user: usize,
    /// Connections that have not authenticated yet, beside those; one more ends the
    /// oldest of the source that has most.
    pub max_unauthenticated: usize,
    /// And of one source, an IPv4 address or an IPv6 /64.
    pub max_unauthenticated_per_source: usize,
    /// Streams of one user at a time, over all its connections.
    pub max_streams_per_user: usize,
    /// Time to authenticate, and then to begin a link; a connection that has no link for so long is
    /// closed.
    pub login_grace: Duration,
    /// Time to resolve and connect.
    pub dial_timeout: Duration,
    /// How long a session may last.
    pub session_timeout: Option<Duration>,
    /// And how long without an open flow.
    pub idle_timeout: Option<Duration>,
    /// How long before the end of a session its brokers are warned, at most.
    pub warning: Duration,
    /// Bytes in one direction between two key exchanges.
    pub rekey_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_connections_per_user: 16,
            max_unauthenticated: 128,
            max_unauthenticated_per_source: 64,
            max_streams_per_user: 4096,
            login_grace: Duration::from_secs(30),
            dial_timeout: Duration::from_secs(15),
            session_timeout: None,
            idle_timeout: None,
            warning: Duration::from_secs(60),
            rekey_bytes: 1 << 30,
        }
    }
}

/// Where the log goes, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Log {
    /// Form of lines on stderr.
    pub format: LogFormat,
    /// Journal or stderr.
    pub to: LogTo,
    /// How much; the audit is always written.
    pub level: LogLevel,
}

/// What the command line says about the log, whatever the file does.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogOverrides {
    /// Form of lines on stderr.
    pub format: Option<LogFormat>,
    /// Journal or stderr.
    pub to: Option<LogTo>,
}

impl LogOverrides {
    /// Has the last word.
    pub fn apply(&self, log: &mut Log) {
        log.format = self.format.unwrap_or(log.format);
        log.to = self.to.unwrap_or(log.to);
    }
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place and, where one is known, a hint.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text =
            crate::bounded_file::read(file, MAX_FILE).map_err(|source| ConfigError::Read {
                file: file.to_owned(),
                source: Arc::new(source),
            })?;
        let text = String::from_utf8(text)
            .map_err(|_| ConfigError::whole(file, "not UTF-8 text", None))?;
        Self::parse(file, &text)
    }

    /// Checks the text of a file; `file` is only named in errors.
    ///
    /// # Errors
    /// See [`Config::load`].
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let written = Written::parse(file, text)?;
        Meaning { file, text }.config(written)
    }

    /// A relay on stdin and stdout without a file.
    pub fn without_file(policy: Policy) -> Self {
        let serving = Err(ConfigError::whole(Path::new("-"), "there is no file", None));
        Self {
            serving,
            stdio: Ok(()),
            policy,
            limits: Limits::default(),
            allowances: Allowances::default(),
            log: Log::default(),
            audit: None,
            banner: None,
            motd: None,
        }
    }

    /// What the Secure Shell server needs of the file.
    ///
    /// # Errors
    /// `listen`, `host_keys` or `authorized_keys` is missing.
    pub fn for_server(&self) -> Result<&Serving, ConfigError> {
        self.serving.as_ref().map_err(Clone::clone)
    }

    /// Can a relay on stdin and stdout keep all of it?
    ///
    /// # Errors
    /// It has keys that only a Secure Shell server can keep.
    pub fn for_stdio(&self) -> Result<(), ConfigError> {
        self.stdio.clone()
    }
}

/// Second stage: from what is written to what is meant.
struct Meaning<'a> {
    file: &'a Path,
    text: &'a str,
}

type Members = HashMap<String, HashSet<UserName>>;

impl Meaning<'_> {
    fn config(&self, written: Written) -> Result<Config, ConfigError> {
        if written.version.value != 1 {
            let hint = "this adit-server reads version 1";
            return Err(self.error(
                &written.version,
                format!("version {}", written.version.value),
                Some(hint),
            ));
        }
        let limits = self.limits(&written)?;
        let groups = self.groups(&written)?;
        let allowances = self.allowances(&written.limits, &groups)?;
        let policy = self.policy(&written.policy, &groups)?;
        let log = written
            .log
            .as_ref()
            .map_or_else(Log::default, |log: &WrittenLog| Log {
                format: log.format,
                to: log.to,
                level: log.level,
            });
        let audit = written.audit.as_ref();
        let audit = audit.map(|file| self.absolute(file)).transpose()?;
        let banner = written.banner.as_ref();
        let banner = banner.map(|text| self.shown("banner", text)).transpose()?;
        let motd = written.motd.as_ref();
        let motd = motd.map(|text| self.shown("motd", text)).transpose()?;
        let serving = self.serving(&written)?;
        Ok(Config {
            serving,
            stdio: self.for_stdio(&written),
            policy,
            limits,
            allowances,
            log,
            audit,
            banner,
            motd,
        })
    }

    /// The outer error is a value that is wrong, the inner one a key that only a server misses.
    fn serving(&self, written: &Written) -> Result<Result<Serving, ConfigError>, ConfigError> {
        let listen = written
            .listen
            .iter()
            .map(|at| self.listen(at))
            .collect::<Result<Vec<_>, _>>()?;
        let login = self.login(written)?;
        let threads = self.within("threads", written.threads.as_ref(), 1..=64, 1)?;
        let control = written.control.as_ref();
        let missing = |key: &str, hint| {
            ConfigError::whole(self.file, format!("`{key}` is missing"), Some(hint))
        };
        if listen.is_empty() {
            return Ok(Err(missing(
                "listen",
                r#"for example  listen: ["[::]:443"]"#,
            )));
        }
        if written.host_keys.is_empty() {
            return Ok(Err(missing(
                "host_keys",
                "for example  host_keys: [/etc/adit/host_ed25519]",
            )));
        }
        let has_keys = login.authorized_keys.is_some() || !login.user_ca.is_empty();
        if login.methods.has(Method::PublicKey) && !has_keys {
            return Ok(Err(missing(
                "authorized_keys",
                "for example  authorized_keys: /etc/adit/keys/%u, or user_ca: [/etc/adit/user_ca.pub]",
            )));
        }
        Ok(Ok(Serving {
            listen,
            host_keys: written.host_keys.clone(),
            login,
            threads,
            penalty_exempt: self.penalty_exempt(written)?,
            metrics: written
                .metrics
                .as_ref()
                .map(|at| self.metrics(at))
                .transpose()?,
            control: control.map(|path| self.absolute(path)).transpose()?,
        }))
    }

    /// It is shown on terminals.
    fn shown(&self, key: &str, text: &Spanned<String>) -> Result<Arc<str>, ConfigError> {
        let speaks_to_terminals = |c: char| c.is_control() && c != '\n' && c != '\t';
        if text.value.len() > MAX_SHOWN || text.value.contains(speaks_to_terminals) {
            let words =
                format!("`{key}` is longer than {MAX_SHOWN} bytes, or has control characters");
            return Err(self.error(text, words, None));
        }
        // RFC 4252 section 5.4.
        Ok(text.value.replace('\n', "\r\n").into())
    }

    fn metrics(&self, at: &Spanned<String>) -> Result<SocketAddr, ConfigError> {
        let address = self.listen(at)?;
        match address.ip().is_loopback() {
            true => Ok(address),
            false => {
                let hint = "127.0.0.1:9464 or [::1]:9464: whoever can connect there can read it";
                Err(self.error(
                    at,
                    "metrics are told on a loopback address only",
                    Some(hint),
                ))
            }
        }
    }

    fn listen(&self, at: &Spanned<String>) -> Result<SocketAddr, ConfigError> {
        let hint = "ADDRESS:PORT, an IPv6 address in brackets; [::]:443 is every address, IPv4 too";
        at.value.parse().map_err(|_| {
            self.error(
                at,
                format!("{:?} is no address to listen on", at.value),
                Some(hint),
            )
        })
    }

    /// Another path would depend on the directory the server is started in.
    fn absolute(&self, file: &Spanned<PathBuf>) -> Result<PathBuf, ConfigError> {
        match file.value.is_absolute() {
            true => Ok(file.value.clone()),
            false => Err(self.error(file, "the path is not absolute", None)),
        }
    }

    fn groups(&self, written: &Written) -> Result<Members, ConfigError> {
        let mut groups = Members::new();
        for (name, members) in &written.groups {
            let members = members
                .iter()
                .map(|member| self.user(member))
                .collect::<Result<_, _>>()?;
            groups.insert(name.clone(), members);
        }
        Ok(groups)
    }

    fn user(&self, name: &Spanned<String>) -> Result<UserName, ConfigError> {
        name.value.parse().map_err(|error| {
            self.error(
                name,
                format!("{:?} is no user name: {error}", name.value),
                None,
            )
        })
    }

    fn policy(
        &self,
        written: &[Spanned<WrittenEntry>],
        groups: &Members,
    ) -> Result<Policy, ConfigError> {
        let mut names = HashSet::new();
        let mut entries = Vec::new();
        for entry in written {
            let name = &entry.value.name;
            if name.value.is_empty() || !names.insert(name.value.as_str()) {
                let hint = "the audit names the entry that allowed a connection, so each needs a name of its own";
                return Err(self.error(
                    name,
                    format!("a second entry with the name {:?}", name.value),
                    Some(hint),
                ));
            }
            entries.push(self.entry(&entry.value, groups)?);
        }
        let members = groups.values().flatten().cloned().collect();
        Ok(Policy::new(entries).with_members(members))
    }

    fn entry(&self, written: &WrittenEntry, groups: &Members) -> Result<Entry, ConfigError> {
        let allow = written
            .allow
            .iter()
            .map(|allow| self.allow(allow))
            .collect::<Result<_, _>>()?;
        Ok(Entry {
            name: Arc::from(written.name.value.as_str()),
            conditions: self.conditions(written, groups)?,
            allow,
        })
    }

    fn allow(&self, written: &Spanned<String>) -> Result<AllowEntry, ConfigError> {
        parse_allow(&written.value).map_err(|why| {
            let hint = r#"HOST:PORTS, such as "10.20.0.0/16:443", "*.finance.corp:*", "[2001:db8::/32]:8000-8100""#;
            self.error(written, why, Some(hint))
        })
    }

    fn error<T>(
        &self,
        at: &Spanned<T>,
        words: impl Into<String>,
        hint: Option<&str>,
    ) -> ConfigError {
        ConfigError::at(self.file, self.text, &at.referenced, words, hint)
    }
}

/// One `allow` entry, from a file or the command line.
///
/// # Errors
/// Not an entry.
pub fn parse_allow(text: &str) -> Result<AllowEntry, String> {
    text.parse()
        .map_err(|why: String| format!("{text:?}: {why}"))
}

#[cfg(test)]
mod tests;
