//! The box that a lab lives in: namespaces of its own for mounts, processes, host name and shared memory.
//!
//! Its first process ends when the pipe to it closes, which happens also when the test is killed; and with
//! a process namespace's first process end all its others, and with these the network namespaces, the
//! mounts and every file that a lab wrote.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// bash, because it reaps what others leave behind as a first process must.
const FIRST_PROCESS: &str = "
set -e
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mkdir -p /run/netns /run/adit /run/sshd /run/lock /run/lab
hostname adit-lab
# Whoever asks for a name is refused at once, by nobody at the loopback address.
resolver=$(readlink -m /etc/resolv.conf)
mkdir -p \"${resolver%/*}\" && touch \"$resolver\"
echo nameserver 127.0.0.1 >/run/lab/resolv.conf
mount --bind /run/lab/resolv.conf \"$resolver\"
echo up
while read -r line; do :; done
";

/// A running box. Dropping it ends everything in it.
#[derive(Debug)]
pub(crate) struct Sandbox {
    outer: Child,
    leash: Option<ChildStdin>,
    first: u32,
}

impl Sandbox {
    pub(crate) fn start() -> Result<Sandbox> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "the lab makes network namespaces and needs root: run `make test`, or this test under sudo"
        );
        let mut outer = Command::new("unshare")
            .args([
                "--mount",
                "--pid",
                "--ipc",
                "--uts",
                "--fork",
                "--kill-child",
                "--mount-proc",
            ])
            .args(["bash", "-c", FIRST_PROCESS])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("unshare (util-linux) did not start")?;
        let leash = outer.stdin.take();
        let mut answer = [0; 3];
        let told = outer
            .stdout
            .take()
            .map(|mut out| out.read_exact(&mut answer));
        if !matches!(told, Some(Ok(()))) {
            let _ = outer.kill();
            let status = outer.wait()?;
            bail!("the lab's namespaces could not be made ({status}); its reason stands above");
        }
        let first = only_child(outer.id())?;
        Ok(Sandbox {
            outer,
            leash,
            first,
        })
    }

    /// A path of the lab as seen from outside.
    pub(crate) fn outside(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        let root = PathBuf::from(format!("/proc/{}/root", self.first));
        root.join(inside.strip_prefix("/").unwrap_or(inside))
    }

    /// A command that runs in the box; in the network namespace `host` when given.
    pub(crate) fn enter(&self, host: Option<&str>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.first))
            .args(["--mount", "--pid", "--ipc", "--uts"]);
        if let Some(host) = host {
            let namespace = self.outside(format!("/run/netns/{host}"));
            command.arg(format!("--net={}", namespace.display()));
        }
        command.arg("--");
        command
    }

    /// The box's first process, as numbered outside.
    pub(crate) fn first_process(&self) -> u32 {
        self.first
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        drop(self.leash.take());
        let _ = self.outer.wait();
    }
}

/// The one child of a process that forks once: `unshare --fork`, `nsenter --pid`.
pub(crate) fn only_child(parent: u32) -> Result<u32> {
    let file = format!("/proc/{parent}/task/{parent}/children");
    let children = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    let first = children
        .split_whitespace()
        .next()
        .context("it has no child process")?;
    Ok(first.parse()?)
}
