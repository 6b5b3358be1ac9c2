//! A witness of what leaves the client in clear: `tcpdump` on its only wire.

use std::time::Duration;

use anyhow::{Result, bail};
use nix::sys::signal::Signal;

use crate::lab::{Lab, address};
use crate::process::Process;
use crate::users::User;

/// The discard port (RFC 863): what is sent there marks the end of what the witness was to see.
const MARK: &str = "9";

/// Watches the client's wire.
#[derive(Debug)]
pub struct Witness {
    tcpdump: Process,
}

/// What the witness saw, a line for each packet.
#[derive(Debug)]
pub struct Seen {
    /// Packets from or to the zone's addresses.
    pub in_clear: Vec<String>,
}

impl Seen {
    /// Nothing of the zone was on the wire.
    ///
    /// # Errors
    /// When something was, with the packets.
    pub fn nothing(&self) -> Result<()> {
        if self.in_clear.is_empty() {
            return Ok(());
        }
        let shown = self
            .in_clear
            .iter()
            .take(10)
            .cloned()
            .collect::<Vec<_>>()
            .join("\n  ");
        bail!(
            "{} packets of the zone left the client in clear:\n  {shown}",
            self.in_clear.len()
        )
    }
}

impl Witness {
    /// Starts to watch for packets from or to the zone.
    ///
    /// # Errors
    /// When `tcpdump` is not ready in time.
    pub fn start(lab: &Lab) -> Result<Witness> {
        let (zone, zone6) = (address::ZONE, address::ZONE6);
        let filter = format!("net {zone} or net {zone6} or udp dst port {MARK}");
        let words = [
            "tcpdump",
            "-i",
            "gate",
            "-n",
            "-l",
            "--immediate-mode",
            "-Z",
            "root",
            &filter,
        ];
        let mut tcpdump = lab.client().user(User::Root).start("witness", &words)?;
        tcpdump.line_with("listening on", Duration::from_secs(10))?;
        Ok(Witness { tcpdump })
    }

    /// Stops, when everything that was sent before has been seen.
    ///
    /// # Errors
    /// When it is deaf: it does not see what is sent to it as a mark.
    pub fn finish(mut self, lab: &Lab) -> Result<Seen> {
        let line = format!("echo . >/dev/udp/{}/{MARK}", address::GATEWAY);
        lab.client()
            .user(User::Root)
            .argv(&["bash", "-c", &line])?
            .ok()?;
        let mark = format!("{}.{MARK}: UDP", address::GATEWAY);
        self.tcpdump.line_with(&mark, Duration::from_secs(10))?;
        self.tcpdump.signal(Signal::SIGTERM)?;
        self.tcpdump.end(Duration::from_secs(5))?;
        let out = self.tcpdump.stdout();
        let packets = out
            .lines()
            .filter(|line| !line.is_empty() && !line.contains(&mark));
        let in_clear = packets.map(str::to_owned).collect();
        Ok(Seen { in_clear })
    }
}
