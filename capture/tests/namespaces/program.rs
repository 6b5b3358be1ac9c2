//! A program of a user that connects to a puppet and waits, however it was started.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::lab::{Puppet, sh};

/// The user of all of them.
pub(crate) const USER: u32 = 1000;
/// Where the puppet listens.
pub(crate) const THERE: &str = "127.0.0.1:7001";
/// Longer than anything that is waited for takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Killed when dropped, with all that it started.
pub(crate) struct Program {
    child: Child,
    /// The address of its connection.
    pub(crate) from: String,
}

impl Program {
    /// Runs a line of bash as the user; something in it connects.
    pub(crate) fn start(broker: &mut Puppet, line: &str) -> Program {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "1000", "--regid", "1000", "--clear-groups"])
            .args(["bash", "-c", line])
            .current_dir("/run/opt")
            .env("PWD", "/run/opt")
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
            .stdin(Stdio::piped());
        Program::of(broker, command)
    }

    /// A command that connects.
    pub(crate) fn of(broker: &mut Puppet, mut command: Command) -> Program {
        let child = command.spawn().unwrap();
        let accepted = broker.expect("accept 0", "ok");
        let from = accepted.split(' ').next().unwrap().to_owned();
        Program { child, from }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it go on that reads its standard input.
    pub(crate) fn go_on(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Lets it go on to the next line that it reads.
    pub(crate) fn go_on_once(&mut self) {
        let input = self.child.stdin.as_mut().unwrap();
        input.write_all(b"\n").unwrap();
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The path of the binary of whoever made its connection, or `unknown`.
    pub(crate) fn owner(&self, broker: &mut Puppet) -> String {
        let said = broker.ask(&format!("owner {} {THERE}", self.from));
        said.rsplit(' ').next().unwrap().to_owned()
    }

    /// One fact of whoever made its connection.
    pub(crate) fn fact(&self, broker: &mut Puppet, name: &str) -> String {
        let said = broker.ask(&format!("facts {} {THERE}", self.from));
        let mut words = said.split(' ').skip_while(|word| *word != name).skip(1);
        words.next().unwrap_or_else(|| panic!("{said}")).to_owned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A user's broker that listens [`THERE`], and copies of these programs in `/run/bin`.
pub(crate) fn broker(copies: &[(&str, &str)]) -> Puppet {
    sh("mkdir -m 755 /run/bin /run/opt && chown 1000:1000 /run/opt");
    for (program, copy) in copies {
        sh(&format!(
            "cp $(command -v {program}) /run/bin/{copy} && chmod 755 /run/bin/{copy}"
        ));
    }
    let mut broker = Puppet::of_user(USER);
    broker.expect(&format!("listen {THERE}"), "ok");
    broker
}

/// Waits until it is so.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until a process runs this binary.
pub(crate) fn until_runs(pid: u32, binary: &str) {
    let exe = format!("/proc/{pid}/exe");
    until(&format!("{pid} to run {binary}"), || {
        std::fs::read_link(&exe).is_ok_and(|path| path.as_os_str() == binary)
    });
}

/// Waits until some process runs this binary; which.
pub(crate) fn until_some_runs(binary: &str) -> u32 {
    let mut found = None;
    until(&format!("a process of {binary}"), || {
        let all = std::fs::read_dir("/proc").unwrap();
        let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        found = pids.into_iter().find(|pid| {
            let exe = std::fs::read_link(format!("/proc/{pid}/exe"));
            exe.is_ok_and(|path| path.as_os_str() == binary)
        });
        found.is_some()
    });
    found.unwrap()
}
