//! `adit-server`: see `--help` and docs/gateways.md.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use adit_server::config::{Config, Log, LogFormat, LogTo, Serving, parse_allow};
use adit_server::gateway::Gateway;
use adit_server::listener::{Server, listen};
use adit_server::logging::{self, Stderr};
use adit_server::policy::{Entry, Policy};
use adit_server::user_name::UserName;
use adit_server::{host_key, service, stdio};
use anyhow::Context;
use clap::{CommandFactory, Parser};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

/// Time for all connections to end after the word to stop; each has its own limits within it.
const STOPPING: Duration = Duration::from_secs(6);

/// The gateway of Adit: a Secure Shell server that relays what its policy allows, and does nothing
/// else.
#[derive(Debug, Parser)]
#[command(name = "adit-server", version)]
struct Arguments {
    /// The gateway's file: where to listen, host keys, who may reach what
    #[arg(long, value_name = "FILE", required_unless_present = "stdio")]
    config: Option<PathBuf>,
    /// Only check the file and say what is wrong with it
    #[arg(long, requires = "config", conflicts_with = "stdio")]
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
        Err(Failure::Work(error)) => (1, format!("{error:#}")),
    };
    // Nobody is left to tell when this fails.
    let _ = writeln!(std::io::stderr(), "adit-server: {words}");
    ExitCode::from(code)
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    if arguments.stdio {
        return relay_stdio(arguments);
    }
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
        writeln!(std::io::stdout(), "{}: no errors", file.display())?;
        return Ok(());
    }
    let _flush = logging::start(config.log, Stderr::Ours)?;
    service::raise_descriptor_limit();
    if nix::unistd::geteuid().is_root() {
        tracing::warn!("running as root, which this server has no use for");
    }
    let runtime = runtime(serving.threads)?;
    let served = runtime.block_on(serve(file, arguments, config, serving));
    // A lookup that does not come back is waited for by nobody.
    runtime.shutdown_background();
    served
}

fn load(file: &Path, arguments: &Arguments) -> Result<Config, Failure> {
    let mut config = Config::load(file).map_err(|error| Failure::Use(error.to_string()))?;
    override_log(&mut config.log, arguments);
    Ok(config)
}

fn override_log(log: &mut Log, arguments: &Arguments) {
    log.format = arguments.log_format.unwrap_or(log.format);
    log.to = arguments.log_to.unwrap_or(log.to);
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

async fn serve(
    file: &Path,
    arguments: &Arguments,
    config: Config,
    serving: Serving,
) -> Result<(), Failure> {
    let host_keys = serving
        .host_keys
        .iter()
        .map(|path| host_key::load(path))
        .collect::<Result<Vec<_>, _>>();
    let host_keys = host_keys.map_err(|error| Failure::Use(error.to_string()))?;
    for key in &host_keys {
        let public = key.public_key();
        let fingerprint = public.fingerprint(Default::default()).to_string();
        tracing::info!(kind = public.algorithm().as_str(), fingerprint, "host key");
    }
    let gateway = Gateway::new(config.policy, config.limits);
    let (server, drained) = Server::new(Arc::clone(&gateway), serving.login.clone(), host_keys);
    for address in &serving.listen {
        let listener = listen(*address)?;
        tracing::info!(address = %listener.local_addr()?, "listening");
        tokio::spawn(server.clone().accept_all(listener));
    }
    drop(server);
    service::notify("READY=1");
    until_stopped(file, arguments, &gateway, &serving).await?;
    service::notify("STOPPING=1");
    gateway.stop();
    if timeout(STOPPING, drained.wait()).await.is_err() {
        tracing::warn!("connections that did not end in time are cut off");
    }
    Ok(())
}

/// Returns at SIGTERM or SIGINT; a SIGHUP in between reads the policy again.
async fn until_stopped(
    file: &Path,
    arguments: &Arguments,
    gateway: &Gateway,
    serving: &Serving,
) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => reload(file, arguments, gateway, serving),
        }
    }
    tracing::info!("stopping");
    Ok(())
}

fn reload(file: &Path, arguments: &Arguments, gateway: &Gateway, serving: &Serving) {
    match load(file, arguments) {
        Ok(config) => {
            if config.for_server().ok() != Some(serving) || config.limits != *gateway.limits() {
                tracing::warn!(
                    "changes of addresses, keys and limits take effect at the next start"
                );
            }
            gateway.replace_policy(config.policy);
            tracing::info!(file = %file.display(), "policy read again");
        }
        Err(Failure::Use(error)) => {
            tracing::error!(%error, "the file is not used, the old policy stays")
        }
        Err(Failure::Work(error)) => {
            tracing::error!(%error, "the file is not used, the old policy stays")
        }
    }
}

fn relay_stdio(arguments: &Arguments) -> Result<(), Failure> {
    let who = stdio::who()?;
    let config = match &arguments.config {
        Some(file) => load(file, arguments)?,
        None => {
            let mut config = Config::without_file(policy_of(&who.user, &arguments.allow)?);
            override_log(&mut config.log, arguments);
            config
        }
    };
    let _flush = logging::start(config.log, Stderr::Clients)?;
    service::raise_descriptor_limit();
    let runtime = runtime(1)?;
    let relayed = runtime.block_on(async {
        let gateway = Gateway::new(config.policy, config.limits);
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
        users: HashSet::from([user.clone()]),
        allow,
    }]))
}
