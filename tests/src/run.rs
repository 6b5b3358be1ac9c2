//! Running a command on one of the lab's hosts, to its end or as a daemon.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::lab::{GATEWAY_HOSTS, Host, Lab};
use crate::process::Process;
use crate::users::User;

/// What `timeout` of coreutils ends with when it had to intervene.
const TIMED_OUT: i32 = 124;
/// Enough for every single command of the tests on a busy two-core machine.
const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const PATH: &str =
    "/run/lab/bin:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";

/// A command about to be run; see [`Lab::on`].
#[derive(Debug, Clone)]
#[must_use]
pub struct Run<'a> {
    lab: &'a Lab,
    host: Host,
    user: User,
    environment: Vec<(String, String)>,
    timeout: Duration,
    terminal: bool,
}

impl<'a> Run<'a> {
    pub(crate) fn new(lab: &'a Lab, host: Host) -> Self {
        let user = if host == Host::Client {
            User::Alice
        } else {
            User::Root
        };
        Run {
            lab,
            host,
            user,
            environment: Vec::new(),
            timeout: PATIENCE,
            terminal: false,
        }
    }

    /// As whom: Alice on the client and root elsewhere unless said otherwise.
    pub fn user(mut self, user: User) -> Self {
        self.user = user;
        self
    }

    /// Adds to the environment, which is otherwise HOME, USER, LOGNAME, PATH, LANG and nothing else.
    pub fn env(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.environment.push((name.to_owned(), value.to_string()));
        self
    }

    /// How long the command may take: 60 s unless said otherwise.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Leaves standard input, output and error to the command: for a shell that a person uses.
    pub fn terminal(mut self) -> Self {
        self.terminal = true;
        self
    }

    /// Runs a line of shell to its end.
    ///
    /// # Errors
    /// When it could not be run; its own failure is in [`Ended`].
    pub fn sh(&self, line: &str) -> Result<Ended> {
        self.argv(&["sh", "-c", line])
    }

    /// Runs a program to its end.
    ///
    /// # Errors
    /// When it could not be run; its own failure is in [`Ended`].
    pub fn argv<S: AsRef<str>>(&self, argv: &[S]) -> Result<Ended> {
        let mut timed = vec!["timeout".to_owned(), "--kill-after=2".to_owned()];
        if self.terminal {
            timed = vec![];
        } else {
            timed.push(format!("{}", self.timeout.as_secs_f64()));
        }
        timed.extend(argv.iter().map(|word| word.as_ref().to_owned()));
        let mut command = self.command(&timed);
        let (mut stdout, mut stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
        if !self.terminal {
            command
                .stdin(Stdio::null())
                .stdout(stdout.try_clone()?)
                .stderr(stderr.try_clone()?);
        }
        let started = Instant::now();
        let status = command
            .status()
            .context("nsenter (util-linux) did not start")?;
        Ok(Ended {
            what: argv.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" "),
            code: status.code(),
            stdout: contents(&mut stdout)?,
            stderr: contents(&mut stderr)?,
            took: started.elapsed(),
        })
    }

    /// Starts a program that stays. Its output goes to a file that [`Process`] can read; `name` names it.
    ///
    /// # Errors
    /// When it could not be started.
    pub fn start<S: AsRef<str>>(&self, name: &str, argv: &[S]) -> Result<Process> {
        let words: Vec<String> = argv.iter().map(|word| word.as_ref().to_owned()).collect();
        Process::start(self.lab, name, self.command(&words))
    }

    fn command(&self, argv: &[String]) -> Command {
        let mut command = self.lab.sandbox().enter(Some(self.host.namespace()));
        if self.host == Host::Gateway {
            let line = format!("mount --bind {GATEWAY_HOSTS} /etc/hosts && exec \"$@\"");
            command.args(["unshare", "--mount", "sh", "-c", &line, "sh"]);
        }
        if self.user != User::Root {
            let id = self.user.uid();
            command.args([
                "setpriv",
                &format!("--reuid={id}"),
                &format!("--regid={id}"),
            ]);
            command.args(["--clear-groups", "--inh-caps=-all"]);
        }
        let home = self.user.home();
        command.args([
            "env",
            "-i",
            &format!("--chdir={home}"),
            &format!("HOME={home}"),
        ]);
        command.arg(format!("USER={}", self.user.name()));
        command.arg(format!("LOGNAME={}", self.user.name()));
        command.arg(format!("PATH={PATH}")).arg("LANG=C.UTF-8");
        if let Some(terminal) = std::env::var_os("TERM").filter(|_| self.terminal) {
            command.arg(format!("TERM={}", terminal.display()));
        }
        command.args(
            self.environment
                .iter()
                .map(|(name, value)| format!("{name}={value}")),
        );
        command.args(argv);
        command
    }
}

/// A command that has ended.
#[derive(Debug, Clone)]
pub struct Ended {
    what: String,
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it wrote.
    pub stdout: String,
    /// What it wrote as errors.
    pub stderr: String,
    /// From start to end.
    pub took: Duration,
}

impl Ended {
    /// Did it end with 0?
    #[must_use]
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// Its output, when it ended with 0.
    ///
    /// # Errors
    /// With everything it wrote, when it did not.
    pub fn ok(self) -> Result<String> {
        ensure!(self.success(), "{self}");
        Ok(self.stdout)
    }

    /// Its errors, when it ended by itself with anything but 0.
    ///
    /// # Errors
    /// With everything it wrote, when it succeeded or did not end in time.
    pub fn failed(self) -> Result<String> {
        let by_itself = self.code.is_some_and(|code| code != 0 && code != TIMED_OUT);
        ensure!(by_itself, "it should have failed by itself: {self}");
        Ok(self.stderr)
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.code {
            Some(TIMED_OUT) => "did not end in time".to_owned(),
            Some(code) => format!("ended with {code}"),
            None => "was killed".to_owned(),
        };
        write!(
            f,
            "`{}` {how} after {:.2} s",
            self.what,
            self.took.as_secs_f64()
        )?;
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.trim().is_empty() {
                write!(
                    f,
                    "\n  {name}: {}",
                    text.trim_end().replace('\n', "\n          ")
                )?;
            }
        }
        Ok(())
    }
}

fn contents(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
