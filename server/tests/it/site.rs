//! A gateway of its own for each test: directory, keys, file, process, log.
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Longest wait for anything that should happen at once; only a failing test waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Names that the gateway's resolver knows, from a hosts file of its own; there is no name server
/// behind it.
const HOSTS: &str = "127.0.0.1 localhost db.zone.test rebound.open.test\n::1 localhost both.zone.test\n127.0.0.1 both.zone.test\n";

/// Keys and directory.
pub(crate) struct Site {
    directory: tempfile::TempDir,
}

impl Site {
    /// A host key, a key of alice's that is authorized, a key of mallory's that is not.
    pub(crate) fn new() -> Self {
        let site = Self {
            directory: tempfile::tempdir().expect("directory"),
        };
        for name in ["host", "alice", "mallory"] {
            site.keygen(name, "");
        }
        fs::create_dir(site.path("keys")).expect("directory");
        site.authorize("alice", &site.public_key("alice"));
        site.write("hosts", HOSTS);
        site.write(
            "resolv.conf",
            "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
        );
        site
    }

    pub(crate) fn keygen(&self, name: &str, words: &str) {
        let mut keygen = Command::new("ssh-keygen");
        keygen
            .args([
                "-q", "-t", "ed25519", "-a", "1", "-N", words, "-C", name, "-f",
            ])
            .arg(self.path(name));
        assert!(keygen.status().expect("ssh-keygen runs").success());
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        fs::write(self.path(name), text).expect("write");
        self.path(name)
    }

    pub(crate) fn public_key(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.pub"))).expect("public key")
    }

    pub(crate) fn authorize(&self, user: &str, lines: &str) {
        let file = self.write(&format!("keys/{user}"), lines);
        fs::set_permissions(file, fs::Permissions::from_mode(0o644)).expect("chmod");
    }

    /// A gateway's file. `policy` and `extra` are YAML.
    pub(crate) fn config(&self, policy: &str, extra: &str) -> PathBuf {
        let directory = self.directory.path().display();
        self.write(
            "gateway.yaml",
            &format!(
                "version: 1\nlisten: [\"127.0.0.1:0\"]\nhost_keys: [{directory}/host]\n\
                 authorized_keys: {directory}/keys/%u\npolicy: {policy}\n{extra}\n"
            ),
        )
    }

    /// Starts a gateway and waits until it listens.
    pub(crate) fn start(&self, policy: &str, extra: &str) -> Running {
        let config = self.config(policy, extra);
        let mut command = self.with_names(Path::new(env!("CARGO_BIN_EXE_adit-server")));
        command
            .arg("--config")
            .arg(config)
            .args(["--log-format", "json"]);
        Running::of(command)
    }

    /// The same with this many descriptors.
    pub(crate) fn start_with_descriptors(&self, policy: &str, number: u32) -> Running {
        let config = self.config(policy, "");
        let mut command = self.with_names(Path::new("prlimit"));
        command
            .arg(format!("--nofile={number}:{number}"))
            .args([env!("CARGO_BIN_EXE_adit-server"), "--config"])
            .arg(config)
            .args(["--log-format", "json"]);
        Running::of(command)
    }

    /// The same with a log for people, each line of which is then a JSON string.
    pub(crate) fn start_with_text_log(&self, policy: &str) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_adit-server"));
        command.arg("--config").arg(self.config(policy, ""));
        Running::of(command)
    }

    /// The program with the names of [`HOSTS`] and no others, in a mount namespace of its own.
    pub(crate) fn with_names(&self, program: &Path) -> Command {
        let mut command = Command::new("unshare");
        if !nix::unistd::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        let script = "mount --bind \"$1\" /etc/hosts && mount --bind \"$2\" /etc/resolv.conf && shift 2 && exec \"$@\"";
        command
            .args(["--mount", "sh", "-ec", script, "sh"])
            .arg(self.path("hosts"))
            .arg(self.path("resolv.conf"))
            .arg(program);
        command
    }

    /// `ssh` as `user` with the key called `key`, to the gateway at `address`, host key checked.
    pub(crate) fn ssh(&self, address: SocketAddr, user: &str, key: &str) -> Command {
        self.ssh_with(address, user, key, &["-o", "BatchMode=yes"])
    }

    /// The same, which asks whoever started it.
    pub(crate) fn asking_ssh(&self, address: SocketAddr, user: &str, key: &str) -> Command {
        self.ssh_with(address, user, key, &[])
    }

    fn ssh_with(&self, address: SocketAddr, user: &str, key: &str, options: &[&str]) -> Command {
        let known = format!(
            "[{}]:{} {}",
            address.ip(),
            address.port(),
            self.public_key("host")
        );
        let known = self.write("known_hosts", &known);
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "/dev/null"]).args(options).args([
            "-o",
            "StrictHostKeyChecking=yes",
            "-o",
            "IdentitiesOnly=yes",
        ]);
        ssh.args([
            "-o",
            "ControlPath=none",
            "-o",
            "IdentityAgent=none",
            "-o",
            "SendEnv=LANG LC_*",
        ])
        .env("LC_ALL", "C");
        ssh.arg("-o")
            .arg(format!("UserKnownHostsFile={}", known.display()));
        ssh.arg("-i")
            .arg(self.path(key))
            .args(["-p", &address.port().to_string(), "-l", user]);
        ssh.arg(address.ip().to_string());
        ssh
    }
}

/// A process that does not outlive its test, also where that fails.
pub(crate) struct Kept(pub(crate) Child);

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A gateway's process; killed when dropped.
pub(crate) struct Running {
    child: Kept,
    pub(crate) address: SocketAddr,
    log: Log,
}

impl Running {
    pub(crate) fn of(mut command: Command) -> Self {
        let child = command.stderr(Stdio::piped()).spawn();
        let mut child = Kept(child.expect("the gateway starts"));
        let log = Log::follow(child.0.stderr.take().expect("stderr"));
        let address = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut running = Self {
            child,
            address,
            log,
        };
        let is_said =
            |line: &Value| line["message"] == "listening" || text(line).contains("listening");
        let said = running.wait_log(is_said);
        let address = said["address"].as_str();
        let address = address.or_else(|| text(&said).split("address=").nth(1));
        running.address = address
            .and_then(|at| at.trim().parse().ok())
            .expect("address");
        running
    }

    pub(crate) fn wait_log(&self, fits: impl Fn(&Value) -> bool) -> Value {
        self.log.wait(fits)
    }

    /// Leaves what the gateway writes where it is, or takes it again.
    pub(crate) fn hold_log(&self, hold: bool) {
        *self.log.held.0.lock().expect("gate") = hold;
        self.log.held.1.notify_all();
    }

    pub(crate) fn log_lines(&self) -> Vec<Value> {
        self.log.lines.0.lock().expect("log").clone()
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.0.id()).expect("pid"))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("signal");
    }

    /// Waits for the end.
    pub(crate) fn ended(mut self) -> ExitStatus {
        wait(&mut self.child.0)
    }
}

fn text(line: &Value) -> &str {
    line.as_str().unwrap_or_default()
}

/// Waits for a child, at most [`PATIENCE`].
pub(crate) fn wait(child: &mut Child) -> ExitStatus {
    let since = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("wait") {
            return status;
        }
        if since.elapsed() >= PATIENCE {
            let _ = child.kill();
            panic!("the process does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs to the end, at most [`PATIENCE`]. Output is small in these tests.
pub(crate) fn output(mut command: Command) -> Output {
    let command = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("starts");
    let status = wait(&mut child);
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    child
        .stdout
        .take()
        .expect("stdout")
        .read_to_end(&mut stdout)
        .expect("read");
    child
        .stderr
        .take()
        .expect("stderr")
        .read_to_end(&mut stderr)
        .expect("read");
    Output {
        status,
        stdout,
        stderr,
    }
}

/// The JSON lines of a process so far.
struct Log {
    lines: Arc<(Mutex<Vec<Value>>, Condvar)>,
    held: Arc<(Mutex<bool>, Condvar)>,
}

impl Log {
    fn follow(from: impl Read + Send + 'static) -> Self {
        let lines = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let held = Arc::new((Mutex::new(false), Condvar::new()));
        let (followed, gate) = (Arc::clone(&lines), Arc::clone(&held));
        std::thread::spawn(move || {
            for line in BufReader::new(from).lines() {
                let line = line.expect("log line");
                let held = gate.0.lock().expect("gate");
                drop(gate.1.wait_while(held, |held| *held).expect("gate"));
                let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                followed.0.lock().expect("log").push(value);
                followed.1.notify_all();
            }
        });
        Self { lines, held }
    }

    fn wait(&self, fits: impl Fn(&Value) -> bool) -> Value {
        let lines = self.lines.0.lock().expect("log");
        let missing = |lines: &mut Vec<Value>| !lines.iter().any(&fits);
        let (lines, _) = self
            .lines
            .1
            .wait_timeout_while(lines, PATIENCE, missing)
            .expect("log");
        let found = lines.iter().find(|line| fits(line)).cloned();
        found.unwrap_or_else(|| panic!("no such line in the log: {lines:#?}"))
    }
}
