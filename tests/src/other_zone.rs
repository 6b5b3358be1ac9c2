//! A second zone that has the same addresses as the first: two companies, each with a network of its own that is called the same.
//!
//! ```text
//!  client 203.0.113.2 ──────── 203.0.113.1 other gateway 198.51.100.1 ──────── 198.51.100.10 other server
//! ```

use anyhow::Result;

use crate::adit::start_adit_server;
use crate::lab::{Host, Lab};
use crate::process::Process;
use crate::users::User;

/// Its gateway, towards the client.
const GATEWAY: &str = "203.0.113.1";
const WIRING: &str = include_str!("other_zone.sh");

/// The second zone, with an `adit-server` at its edge.
#[derive(Debug)]
pub struct OtherZone {
    /// That.
    pub gateway: Process,
}

impl OtherZone {
    /// Wires it to a lab whose own gateway was started already, and lets Alice's keys in.
    ///
    /// # Errors
    /// When its gateway is not ready in time.
    pub fn start(lab: &Lab) -> Result<OtherZone> {
        lab.script(WIRING)?;
        let allow = ["198.51.100.0/24:*".to_owned()];
        let gateway = start_adit_server(lab, Host::OtherGateway, &allow, "")?;
        lab.wait_listening(Host::OtherGateway, 443)?;
        let known = format!("{}/.ssh/known_hosts", User::Alice.home());
        let lines = lab.read(&known)?;
        let Some((_, key)) = lines.lines().next().and_then(|line| line.split_once(' ')) else {
            anyhow::bail!("no key of the first gateway in {known}: {lines}");
        };
        // The lab's gateways share their host key.
        lab.write(
            User::Alice,
            &known,
            format!("{lines}\n[{GATEWAY}]:443 {key}\n"),
        )?;
        Ok(OtherZone { gateway })
    }

    /// This zone in a rule file, called `other`.
    #[must_use]
    pub fn rule_lines() -> String {
        format!(
            "  other:
    gateways: [\"{}@{GATEWAY}:443\"]
    identity: ~/.ssh/id_ed25519
    known_hosts: ~/.ssh/known_hosts
",
            User::Alice.name()
        )
    }
}
