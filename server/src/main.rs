//! `adit-server`: see `--help` and docs/gateways.md.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use adit_server::asker::Conditions;
use adit_server::config::{Config, LogFormat, LogOverrides, LogTo, Serving, parse_allow};
use adit_server::control::protocol::Request;
use adit_server::daemon::{self, DaemonError};
use adit_server::faults;
use adit_server::gateway::Gateway;
use adit_server::logging::{self, Stderr};
use adit_server::policy::{Entry, Policy};
use adit_server::user_name::UserName;
use adit_server::{service, stdio};
use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

mod asking;
mod hashing;

/// The gateway of Adit: a Secure Shell server that relays what its policy allows, and does nothing
/// else.
#[derive(Debug, Parser)]
#[command(
    name = "adit-server",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
struct Arguments {
    #[command(subcommand)]
    action: Option<Action>,
    /// The gateway's file: where to listen, host keys, who may reach what
    #[arg(long, value_name = "FILE", required_unless_present = "stdio")]
    config: Option<PathBuf>,
    /// Only check the file and say what is wrong with it
    #[arg(long, requires = "config")]
    check: bool,
    /// Relay on stdin and stdout, as a subsystem or command of another Secure Shell server
    #[arg(long)]
    stdio: bool,
    /// With --stdio and without a file: a destination to allow, such as 10.20.0.0/16:443 or
    /// "*.finance.corp:*"; may be repeated
    #[arg(
        long,
        value_name = "HOST:PORTS",
        requires = "stdio",
        conflicts_with = "config"
    )]
    allow: Vec<String>,
    /// Form of log lines on stderr, whatever the file says
    #[arg(long, value_name = "FORM")]
    log_format: Option<LogFormat>,
    /// Where log and audit go, whatever the file says
    #[arg(long, value_name = "WHERE")]
    log_to: Option<LogTo>,
}

/// What is done instead: most of it is asked of a gateway that runs.
#[derive(Debug, Subcommand)]
enum Action {
    /// List who is logged in, and what is open
    Sessions {
        #[command(flatten)]
        whose: Whose,
        /// One line of JSON
        #[arg(long)]
        json: bool,
    },
    /// End one session, and all that is open on it
    Kill {
        /// Its number in the list
        id: u64,
        #[command(flatten)]
        whose: Whose,
    },
    /// Take nothing new, let the old finish, then end
    Drain {
        /// Seconds after which it ends all the same
        #[arg(long, value_name = "SECONDS", default_value_t = 300)]
        deadline: u64,
        #[command(flatten)]
        whose: Whose,
    },
    /// Read the file again; close what it does not allow any more
    Reload {
        #[command(flatten)]
        whose: Whose,
        /// One line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Read a password from the terminal, or a line of standard input, and print the hash that the
    /// gateway's file of passwords has after the user's name and a colon
    HashPassword,
}

/// Which gateway.
#[derive(Debug, clap::Args)]
struct Whose {
    /// Its control socket
    #[arg(
        long,
        value_name = "SOCKET",
        default_value = "/run/adit-server/control.sock"
    )]
    control: PathBuf,
}

/// What ends the program, by exit code.
enum Failure {
    /// 2: wrong use, or a bad file.
    Use(String),
    /// 1: it did not work.
    Work(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Work(error.into())
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (code, words) = match run(&arguments) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Use(words)) => (2, words),
        Err(Failure::Work(error)) => (1, in_words(&error)),
    };
    // Nobody is left to tell when this fails.
    let _ = writeln!(std::io::stderr(), "adit-server: {words}");
    ExitCode::from(code)
}

/// The whole chain; most of ours say already what they come from.
fn in_words(error: &anyhow::Error) -> String {
    error
        .chain()
        .skip(1)
        .fold(error.to_string(), |words, from| {
            let from = from.to_string();
            match words.ends_with(&from) {
                true => words,
                false => format!("{words}: {from}"),
            }
        })
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.action {
        Some(Action::HashPassword) => Ok(hashing::run()?),
        Some(action) => question(action),
        None if arguments.stdio => relay_stdio(arguments),
        None => serve(arguments),
    }
}

fn question(action: &Action) -> Result<(), Failure> {
    let (whose, request, json) = match action {
        Action::HashPassword => return Ok(()),
        Action::Sessions { whose, json } => (whose, Request::Sessions {}, *json),
        Action::Kill { id, whose } => (whose, Request::Kill { id: *id }, false),
        Action::Drain { deadline, whose } => {
            let deadline = *deadline;
            (whose, Request::Drain { deadline }, false)
        }
        Action::Reload { whose, json } => (whose, Request::Reload {}, *json),
    };
    Ok(asking::run(&whose.control, &request, json)?)
}

fn serve(arguments: &Arguments) -> Result<(), Failure> {
    let Some(file) = arguments.config.as_deref() else {
        return Err(Failure::Use(
            Arguments::command().render_usage().to_string(),
        ));
    };
    let config = load(file, arguments)?;
    let serving = config
        .for_server()
        .map_err(|error| Failure::Use(error.to_string()))?
        .clone();
    if arguments.check {
        return check_files(file, &serving, config.audit.as_deref());
    }
    let flush = logging::start(config.log, config.audit.as_deref(), Stderr::Ours)?;
    service::raise_descriptor_limit();
    if nix::unistd::geteuid().is_root() {
        tracing::warn!("running as root, which this server has no use for");
    }
    let runtime = runtime(serving.threads)?;
    let served = runtime.block_on(daemon::run(
        file,
        overrides(arguments),
        config,
        serving,
        &flush,
    ));
    // A lookup that does not come back is waited for by nobody.
    runtime.shutdown_background();
    served.map_err(|error| match error {
        DaemonError::HostKey(error) => Failure::Use(error.to_string()),
        other @ (DaemonError::Listen(_) | DaemonError::Control(_) | DaemonError::System(_)) => {
            other.into()
        }
    })
}

/// Also of the files that it names, which another user may have no leave to read.
fn check_files(file: &Path, serving: &Serving, audit: Option<&Path>) -> Result<(), Failure> {
    let faults = faults::of(serving, audit);
    if faults.is_empty() {
        return nothing_wrong_with(file);
    }
    let mut words = faults::in_words(&faults);
    if nix::unistd::geteuid().is_root() {
        words += "\n  (as root sees it; for what the service sees:  runuser -u adit-server -- adit-server --config FILE --check)";
    }
    Err(Failure::Use(words))
}

fn nothing_wrong_with(file: &Path) -> Result<(), Failure> {
    writeln!(std::io::stdout(), "{}: no errors", file.display())?;
    Ok(())
}

fn load(file: &Path, arguments: &Arguments) -> Result<Config, Failure> {
    let mut config = Config::load(file).map_err(|error| Failure::Use(error.to_string()))?;
    overrides(arguments).apply(&mut config.log);
    Ok(config)
}

fn overrides(arguments: &Arguments) -> LogOverrides {
    LogOverrides {
        format: arguments.log_format,
        to: arguments.log_to,
    }
}

/// One thread unless the administrator wants more: handing a packet from thread to thread costs
/// more than it gains as long as one core keeps up.
fn runtime(threads: usize) -> std::io::Result<Runtime> {
    match threads {
        0 | 1 => Builder::new_current_thread().enable_all().build(),
        more => Builder::new_multi_thread()
            .worker_threads(more)
            .enable_all()
            .build(),
    }
}

fn relay_stdio(arguments: &Arguments) -> Result<(), Failure> {
    let who = stdio::who()?;
    let config = match &arguments.config {
        Some(file) => {
            let config = load(file, arguments)?;
            config
                .for_stdio()
                .map_err(|error| Failure::Use(error.to_string()))?;
            if arguments.check {
                return nothing_wrong_with(file);
            }
            config
        }
        None => {
            let mut config = Config::without_file(policy_of(&who.user, &arguments.allow)?);
            overrides(arguments).apply(&mut config.log);
            config
        }
    };
    let _flush = logging::start(config.log, config.audit.as_deref(), Stderr::Clients)?;
    service::raise_descriptor_limit();
    let runtime = runtime(1)?;
    let relayed = runtime.block_on(async {
        let gateway = Gateway::new(config.policy, config.limits);
        gateway.replace_allowances(config.allowances);
        let mut terminate = signal(SignalKind::terminate())?;
        let stopper = Arc::clone(&gateway);
        tokio::spawn(async move {
            terminate.recv().await;
            stopper.stop();
        });
        let end = stdio::serve(&gateway, who).await.context("no link")?;
        tracing::info!(end = end.to_string(), "link ended");
        Ok(())
    });
    runtime.shutdown_background();
    relayed
}

/// The policy that the command line gives: nothing without `--allow`, which is no use to anyone.
fn policy_of(user: &UserName, allow: &[String]) -> Result<Policy, Failure> {
    if allow.is_empty() {
        return Err(Failure::Use(
            "--stdio needs to know what it may reach: give it --config FILE, or --allow HOST:PORTS for each destination,\n  \
             for example  Subsystem adit-link /usr/bin/adit-server --stdio --allow 10.20.0.0/16:443"
                .to_owned(),
        ));
    }
    let allow = allow
        .iter()
        .map(|text| parse_allow(text))
        .collect::<Result<_, _>>()
        .map_err(Failure::Use)?;
    Ok(Policy::new(vec![Entry {
        name: "--allow".into(),
        conditions: Conditions::users(HashSet::from([user.clone()])),
        allow,
    }]))
}
