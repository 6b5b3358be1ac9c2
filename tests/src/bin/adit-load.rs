//! The load of the benchmark: its server, and one measure of its client with the numbers as a line of JSON.

#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::net::IpAddr;
use std::time::Duration;

use adit_tests::load::{self, Beside, Bulk, Connect, Hold, Numbers, RoundTrip, port};
use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Server and client of the benchmark's load.
#[derive(Parser)]
struct Words {
    /// Where the server listens.
    address: IpAddr,
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Serve; says `ready`.
    Serve,
    /// Say yes to each connection that this queue of the kernel's holds; says `ready`.
    SayYes { queue: u16 },
    /// Bulk data, in Gbit/s.
    Bulk {
        #[arg(long, default_value_t = 0)]
        up: usize,
        #[arg(long, default_value_t = 0)]
        down: usize,
        #[arg(long)]
        warm_up_ms: u64,
        #[arg(long)]
        measured_ms: u64,
    },
    /// One byte there and back on an open flow.
    RoundTrip {
        #[command(flatten)]
        bounds: Bounds,
    },
    /// Connect and one byte there and back.
    Connect {
        #[arg(long, default_value_t = 1)]
        at_once: usize,
        #[arg(long, default_value_t = port::ECHO)]
        port: u16,
        #[command(flatten)]
        bounds: Bounds,
    },
    /// Many flows at the same time.
    Hold {
        #[arg(long)]
        at_once: usize,
        #[arg(long, default_value_t = port::ECHO)]
        port: u16,
        #[command(flatten)]
        bounds: Bounds,
    },
    /// Round trips beside something else.
    Beside {
        load: Load,
        #[command(flatten)]
        bounds: Bounds,
    },
}

#[derive(clap::Args)]
struct Bounds {
    /// At most so many.
    #[arg(long)]
    count: usize,
    /// At most so long.
    #[arg(long)]
    limit_ms: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Load {
    PausedDown,
    PausedUp,
    Bulk,
}

fn main() -> Result<()> {
    let words = Words::parse();
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("raising the limit of open files")?;
    match words.part {
        Part::Serve => load::serve(words.address, || say("ready")),
        Part::SayYes { queue } => load::say_yes(queue, || say("ready")),
        Part::Bulk { .. }
        | Part::RoundTrip { .. }
        | Part::Connect { .. }
        | Part::Hold { .. }
        | Part::Beside { .. } => {
            let numbers = measure(words.part, words.address)?;
            say(&serde_json::to_string(&numbers)?)
        }
    }
}

fn measure(part: Part, to: IpAddr) -> Result<Numbers> {
    match part {
        Part::Serve | Part::SayYes { .. } => Ok(Numbers::new()),
        Part::Bulk {
            up,
            down,
            warm_up_ms,
            measured_ms,
        } => Bulk {
            up,
            down,
            warm_up: Duration::from_millis(warm_up_ms),
            measured: Duration::from_millis(measured_ms),
        }
        .run(to),
        Part::RoundTrip { bounds } => bounds.round_trip().run(to),
        Part::Connect {
            at_once,
            port,
            bounds,
        } => Connect {
            port,
            at_once,
            count: bounds.count,
            limit: bounds.limit(),
        }
        .run(to),
        Part::Hold {
            at_once,
            port,
            bounds,
        } => Hold {
            port,
            flows: bounds.count,
            at_once,
            limit: bounds.limit(),
        }
        .run(to),
        Part::Beside { load, bounds } => Beside {
            round_trip: bounds.round_trip(),
            load: load.into(),
        }
        .run(to),
    }
}

impl Bounds {
    fn limit(&self) -> Duration {
        Duration::from_millis(self.limit_ms)
    }

    fn round_trip(&self) -> RoundTrip {
        RoundTrip {
            count: self.count,
            limit: self.limit(),
        }
    }
}

impl From<Load> for load::Load {
    fn from(load: Load) -> Self {
        match load {
            Load::PausedDown => load::Load::PausedDown,
            Load::PausedUp => load::Load::PausedUp,
            Load::Bulk => load::Load::Bulk,
        }
    }
}

fn say(line: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}
