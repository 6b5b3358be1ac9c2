//! The engine `openssh`: the system's `ssh`, with the link on its standard input and output as the subsystem `adit-link`, or as a master that
//! lets the broker's channels into its connection.
//!
//! The connection it runs on is ours: dialled from a marked socket, so that it is not captured, over the zone's proxy and jump hosts. ssh takes
//! it from a ProxyCommand with `ProxyUseFdpass` (ssh_config(5)), which is [`hand_over`] in a process of its own. ssh closes all descriptors that
//! it is started with but the first three (`closefrom` in its `main`), so the connection waits in the third, a socket, as a message that only
//! that process reads; ssh itself only writes there.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use adit_link::{Driver, Limits, Link, LinkEnd};
use adit_rules::Identity;
use rustix::process::{
    DumpableBehavior, Signal, dumpable_behavior, getppid, set_parent_process_death_signal,
};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::agent;
use super::connection::{ConnectError, Target};
use super::descriptor::{receive, send};
use super::mux::{self, Handing, Place};
use super::ssh_host_keys::Trust;

/// Everything until the link stands.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// Until a process is gone that has nothing left to do.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Bytes of what it complains of that are kept, the last ones.
const LONGEST_COMPLAINT: usize = 4 << 10;
/// Characters of that which are told.
const LONGEST_REASON: usize = 400;

/// The name under which `adit` is asked to [`hand_over`].
pub const HAND_OVER: &str = "hand-over";
/// The name under which `adit` is asked to become `ssh`, see [`no_longer_than_the_broker`].
pub const NO_LONGER: &str = "no-longer-than-the-broker";
/// The program that runs, also when another version of it lies in its place (proc(5)).
const OURSELVES: &str = "/proc/self/exe";
/// What the kernel calls such a one (proc(5), `/proc/pid/exe`).
const DELETED: &str = " (deleted)";
/// Until a master's control socket is looked for again.
const LISTENS_EVERY: Duration = Duration::from_millis(20);

/// What is said of a connection that `ssh` could not make.
#[derive(Debug, thiserror::Error)]
pub enum OpenSshError {
    /// It can't be run.
    #[error(
        "ssh cannot be run: {0}; the engine `openssh` needs the system's ssh (the package openssh-client)"
    )]
    Start(io::Error),
    /// A host key that is not to be trusted.
    #[error("ssh does not trust the host key: {0}")]
    Untrusted(String),
    /// It was not let in.
    #[error("ssh was not let in: {0}")]
    Denied(String),
    /// Anything else.
    #[error("ssh ended: {0}")]
    Ended(String),
}

/// A running `ssh`.
pub(super) struct OpenSsh {
    child: Child,
    complaint: Complaint,
}

/// Starts it. Without a `connection` it makes its own, as its configuration says.
pub(super) async fn open(
    target: &Target,
    asked_for: &Target,
    connection: Option<OwnedFd>,
) -> Result<(Link, Driver, OpenSsh), ConnectError> {
    let trust = Trust::of(target, asked_for).await;
    let mut words = words(&trust, asked_for);
    // No connection of the user's own is taken or left behind.
    words.extend(options(&["ControlMaster=no", "ControlPath=none"]));
    words.extend(
        [
            "-s",
            "--",
            &asked_for.gateway.host,
            adit_link::ssh::SUBSYSTEM,
        ]
        .map(str::to_owned),
    );
    let mut ssh = start(&words, connection, Stdio::piped)
        .await
        .map_err(OpenSshError::Start)?;
    let (input, output) = ssh.pipes().map_err(OpenSshError::Start)?;
    let (read, write) = adit_link::pipe::split(output, input);
    let opened = timeout(
        PATIENCE,
        adit_link::initiate(read, write, Limits::default()),
    )
    .await;
    let timed_out = ConnectError::TimedOut {
        step: "ssh opens the link",
        after: PATIENCE,
    };
    match opened {
        Ok(Ok((link, driver))) => Ok((link, driver, ssh)),
        Ok(Err(error)) => match ssh.last_words().await {
            words if words.is_empty() => Err(error.into()),
            words => Err(trust.explain(cause(&words))),
        },
        Err(_) => Err(timed_out),
    }
}

/// A master with a connection to `target`, whose channels are the streams of the link. It has this `patience`.
pub(super) async fn open_master(
    target: &Target,
    asked_for: &Target,
    connection: Option<OwnedFd>,
    patience: Duration,
) -> Result<(Link, Driver, OpenSsh, Option<Handing>), ConnectError> {
    let place = Place::new()?;
    let control = place.path().to_owned();
    let trust = Trust::of(target, asked_for).await;
    let mut words = words(&trust, asked_for);
    // ssh takes `%` for its own.
    let path = control.display().to_string().replace('%', "%%");
    words.extend(options(&[
        "ControlMaster=yes",
        &format!("ControlPath=\"{path}\""),
    ]));
    words.extend(["-N", "--", &asked_for.gateway.host].map(str::to_owned));
    let runs_on = connection.as_ref().map(OwnedFd::try_clone).transpose()?;
    let mut ssh = start(&words, connection, Stdio::null)
        .await
        .map_err(OpenSshError::Start)?;
    let entering = async {
        let socket = ssh.until_it_listens(&control).await?;
        // The place is gone with this: who is in by then stays in.
        let more = target.hands_over.then(|| place.socket()).transpose()?;
        mux::enter(socket, runs_on, more).await
    };
    match timeout(patience, entering).await {
        Ok(Ok((link, driver, handing))) => Ok((link, driver, ssh, handing)),
        Ok(Err(error)) => match ssh.last_words().await {
            words if words.is_empty() => Err(OpenSshError::Ended(error.to_string()).into()),
            words => Err(trust.explain(cause(&words))),
        },
        Err(_) => Err(ConnectError::TimedOut {
            step: "ssh logs in",
            after: patience,
        }),
    }
}

impl OpenSsh {
    fn pipes(&mut self) -> io::Result<(ChildStdin, ChildStdout)> {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let input = self.child.stdin.take().ok_or_else(gone)?;
        let output = self.child.stdout.take().ok_or_else(gone)?;
        Ok((input, output))
    }

    /// A connection to its control socket, which is there once it has logged in.
    async fn until_it_listens(&mut self, control: &Path) -> io::Result<UnixStream> {
        loop {
            let refused = match UnixStream::connect(control).await {
                Ok(socket) => return Ok(socket),
                Err(refused) => refused,
            };
            if timeout(LISTENS_EVERY, self.child.wait()).await.is_ok() {
                return Err(refused);
            }
        }
    }

    /// Why the link ended, once it has.
    pub(super) async fn ended(mut self, end: LinkEnd) -> LinkEnd {
        let words = self.last_words().await;
        match end {
            LinkEnd::Transport(_) if !words.is_empty() => {
                LinkEnd::Transport(format!("ssh: {}", shortened(&words)))
            }
            other @ (LinkEnd::Transport(_)
            | LinkEnd::Closed
            | LinkEnd::PeerClosed(_)
            | LinkEnd::Protocol(_)
            | LinkEnd::Abandoned) => other,
        }
    }

    /// What it complained of until its end, which comes now.
    async fn last_words(&mut self) -> String {
        if timeout(LAST_WORDS, self.child.wait()).await.is_err() {
            // It is gone with this at the latest.
            let _ = self.child.kill().await;
        }
        self.complaint.all().await
    }
}

async fn start(
    words: &[String],
    connection: Option<OwnedFd>,
    standard: fn() -> Stdio,
) -> io::Result<OpenSsh> {
    is_there()?;
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    let mut command = Command::new(OURSELVES);
    command.arg(NO_LONGER).arg(std::process::id().to_string());
    command.arg("ssh");
    if let Some(connection) = connection {
        send(ours.as_fd(), connection.as_fd())?;
        command.args(proxy_command()?);
    }
    command.args(words);
    // ssh runs its ProxyCommand with it, and an account's own may be one that runs nothing.
    command.env("SHELL", "/bin/sh");
    // It looks nowhere else for an agent, unless its configuration says where one is.
    if let Some(agent) = agent::unnamed().await {
        command.env("SSH_AUTH_SOCK", agent);
    }
    command.stdin(standard()).stdout(standard());
    command.stderr(Stdio::from(OwnedFd::from(theirs)));
    // Who interrupts `adit up` at a terminal lets it end by itself.
    command.process_group(0).kill_on_drop(true);
    let child = command.spawn()?;
    ours.set_nonblocking(true)?;
    let complaint = Complaint::listen(UnixStream::from_std(ours)?);
    Ok(OpenSsh { child, complaint })
}

/// Our own program is what runs it, so its start says nothing of an `ssh` that is missing.
fn is_there() -> io::Result<()> {
    let Some(path) = std::env::var_os("PATH") else {
        return Ok(());
    };
    if std::env::split_paths(&path).any(|directory| directory.join("ssh").is_file()) {
        return Ok(());
    }
    let words = "no directory of PATH has it";
    Err(io::Error::new(io::ErrorKind::NotFound, words))
}

fn options(all: &[&str]) -> Vec<String> {
    let each = all.iter().flat_map(|option| ["-o", option]);
    each.map(str::to_owned).collect()
}

/// All options but those about the connection. What the rules leave out is left to ssh's configuration, unless they switch it off.
fn words(trust: &Trust, asked_for: &Target) -> Vec<String> {
    let mut words: Vec<String> = ["-T", "-x", "-a"].map(str::to_owned).to_vec();
    if asked_for.unsaid.is_none() {
        words.extend(["-F", "none"].map(str::to_owned));
    }
    let mut options = vec![
        // Nobody is there to be asked.
        "BatchMode=yes".to_owned(),
        "ControlPersist=no".to_owned(),
        "ClearAllForwardings=yes".to_owned(),
        "PermitLocalCommand=no".to_owned(),
        "RemoteCommand=none".to_owned(),
        "CanonicalizeHostname=no".to_owned(),
        "ForkAfterAuthentication=no".to_owned(),
        "StdinNull=no".to_owned(),
        "EscapeChar=none".to_owned(),
        "ServerAliveInterval=15".to_owned(),
        "ServerAliveCountMax=3".to_owned(),
        // What a server says before the login (its banner) is not a complaint of ssh's.
        "LogLevel=ERROR".to_owned(),
    ];
    options.extend(trust.options.iter().cloned());
    match &asked_for.identity {
        Some(Identity::File(file)) => {
            options.push(format!("IdentityFile=\"{}\"", file.display()));
            options.push("IdentitiesOnly=yes".to_owned());
        }
        Some(Identity::Agent) => options.push("IdentityFile=none".to_owned()),
        None => {}
    }
    if let Some(file) = &asked_for.certificate {
        options.push(format!("CertificateFile=\"{}\"", file.display()));
    }
    if let Some(user) = &asked_for.gateway.user {
        options.push(format!("User={user}"));
    }
    if asked_for.gateway.has_port {
        options.push(format!("Port={}", asked_for.gateway.port));
    }
    for option in options {
        words.extend(["-o".to_owned(), option]);
    }
    words
}

/// ssh hands it to a shell, and takes `%` for its own.
fn proxy_command() -> io::Result<[String; 4]> {
    let adit = ourselves_for_others()?;
    let adit = adit.to_str().ok_or(io::ErrorKind::InvalidData)?;
    let adit = adit.replace('\'', r"'\''").replace('%', "%%");
    Ok([
        "-o".to_owned(),
        "ProxyUseFdpass=yes".to_owned(),
        "-o".to_owned(),
        format!("ProxyCommand='{adit}' {HAND_OVER}"),
    ])
}

/// Where another process finds our program, also when another version of it lies in its place.
fn ourselves_for_others() -> io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    if own.exists() {
        return Ok(own);
    }
    // One that has been root is not looked into by its user's processes (proc(5)); what took its place knows the word as well.
    let may_be_seen = matches!(dumpable_behavior(), Ok(DumpableBehavior::Dumpable));
    Ok(match own.to_str().and_then(|it| it.strip_suffix(DELETED)) {
        Some(place) if !may_be_seen => place.into(),
        Some(_) | None => format!("/proc/{}/exe", std::process::id()).into(),
    })
}

/// Gives `ssh`, at standard output, the connection that waits at standard error.
///
/// # Errors
/// When there is none: only ssh runs this.
pub fn hand_over() -> io::Result<()> {
    let connection = receive(io::stderr().as_fd())?;
    send(io::stdout().as_fd(), connection.as_fd())
}

/// Becomes `ssh` with these words, which ends with its parent, the broker.
///
/// # Errors
/// When there is no such program, or the broker is gone already: only it runs this.
pub fn no_longer_than_the_broker(
    mut words: impl Iterator<Item = OsString>,
) -> io::Result<Infallible> {
    let broker = words.next().and_then(|word| word.into_string().ok());
    let program = words.next().ok_or(io::ErrorKind::InvalidInput)?;
    set_parent_process_death_signal(Some(Signal::TERM))?;
    let parent = getppid().map(|parent| parent.as_raw_nonzero().to_string());
    if broker != parent {
        return Err(io::ErrorKind::NotFound.into());
    }
    Err(std::process::Command::new(program).args(words).exec())
}

/// What `ssh` writes to standard error, as far as it is kept.
struct Complaint {
    kept: Arc<Mutex<Vec<u8>>>,
    listening: JoinHandle<()>,
}

impl Complaint {
    fn listen(mut stream: UnixStream) -> Self {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let keeps = kept.clone();
        let listening = tokio::spawn(async move {
            let mut buffer = [0; 1024];
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                let mut kept = keeps.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(&buffer[..read]);
                let surplus = kept.len().saturating_sub(LONGEST_COMPLAINT);
                kept.drain(..surplus);
            }
        });
        Self { kept, listening }
    }

    /// All of it. What another process keeps open is not waited for.
    async fn all(&mut self) -> String {
        let _ = timeout(LAST_WORDS, &mut self.listening).await;
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept).into_owned()
    }
}

impl Drop for Complaint {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// What its words mean. They are those of OpenSSH's sshconnect.c, sshconnect2.c and clientloop.c, which speak English only.
fn cause(words: &str) -> ConnectError {
    let has = |text: &str| words.to_ascii_lowercase().contains(text);
    let reason = shortened(words);
    if has("host key") || has("host identification") || has("hostkey") {
        return OpenSshError::Untrusted(reason).into();
    }
    if has("subsystem request failed") {
        return ConnectError::NoSubsystem;
    }
    if has("permission denied") || has("too many authentication failures") {
        return OpenSshError::Denied(reason).into();
    }
    OpenSshError::Ended(reason).into()
}

/// On one line, without frames of `@`.
fn shortened(words: &str) -> String {
    let lines = words
        .lines()
        .map(|line| line.trim_matches(|it: char| it == '@' || it.is_whitespace()));
    let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    let text = lines.join("; ");
    text.chars()
        .filter(|it| !it.is_control())
        .take(LONGEST_REASON)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_key_that_ssh_does_not_trust_is_never_taken_for_less() {
        // As ssh 9.2 prints them.
        for words in [
            "@@@@@@@@@@@\r\n@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\r\n@@@@@@\r\n",
            "No ED25519 host key is known for gw and you have requested strict checking.\r\nHost key verification failed.\r\n",
            "Host key for gw has changed and you have requested strict checking.\r\n",
            "WARNING: REVOKED HOST KEY DETECTED!\r\n",
        ] {
            let error = cause(words);
            assert!(error.is_untrusted() && error.is_lasting(), "{error}");
        }
        let other = cause("kex_exchange_identification: Connection closed by remote host\r\n");
        assert!(!other.is_untrusted() && !other.is_lasting(), "{other}");
        assert!(matches!(
            cause("subsystem request failed on channel 0"),
            ConnectError::NoSubsystem
        ));
    }

    #[tokio::test]
    async fn only_the_end_of_a_long_complaint_is_kept() {
        use tokio::io::AsyncWriteExt;
        let (mut near, far) = UnixStream::pair().unwrap();
        let mut complaint = Complaint::listen(far);
        near.write_all(&[b'x'; 3 * LONGEST_COMPLAINT])
            .await
            .unwrap();
        near.write_all(b"the end").await.unwrap();
        drop(near);
        let all = complaint.all().await;
        assert!(all.ends_with("the end") && all.len() == LONGEST_COMPLAINT);
    }
}
