//! What cases are made of: the helper as a process, puppets as users, a zone with hosts in it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Where the helper of a case listens.
pub(crate) const SOCKET: &str = "/run/adit/capture.sock";
/// Longer than anything that is waited for takes, and shorter than a case may.
const PATIENCE: Duration = Duration::from_secs(20);

/// Makes the namespaces that the case was born in fit to use.
pub(crate) fn prepare() {
    sh("mount -t tmpfs tmpfs /run && ip link set lo up");
}

/// Runs a line of shell; what it writes.
pub(crate) fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-ec", line]).output().unwrap();
    assert!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Everything that the helper may change.
pub(crate) fn kernel_state() -> String {
    sh("nft list ruleset; ip rule; ip -6 rule; ip route show table all; ip -6 route show table all")
}

/// A host beyond a link, 10.9.0.2 and fd09::2, to which this one has routes.
pub(crate) fn make_zone() {
    sh("ip netns add zone
        ip link add up0 type veth peer name down0 netns zone
        ip link set up0 addrgenmode none; ip -n zone link set down0 addrgenmode none
        ip addr add 10.9.0.1/24 dev up0 && ip addr add fd09::1/64 dev up0 nodad && ip link set up0 up
        ip -n zone addr add 10.9.0.2/24 dev down0 && ip -n zone addr add fd09::2/64 dev down0 nodad
        ip -n zone link set down0 up && ip -n zone link set lo up");
    // The two ends find each other in their own time, and routes change with that.
    for address in ["10.9.0.2:1", "[fd09::2]:1"] {
        let answer = std::net::TcpStream::connect(address).map_err(|error| error.kind());
        assert_eq!(answer.err(), Some(std::io::ErrorKind::ConnectionRefused));
    }
}

/// Reads the lines of a child, so that it never waits for us, and lets them be waited for.
fn lines(stream: impl std::io::Read + Send + 'static, echo: &'static str) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            eprintln!("{echo}{line}");
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// A helper.
pub(crate) struct Helper {
    child: Child,
    log: Receiver<String>,
}

impl Helper {
    /// Started, and ready for brokers.
    pub(crate) fn start(arguments: &[&str]) -> Helper {
        let mut helper = Helper::spawn(arguments);
        helper.wait_log("ready");
        helper
    }

    pub(crate) fn spawn(arguments: &[&str]) -> Helper {
        Helper::command(Command::new(env!("CARGO_BIN_EXE_adit-capture")), arguments)
    }

    /// One that may have so many descriptors.
    pub(crate) fn limited(descriptors: u32) -> Helper {
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={descriptors}:{descriptors}"));
        command.arg(env!("CARGO_BIN_EXE_adit-capture"));
        let mut helper = Helper::command(command, &[]);
        helper.wait_log("ready");
        helper
    }

    fn command(mut command: Command, arguments: &[&str]) -> Helper {
        let mut child = command
            .args(["--socket", SOCKET])
            .args(arguments)
            .env_remove("ADIT_LOG")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = lines(child.stderr.take().unwrap(), "helper: ");
        Helper { child, log }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line of the log with these words in it.
    pub(crate) fn wait_log(&mut self, words: &str) -> String {
        loop {
            let line = self.log.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|error| panic!("no {words:?} in the log: {error}"));
            if line.contains(words) {
                return line;
            }
        }
    }

    /// How many lines of the log so far have these words in them.
    pub(crate) fn lines_with(&self, words: &str) -> usize {
        let lines = self.log.try_iter();
        lines.filter(|line| line.contains(words)).count()
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, as a service manager does.
    pub(crate) fn stop(self) -> ExitStatus {
        sh(&format!("kill -TERM {}", self.pid()));
        self.wait()
    }

    pub(crate) fn wait(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

/// `adit-capture` with these words, run to its end: whether it succeeded, and its log.
pub(crate) fn adit_capture(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_adit-capture"))
        .args(arguments)
        .output()
        .unwrap();
    (
        output.status.success(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// A process of some user that does what it is told; see `puppet.rs`.
pub(crate) struct Puppet {
    child: Child,
    stdin: ChildStdin,
    answers: Receiver<String>,
}

impl Puppet {
    pub(crate) fn of_user(uid: u32) -> Puppet {
        let uid = uid.to_string();
        Puppet::spawn(&[
            "setpriv",
            "--reuid",
            &uid,
            "--regid",
            &uid,
            "--clear-groups",
            "--",
        ])
    }

    pub(crate) fn in_zone() -> Puppet {
        Puppet::spawn(&["ip", "netns", "exec", "zone"])
    }

    fn spawn(before: &[&str]) -> Puppet {
        let exe = std::env::current_exe().unwrap();
        let mut child = Command::new(before[0])
            .args(&before[1..])
            .arg(exe)
            .arg("puppet")
            .current_dir(Path::new("/"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let answers = lines(child.stdout.take().unwrap(), "puppet: ");
        Puppet {
            child,
            stdin,
            answers,
        }
    }

    /// A broker of that user: a session, two listeners, and this claim taken.
    pub(crate) fn broker(uid: u32, claim: &str) -> Puppet {
        let mut puppet = Puppet::of_user(uid);
        puppet.expect("listeners", "ok");
        puppet.expect("session", "ok");
        puppet.expect(&format!("claim {claim}"), "ok");
        puppet
    }

    /// The same with a queue, and a claim that asks about these networks.
    pub(crate) fn asker(uid: u32, networks: &[&str], word: &str) -> Puppet {
        let mut puppet = Puppet::of_user(uid);
        puppet.expect("listeners", "ok");
        puppet.expect("session", "ok");
        puppet.expect("queue", "ok");
        puppet.expect(&format!("claim {}", ask(networks, word)), "ok");
        puppet
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn tell(&mut self, order: &str) {
        writeln!(self.stdin, "{order}").unwrap();
    }

    pub(crate) fn answer(&mut self) -> String {
        self.answers
            .recv_timeout(PATIENCE)
            .expect("an answer of the puppet")
    }

    /// An answer that is already there.
    pub(crate) fn try_answer(&mut self) -> Option<String> {
        self.answers.try_recv().ok()
    }

    pub(crate) fn ask(&mut self, order: &str) -> String {
        self.tell(order);
        self.answer()
    }

    /// Asks, and the answer begins with these words; what follows them.
    pub(crate) fn expect(&mut self, order: &str, words: &str) -> String {
        let answer = self.ask(order);
        let rest = answer.strip_prefix(words);
        rest.unwrap_or_else(|| panic!("{order}: {answer}, not {words}"))
            .trim()
            .to_owned()
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// A claim that hands these networks over, passes the rest, with this word.
pub(crate) fn hand_over(networks: &[&str], word: &str) -> String {
    let networks: Vec<String> = networks
        .iter()
        .map(|network| format!("{network:?}"))
        .collect();
    format!(
        r#"{{"steps":[{{"to":[{}],"ports":[],"verdict":"hand_over"}}],"default":"pass","on_broker_gone":"{word}"}}"#,
        networks.join(",")
    )
}

/// The same that asks about them.
pub(crate) fn ask(networks: &[&str], word: &str) -> String {
    hand_over(networks, word).replace("hand_over", "ask")
}
