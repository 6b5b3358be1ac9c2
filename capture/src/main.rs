//! `adit-capture`: the only privileged program of Adit. Turns claims of brokers into kernel rules for their own users, hands
//! out marked sockets, tears down.
#![forbid(unsafe_code)]

mod helper;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;

use helper::account::Allowed;
use helper::command::Tool;
use helper::confinement::Confinement;
use helper::door::Door;
use helper::fallback::Fallback;
use helper::instance::Instance;
use helper::keeper::Keeper;
use helper::table::Table;
use helper::{confinement, desk, log, privilege, serve, watch};

/// For the long work on large claims; a further one waits its turn.
const BACKGROUND_THREADS: usize = 4;

/// Hands the connections of users over to their brokers.
///
/// Runs as root and keeps CAP_NET_ADMIN alone; where the kernel has Landlock, it can write no file and read few. Brokers connect to its socket; each can claim for its own user only. What it
/// changes: the nftables table `inet adit`, netfilter queues from number 44288 on, and routing rules of preference 32799 and 32800.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Options {
    /// Where brokers connect. Not needed when the service manager passes a socket.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// YAML file: `capture_system_users: [root, backup]` names the system accounts that may claim.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A system account that may claim, beside those of the file.
    #[arg(long, value_name = "UID")]
    allow_uid: Vec<u32>,
    /// How long users whose rules were found stay as they are until their brokers come back.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    grace: u32,
    /// Exit once there was a session, and no session and no claim is left.
    #[arg(long)]
    until_idle: bool,
    /// Remove what a dead helper left, also what cannot be read back, and exit. Refused while a helper runs.
    #[arg(long)]
    clean: bool,
    /// With --clean: only what belongs to this user.
    #[arg(long, value_name = "UID", requires = "clean")]
    uid: Option<u32>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    log::start();
    let allowed = match Allowed::read(options.config.as_deref(), &options.allow_uid) {
        Ok(allowed) => allowed,
        Err(error) => {
            tracing::error!("{error}");
            return ExitCode::from(2);
        }
    };
    match start(&options, allowed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(options: &Options, allowed: Allowed) -> anyhow::Result<()> {
    privilege::prepare_process()?;
    let purpose = match (&options.socket, options.clean) {
        (_, true) => "cleaning".to_owned(),
        (Some(path), false) => format!("listening at {}", path.display()),
        (None, false) => "listening at a socket of the service manager".to_owned(),
    };
    let _instance = Instance::take(&purpose)?;
    let door = match options.clean {
        true => None,
        false => Some(Door::open(options.socket.as_deref())?),
    };
    privilege::drop_all_but_needed()?;
    confine(door.as_ref())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BACKGROUND_THREADS)
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let nft = Tool::find("nft")?;
        let table = match (options.clean, options.uid) {
            (true, None) => Table::adopt_or_remove(nft).await?,
            (true, Some(_)) | (false, _) => Table::adopt(nft).await?,
        };
        let mut keeper = Keeper::adopt(table, Fallback::new(Tool::find("ip")?)).await?;
        match &door {
            None => Ok(keeper.clean(options.uid).await?),
            Some(door) => work(options, door, keeper, allowed).await,
        }
    })
}

fn confine(door: Option<&Door>) -> anyhow::Result<()> {
    let confined = confinement::confine(door.and_then(Door::directory))
        .context("cannot confine the helper to the files that it needs")?;
    match confined {
        Confinement::Whole => {}
        Confinement::Part => {
            tracing::warn!("this kernel's Landlock is old: some files can still be written")
        }
        Confinement::None => tracing::warn!(
            "this kernel has no Landlock: the helper can still write all files of root's"
        ),
    }
    Ok(())
}

async fn work(
    options: &Options,
    door: &Door,
    keeper: Keeper,
    allowed: Allowed,
) -> anyhow::Result<()> {
    let mut signals = serve::Signals::hear().context("cannot hear signals")?;
    let deleted = watch::start().context("cannot hear of deleted tables")?;
    let grace = Duration::from_secs(options.grace.into());
    let (desk, office, users) = desk::open(keeper, deleted, grace);
    let sessions = serve::Sessions::new();
    let listener = door.listener().context("cannot accept brokers")?;
    let accepting = tokio::spawn(serve::accept(listener, desk, allowed, sessions.clone()));
    let stop = async {
        let idle = async {
            match options.until_idle {
                true => sessions.idle(users).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            () = signals.told_to_stop() => {}
            () = idle => tracing::info!("nothing left to do"),
        }
    };
    tracing::info!("ready");
    let ended = office.run(stop).await;
    accepting.abort();
    Ok(ended?)
}
