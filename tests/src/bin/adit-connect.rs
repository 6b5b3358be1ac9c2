//! Connects as programs do, and tells what the kernel told them: one line of JSON for each connection.

#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use adit_tests::connect::{Attempt, Flood, Repeat, Way, listen};
use anyhow::{Context, Result, anyhow};
use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;

/// Connecting, and what came of it.
#[derive(Parser)]
enum Command {
    /// Connect to addresses, one after another.
    To {
        /// Where to.
        #[arg(required = true)]
        to: Vec<SocketAddr>,
        /// How to wait for the outcome.
        #[arg(long, value_enum, default_value = "blocking")]
        way: Way,
        /// The program's own time-out in ms.
        #[arg(long, default_value_t = 10_000, value_name = "MS")]
        within: u64,
        /// Local port; 0: any that is free.
        #[arg(long, default_value_t = 0)]
        from: u16,
        /// How many connections to each address at once.
        #[arg(long, default_value_t = 1)]
        at_once: usize,
        /// How many times, one after another.
        #[arg(long, default_value_t = 1)]
        times: usize,
        /// How often to try again after a failure.
        #[arg(long, default_value_t = 0, value_name = "TIMES")]
        again: usize,
        /// How long to wait before trying again, in ms.
        #[arg(long, default_value_t = 200, value_name = "MS")]
        every: u64,
        /// Read from what was connected, and tell what came.
        #[arg(long)]
        read: bool,
    },
    /// Open far more connections than anyone needs.
    Flood {
        /// Where to.
        to: SocketAddr,
        /// How many in all.
        #[arg(long, default_value_t = 20_000)]
        count: usize,
        /// How many at most at once.
        #[arg(long, default_value_t = 4_000)]
        at_once: usize,
        /// How long to wait for the last ones, in ms.
        #[arg(long, default_value_t = 1_000, value_name = "MS")]
        within: u64,
    },
    /// Listen, greet who comes, and tell who it was.
    Listen {
        /// Where to.
        #[arg(required = true)]
        addresses: Vec<IpAddr>,
        /// At which ports.
        #[arg(long = "port", required = true)]
        ports: Vec<u16>,
        /// How long to wait before that, in ms.
        #[arg(long, default_value_t = 0, value_name = "MS")]
        after: u64,
    },
}

fn main() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let ms = Duration::from_millis;
    match Command::parse() {
        Command::To {
            to,
            way,
            within,
            from,
            at_once,
            times,
            again,
            every,
            read,
        } => {
            let attempt = |to| Attempt {
                to,
                way,
                within: ms(within),
                from,
                read,
                repeat: Repeat {
                    times: again,
                    every: ms(every),
                },
            };
            to.into_iter()
                .flat_map(|to| (0..times).map(move |_| to))
                .try_for_each(|to| together(&attempt(to), at_once))
        }
        Command::Flood {
            to,
            count,
            at_once,
            within,
        } => say(&Flood {
            to,
            count,
            at_once,
            within: ms(within),
        }
        .run()?),
        Command::Listen {
            addresses,
            ports,
            after,
        } => listen(&addresses, &ports, ms(after)),
    }
}

fn together(attempt: &Attempt, at_once: usize) -> Result<()> {
    if at_once == 1 {
        return say(&attempt.run()?);
    }
    let threads: Vec<_> = (0..at_once)
        .map(|_| {
            let attempt = attempt.clone();
            let thread = thread::Builder::new().stack_size(128 << 10);
            thread.spawn(move || attempt.run())
        })
        .collect();
    for thread in threads {
        let told = thread.context("a thread")?.join();
        say(&told.map_err(|_| anyhow!("a connection's thread panicked"))??)?;
    }
    Ok(())
}

fn say(line: &impl Serialize) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(line)?)?;
    out.flush()?;
    Ok(())
}
