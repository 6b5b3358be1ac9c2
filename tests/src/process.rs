//! A program of the lab that stays: a server, a daemon, a transfer under way.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::deadline::{until, until_some};
use crate::lab::Lab;
use crate::sandbox::only_child;

/// Killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    outer: Child,
    pid: u32,
    stdout: PathBuf,
    stderr: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    pub(crate) fn start(lab: &Lab, name: &str, mut command: Command) -> Result<Process> {
        let (stdout, stderr) = (lab.log_file(name, "out"), lab.log_file(name, "err"));
        command.stdin(Stdio::null());
        command
            .stdout(File::create(&stdout)?)
            .stderr(File::create(&stderr)?);
        let mut outer = command
            .spawn()
            .context("nsenter (util-linux) did not start")?;
        let ended = &mut None;
        let pid = until_some("nsenter to fork", Duration::from_secs(10), || {
            *ended = outer.try_wait()?;
            let child = only_child(outer.id()).ok();
            Ok(child.or(ended.is_some().then_some(0)))
        })?;
        Ok(Process {
            name: name.to_owned(),
            outer,
            pid,
            stdout,
            stderr,
            ended: *ended,
        })
    }

    /// Process id as seen from outside the lab, for `/proc`.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it wrote to standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        text(&self.stdout)
    }

    /// What it wrote to standard error so far: where logs go.
    #[must_use]
    pub fn stderr(&self) -> String {
        text(&self.stderr)
    }

    /// Everything it wrote, for a message that says why something went wrong.
    #[must_use]
    pub fn tale(&self) -> String {
        format!("{} wrote:\n{}{}", self.name, self.stdout(), self.stderr())
    }

    /// Is it still there?
    ///
    /// # Errors
    /// When the kernel would not tell.
    pub fn running(&mut self) -> Result<bool> {
        if self.ended.is_none() {
            self.ended = self.outer.try_wait()?;
        }
        Ok(self.ended.is_none())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it has already ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if self.pid == 0 || self.ended.is_some() {
            bail!("{} has ended already; {}", self.name, self.tale());
        }
        let pid = Pid::from_raw(i32::try_from(self.pid)?);
        kill(pid, signal).with_context(|| format!("{signal} to {}", self.name))?;
        if [Signal::SIGCONT, Signal::SIGKILL].contains(&signal) {
            // nsenter stops when its child does, and nobody else would wake it.
            kill(Pid::from_raw(i32::try_from(self.outer.id())?), signal)?;
        }
        Ok(())
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// When `within` is over first.
    pub fn end(&mut self, within: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.name);
        until(&what, within, || Ok(!self.running()?)).with_context(|| self.tale())?;
        Ok(self.ended.unwrap_or_else(|| ExitStatus::from_raw(0)))
    }

    /// Kills it without asking and waits until it is gone.
    ///
    /// # Errors
    /// When it has already ended, or does not go.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.end(Duration::from_secs(5))?;
        Ok(())
    }

    /// Waits until `ready` is true, and fails at once when the process ends before.
    ///
    /// # Errors
    /// When it is not in time, with what the process wrote.
    pub fn ready_when(
        &mut self,
        what: &str,
        within: Duration,
        mut ready: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let outcome = until(what, within, || {
            if !self.running()? {
                bail!("{} ended instead", self.name);
            }
            ready()
        });
        outcome.with_context(|| format!("waiting for {what}; {}", self.tale()))
    }

    /// Waits until a line of its output or its log contains `text`, and gives that line.
    ///
    /// # Errors
    /// When there is none in time.
    pub fn line_with(&mut self, text: &str, within: Duration) -> Result<String> {
        until_some(&format!("`{text}` from {}", self.name), within, || {
            let ended = !self.running()?;
            let all = format!("{}\n{}", self.stdout(), self.stderr());
            let line = all
                .lines()
                .find(|line| line.contains(text))
                .map(str::to_owned);
            if line.is_none() && ended {
                bail!("{} ended before it wrote `{text}`", self.name);
            }
            Ok(line)
        })
        .with_context(|| self.tale())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.running(), Ok(true)) {
            let _ = self.kill();
        }
    }
}

fn text(file: &Path) -> String {
    String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned()
}
