//! One end of a scripted TCP conversation; see `adit_tests::script` for the steps.
//!
//! Prints JSON: the listener first `{"port": …}`, and both ends at last what they saw, one line each.

#![forbid(unsafe_code)]

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::{io, thread};

use adit_tests::actor::{End, From, act, dial, dial_through};
use adit_tests::entry::Entry;
use adit_tests::script::{Script, Sight};
use anyhow::{Result, anyhow};
use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;

/// One end of a scripted TCP conversation.
#[derive(Parser)]
enum Command {
    /// Accept connections and act on each.
    Serve {
        /// Address to listen at.
        address: IpAddr,
        /// What to do on each connection.
        script: Script,
        /// Port; 0: any that is free.
        #[arg(long, default_value_t = 0)]
        port: u16,
        /// How many connections; 0: without end, each told as it ends.
        #[arg(long, default_value_t = 1)]
        connections: usize,
        /// Chooses the bytes.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Connect and act.
    Dial {
        /// Where to.
        to: SocketAddr,
        /// What to do on each connection.
        script: Script,
        /// Local port; 0: any that is free.
        #[arg(long, default_value_t = 0)]
        from: u16,
        /// The network device that the connection may use, if not any.
        #[arg(long)]
        device: Option<String>,
        /// Asks an entry for the connection: `socks5=ADDRESS:PORT` or `http=ADDRESS:PORT`.
        #[arg(long)]
        through: Option<Entry>,
        /// How many connections at once.
        #[arg(long, default_value_t = 1)]
        connections: usize,
        /// Chooses the bytes.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

fn main() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    match Command::parse() {
        Command::Serve {
            address,
            script,
            port,
            connections,
            seed,
        } => {
            let listener = TcpListener::bind((address, port))?;
            say(&serde_json::json!({ "port": listener.local_addr()?.port() }))?;
            serve(&listener, &script, connections, seed)
        }
        Command::Dial {
            to,
            script,
            from,
            device,
            through,
            connections,
            seed,
        } => {
            let from = From { port: from, device };
            let numbers = 0..connections as u64;
            let threads: Vec<_> = numbers
                .map(|number| {
                    let (script, from) = (script.clone(), from.clone());
                    thread::spawn(move || match through {
                        None => dial(to, &from, &script, seed, number),
                        Some(entry) => dial_through(entry, to, &script, seed, number),
                    })
                })
                .collect();
            tell_all(threads)
        }
    }
}

fn serve(listener: &TcpListener, script: &Script, connections: usize, seed: u64) -> Result<()> {
    let mut threads = Vec::new();
    while connections == 0 || threads.len() < connections {
        let (stream, _) = listener.accept()?;
        let script = script.clone();
        let acting = thread::spawn(move || {
            let sight = act(stream, &script, End::Listener, seed, 0);
            // Nobody can be told that telling failed.
            let _ = (connections == 0).then(|| say(&sight));
            sight
        });
        if connections > 0 {
            threads.push(acting);
        }
    }
    tell_all(threads)
}

fn tell_all(threads: Vec<thread::JoinHandle<Sight>>) -> Result<()> {
    for thread in threads {
        say(&thread
            .join()
            .map_err(|_| anyhow!("a connection's thread panicked"))?)?;
    }
    Ok(())
}

fn say(line: &impl Serialize) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(line)?)?;
    out.flush()?;
    Ok(())
}
