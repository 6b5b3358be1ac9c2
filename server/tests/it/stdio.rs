//! The relay on stdin and stdout: through pipes, a socket, and a stock sshd with the system's `ssh`
//! before it.
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use adit_link::{Link, RefusalReason};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::destinations::{closed_port, echo};
use crate::flows::{begin, flow, refusal};
use crate::site::{PATIENCE, Site, output, wait};

const SERVER: &str = env!("CARGO_BIN_EXE_adit-server");

pub(crate) fn own_name() -> String {
    nix::unistd::User::from_uid(nix::unistd::getuid())
        .expect("user database")
        .expect("user")
        .name
}

async fn check_flow(link: &Link, at: SocketAddr) {
    let mut program = flow(link, "127.0.0.1", at.port()).await;
    program.write_all(&vec![42; 300_000]).await.expect("write");
    program.shutdown().await.expect("shutdown");
    let mut got = Vec::new();
    program.read_to_end(&mut got).await.expect("read");
    assert_eq!(got, vec![42; 300_000]);
}

/// A link through a process's stdin and stdout.
async fn link_of(mut command: Command) -> (Link, tokio::process::Child) {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .expect("starts");
    let (input, output) = (
        child.stdin.take().expect("stdin"),
        child.stdout.take().expect("stdout"),
    );
    let (read, write) = adit_link::pipe::split(output, input);
    (begin(read, write).await, child)
}

#[tokio::test(flavor = "multi_thread")]
async fn pipes_carry_a_link_and_only_what_is_allowed() {
    let at = echo().await;
    let mut command = Command::new(SERVER);
    command.args(["--stdio", "--log-to", "stderr"]);
    command.args(["--allow", &format!("127.0.0.1:{}", at.port())]);
    let (link, mut child) = link_of(command).await;
    check_flow(&link, at).await;
    assert_eq!(
        refusal(&link, "127.0.0.1", closed_port()).await.reason,
        RefusalReason::Denied
    );
    link.close();
    let status = tokio::time::timeout(PATIENCE, child.wait())
        .await
        .expect("in time")
        .expect("wait");
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_gives_the_policy_of_the_processs_own_user() {
    let site = Site::new();
    let at = echo().await;
    let policy = |user: &str| {
        site.write(
            "policy.yaml",
            &format!(
                "version: 1\nlog: {{to: stderr}}\npolicy: [{{name: own, users: [{user}], allow: [\"127.0.0.1:{}\"]}}]\n",
                at.port()
            ),
        )
    };
    for (user, denied) in [(own_name(), false), ("somebody-else".to_owned(), true)] {
        let mut command = Command::new(SERVER);
        command.arg("--stdio").arg("--config").arg(policy(&user));
        let (link, _child) = link_of(command).await;
        if denied {
            assert_eq!(
                refusal(&link, "127.0.0.1", at.port()).await.reason,
                RefusalReason::Denied
            );
        } else {
            check_flow(&link, at).await;
        }
    }
}

#[test]
fn a_file_with_keys_that_only_a_server_keeps_is_refused() {
    let site = Site::new();
    let policy = "version: 1\nlog: {to: stderr}\npolicy: []\n";
    for (more, named) in [
        ("revoked_keys: [/etc/adit/revoked]", "`revoked_keys`"),
        (
            "max_connections: 7\nlimits: [{users: [alice], sessions: 1}]",
            "`limits: sessions`, `max_connections`",
        ),
        (
            "port_forwarding: false\nmotd: hello",
            "`port_forwarding`, `motd`",
        ),
    ] {
        let file = site.write("policy.yaml", &format!("{policy}{more}\n"));
        for check in [&["--check"][..], &[]] {
            let mut command = Command::new(SERVER);
            command
                .arg("--stdio")
                .arg("--config")
                .arg(&file)
                .args(check);
            let output = output(command);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{more}: {said}");
            assert!(
                said.contains("does not keep") && said.contains(named),
                "{said}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_lasts_as_long_as_the_file_says() {
    let site = Site::new();
    let file = "version: 1\nlog: {to: stderr}\npolicy: []\nsession_timeout_seconds: 1\n";
    let mut command = Command::new(SERVER);
    command.arg("--stdio").arg("--config");
    command.arg(site.write("policy.yaml", file));
    let (link, mut child) = link_of(command).await;
    let ended = tokio::time::timeout(PATIENCE, link.ended());
    ended.await.expect("in time");
    let ended = tokio::time::timeout(PATIENCE, child.wait());
    assert!(ended.await.expect("in time").expect("wait").success());
}

/// The program with `/run` in the place of the system's.
pub(crate) fn with_run(run: &Path) -> Command {
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    let script = "mount --bind \"$1\" /run && shift && exec \"$@\"";
    command
        .args(["--mount", "sh", "-ec", script, "sh"])
        .arg(run)
        .arg(SERVER);
    command
}

#[test]
fn without_a_journal_the_client_does_not_see_the_audit_unless_that_is_meant() {
    let site = Site::new();
    std::fs::create_dir(site.path("run")).expect("directory");
    let mut command = with_run(&site.path("run"));
    command.args(["--stdio", "--allow", "127.0.0.1:1"]);
    let output = output(command);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("--log-to stderr"), "{said}");
    assert!(output.stdout.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_goes_to_the_journal_and_not_to_the_client() {
    let site = Site::new();
    let at = echo().await;
    std::fs::create_dir_all(site.path("run/systemd/journal")).expect("directory");
    let journal = UnixDatagram::bind(site.path("run/systemd/journal/socket")).expect("journal");
    let mut command = with_run(&site.path("run"));
    command.args(["--stdio", "--allow", &format!("127.0.0.1:{}", at.port())]);
    let (link, child) = link_of(command).await;
    check_flow(&link, at).await;
    link.close();
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output())
        .await
        .expect("in time");
    assert_eq!(String::from_utf8_lossy(&output.expect("output").stderr), "");

    journal.set_nonblocking(true).expect("nonblocking");
    let mut entries = Vec::new();
    let mut buffer = vec![0; 65_536];
    while let Ok(length) = journal.recv(&mut buffer) {
        entries.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
    }
    let of = |event: &str| {
        entries
            .iter()
            .find(|entry| entry.contains(&format!("{event}\n")))
    };
    let open = of("open").unwrap_or_else(|| panic!("no open in {entries:#?}"));
    assert!(
        open.contains("F_ASKED") && open.contains(&at.to_string()),
        "{open}"
    );
    assert!(
        of("end").is_some_and(|end| end.contains("300000\nF_RECEIVED")),
        "{entries:#?}"
    );
}

/// A stock sshd on loopback; killed when dropped.
pub(crate) struct Sshd {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Sshd {
    fn start(site: &Site, subsystem: &str, extra: &str) -> Self {
        let extra = format!("Subsystem adit-link {subsystem}\n{extra}");
        Self::with(site, "host", &extra)
    }

    /// As it is without us, with this host key.
    pub(crate) fn with_host_key(site: &Site, host_key: &str) -> Self {
        Self::with(site, host_key, "")
    }

    fn with(site: &Site, host_key: &str, extra: &str) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = free.local_addr().expect("address");
        drop(free);
        let config = site.write("sshd_config", &format!(
            "ListenAddress 127.0.0.1\nPort {}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPidFile none\n\
             PermitRootLogin prohibit-password\n{extra}\n",
            address.port(), site.path(host_key).display(), site.path("keys/alice").display()));
        let mut command = if nix::unistd::geteuid().is_root() {
            // Started by root, sshd wants a directory that only a booted system has.
            let mut command = Command::new("unshare");
            command.args([
                "--mount",
                "sh",
                "-ec",
                "mount -t tmpfs tmpfs /run; mkdir /run/sshd; exec \"$@\"",
                "sh",
            ]);
            command.arg("/usr/sbin/sshd");
            command
        } else {
            Command::new("/usr/sbin/sshd")
        };
        command
            .arg("-D")
            .arg("-e")
            .arg("-f")
            .arg(config)
            .stderr(Stdio::piped());
        let child = command.spawn().expect("sshd starts");
        // Killed when dropped from here on, also when what follows fails.
        let mut sshd = Self { child, address };
        let mut log = BufReader::new(sshd.child.stderr.take().expect("stderr")).lines();
        let said = log
            .by_ref()
            .map(|line| line.expect("line"))
            .find(|line| line.contains("Server listening on"));
        assert!(said.is_some(), "sshd does not listen");
        // Whatever else it says must not fill the pipe.
        std::thread::spawn(move || log.for_each(drop));
        sshd
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        wait(&mut self.child);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_sshd_starts_it_as_a_subsystem_and_as_a_command() {
    let site = Site::new();
    let at = echo().await;
    let allow = format!(
        "{SERVER} --stdio --log-to stderr --allow 127.0.0.1:{}",
        at.port()
    );
    let sshd = Sshd::start(&site, &allow, "");
    for arguments in [vec!["-s", "adit-link"], vec![allow.as_str()]] {
        let mut ssh = site.ssh(sshd.address, &own_name(), "alice");
        ssh.args(&arguments);
        let (link, _ssh) = link_of(ssh).await;
        check_flow(&link, at).await;
        assert_eq!(
            refusal(&link, "127.0.0.2", at.port()).await.reason,
            RefusalReason::Denied,
            "{arguments:?}"
        );
    }
    assert!(Path::new(SERVER).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_command_is_all_there_is_whatever_is_asked_for() {
    let site = Site::new();
    let at = echo().await;
    let allow = format!(
        "{SERVER} --stdio --log-to stderr --allow 127.0.0.1:{}",
        at.port()
    );
    let extra = format!("ForceCommand {allow}\nDisableForwarding yes\nPermitTTY no");
    let sshd = Sshd::start(&site, &allow, &extra);
    for arguments in [["-s", "adit-link"], ["--", "id"]] {
        let mut ssh = site.ssh(sshd.address, &own_name(), "alice");
        ssh.args(arguments);
        let (link, _ssh) = link_of(ssh).await;
        check_flow(&link, at).await;
    }
    let mut forward = site.ssh(sshd.address, &own_name(), "alice");
    forward.args(["-W", &at.to_string()]);
    let output = output(forward);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("administratively prohibited"), "{said}");
}
