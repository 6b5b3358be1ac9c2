//! The same conversation twice, directly and through Adit, and what both ends saw of it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::lab::Lab;
use crate::process::Process;
use crate::run::Run;
use crate::script::Sight;

const START: Duration = Duration::from_secs(10);

/// A conversation to be had: what each end does, see [`crate::script`].
#[derive(Debug, Clone)]
#[must_use]
pub struct Conversation<'a> {
    /// Steps of the end that connects.
    pub client: &'a str,
    /// Steps of the end that accepts.
    pub server: &'a str,
    /// How many connections at once.
    pub connections: usize,
    /// Address of the server.
    pub address: &'a str,
    /// Chooses the bytes.
    pub seed: u64,
    /// How long all of it may take.
    pub within: Duration,
    /// The entry that is asked for the connection: `socks5=ADDRESS:PORT` or `http=ADDRESS:PORT`.
    pub entry: Option<&'a str>,
}

/// What both ends saw, each connection's in an order that does not depend on chance.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// The ends that connected.
    pub client: Vec<Sight>,
    /// The ends that accepted.
    pub server: Vec<Sight>,
}

#[derive(Deserialize)]
struct Listening {
    port: u16,
}

impl<'a> Conversation<'a> {
    /// One connection to the server's first IPv4 address.
    pub fn new(client: &'a str, server: &'a str) -> Conversation<'a> {
        Conversation {
            client,
            server,
            connections: 1,
            address: crate::address::SERVER,
            seed: 1,
            within: Duration::from_secs(60),
            entry: None,
        }
    }

    /// Through an entry, which its dialler asks.
    pub fn through(self, entry: &'a str) -> Self {
        Conversation {
            entry: Some(entry),
            ..self
        }
    }

    /// To another address.
    pub fn at(self, address: &'a str) -> Self {
        Conversation { address, ..self }
    }

    /// With so many connections at once.
    pub fn times(self, connections: usize) -> Self {
        Conversation {
            connections,
            ..self
        }
    }

    /// Has it with the client's end run by `dialler`.
    ///
    /// # Errors
    /// When an end does not come to its end in time.
    pub fn hold(&self, lab: &Lab, dialler: &Run<'_>) -> Result<Exchange> {
        let (mut listener, to) = self.listen(lab)?;
        let dialled = dialler
            .clone()
            .timeout(self.within)
            .argv(&self.dialling(to))?;
        let told = dialled.ok().with_context(|| listener.tale())?;
        listener.end(self.within)?;
        Ok(Exchange {
            client: sights(&told)?,
            server: sights(&listener.stdout())?,
        })
    }

    /// Starts the server's end; gives it and its endpoint.
    ///
    /// # Errors
    /// When it does not listen in time.
    pub fn listen(&self, lab: &Lab) -> Result<(Process, SocketAddr)> {
        let (connections, seed) = (self.connections.to_string(), self.seed.to_string());
        let words = ["adit-peer", "serve", self.address, self.server];
        let more = ["--connections", &connections, "--seed", &seed];
        let mut listener = lab
            .server()
            .start("peer", &[&words[..], &more[..]].concat())?;
        let line = listener.line_with("port", START)?;
        let Listening { port } = serde_json::from_str(&line)?;
        Ok((listener, SocketAddr::new(self.address.parse()?, port)))
    }

    /// Starts the client's end by `dialler`.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn dial(&self, dialler: &Run<'_>, to: SocketAddr) -> Result<Process> {
        dialler.start("dial", &self.dialling(to))
    }

    fn dialling(&self, to: SocketAddr) -> Vec<String> {
        let (to, connections, seed) = (
            to.to_string(),
            self.connections.to_string(),
            self.seed.to_string(),
        );
        let words = ["adit-peer", "dial", &to, self.client];
        let more = ["--connections", &connections, "--seed", &seed];
        let entry = self.entry.map(|entry| ["--through", entry]);
        let entry = entry.into_iter().flatten();
        let all = words.into_iter().chain(more).chain(entry);
        all.map(str::to_owned).collect()
    }
}

/// What an end of `adit-peer` told, a line for each connection.
///
/// # Errors
/// When a line is not what `adit-peer` writes.
pub fn sights(told: &str) -> Result<Vec<Sight>> {
    let lines = told.lines().filter(|line| !line.starts_with("{\"port\""));
    lines
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect()
}

impl Exchange {
    /// What both ends saw, sorted, without times.
    #[must_use]
    pub fn story(&self) -> (Vec<String>, Vec<String>) {
        (sorted(&self.client), sorted(&self.server))
    }

    /// Every end saw the same as in `other`, and the server saw the same peer.
    ///
    /// # Errors
    /// When it did not, with both stories.
    pub fn same_as(&self, other: &Exchange) -> Result<()> {
        let (these, those) = (self.story(), other.story());
        ensure!(these == those, "they differ:\n  {these:#?}\n  {those:#?}");
        Ok(())
    }
}

/// The listener's sights come with the address that it saw; the dialler always sees the server's.
fn sorted(sights: &[Sight]) -> Vec<String> {
    let line = |sight: &Sight| format!("{} with {}", sight.steps.join(", "), sight.peer);
    let mut lines: Vec<String> = sights.iter().map(line).collect();
    lines.sort();
    lines
}
