//! A gateway's host certificate: trusted by the authority that a file of known hosts names, by either engine, and by nothing less.

use std::time::Duration;

use adit_tests::{
    Broker, Capture, Gateway, GatewayKind, Host, Lab, Process, Routing, User, Witness, address,
    rules_for_networks, until,
};
use anyhow::{Result, ensure};

const PATIENCE: Duration = Duration::from_secs(20);
const KNOWN: &str = "/run/lab/home/adit-alice/.ssh/known_hosts";
const ENGINES: [&str; 2] = ["embedded", "openssh"];

/// A gateway's sshd with a certificate of an authority.
struct Rig {
    _sshd: Process,
    _capture: Capture,
    /// The authority's public key.
    authority: String,
    lab: Lab,
}

impl Rig {
    /// The certificate is made by `ssh-keygen` with these words.
    fn start(words: &str) -> Result<Rig> {
        let lab = Lab::with(Routing::Wire)?;
        let mut gateway = Gateway::allowing(&lab, GatewayKind::AditServer, &["198.51.100.0/24:*"])?;
        gateway.process.kill()?;
        let root = User::Root.home();
        let line = format!(
            "mkdir -p {root}; cd {root}
             ssh-keygen -q -t ed25519 -N '' -f host; ssh-keygen -q -t ecdsa -N '' -f authority
             ssh-keygen -q -s authority {words} host.pub 2>&1 >/dev/null || exit
             cut -d' ' -f1,2 authority.pub"
        );
        let authority = lab.gateway().sh(&line)?.ok()?;
        let authority = authority.lines().last().unwrap_or_default().to_owned();
        let config = format!(
            "Port 443\nHostKey {root}/host\nHostCertificate {root}/host-cert.pub\nPidFile none\nStrictModes no\nUsePAM no\n\
             Subsystem adit-link /run/lab/bin/adit-server --stdio --log-to stderr --allow 198.51.100.0/24:*\n"
        );
        let file = format!("{root}/sshd_config");
        lab.write(User::Root, &file, config)?;
        let words = ["/usr/sbin/sshd", "-D", "-e", "-f", &file];
        let mut sshd = lab.gateway().start("gateway-sshd", &words)?;
        sshd.ready_when("sshd", PATIENCE, || lab.listening(Host::Gateway, 443))?;
        Ok(Rig {
            _sshd: sshd,
            _capture: Capture::start(&lab)?,
            authority,
            lab,
        })
    }

    fn known(&self, lines: &str) -> Result<()> {
        let lines = lines.replace("CA", &self.authority);
        self.lab.write(User::Alice, KNOWN, lines)
    }

    /// A broker that may go around a gateway that is down.
    fn broker(&self, engine: &str) -> Result<Broker> {
        let rules = rules_for_networks(User::Alice, &[address::ZONE]);
        let more = format!("\n    on_down: pass\n    engine: {engine}\nrules:");
        Broker::start(
            &self.lab,
            User::Alice,
            &rules.replacen("\nrules:", &more, 1),
        )
    }

    /// The zone is up, and its link carries what programs connect to.
    fn is_trusted(&self, engine: &str) -> Result<()> {
        let broker = self.broker(engine)?;
        until("the zone to be up", PATIENCE, || {
            Ok(broker.status(&self.lab)?["zones"][0]["state"] == "up")
        })?;
        let _web = adit_tests::service::web(&self.lab)?;
        let url = format!("http://{}/whoami", address::SERVER);
        let seen = self.lab.client().argv(&["curl", "-sS", &url])?.ok()?;
        ensure!(seen.trim() == address::GATEWAY_INSIDE, "{seen}");
        Ok(())
    }

    /// The zone is down because of `why`, and nothing goes around it.
    fn is_refused(&self, engine: &str, why: &str) -> Result<()> {
        let broker = self.broker(engine)?;
        let mut reason = String::new();
        until("the zone to be down", PATIENCE, || {
            let zone = broker.status(&self.lab)?["zones"][0].take();
            reason = zone["reason"].as_str().unwrap_or_default().to_owned();
            Ok(zone["state"] == "down")
        })?;
        ensure!(
            reason.contains(why),
            "{engine}: `{why}` is not in `{reason}`"
        );
        let witness = Witness::start(&self.lab)?;
        let url = format!("http://{}/whoami", address::SERVER);
        let tried = self
            .lab
            .client()
            .argv(&["curl", "-sS", "--max-time", "5", &url])?;
        ensure!(!tried.success(), "{tried}");
        witness.finish(&self.lab)?.nothing()
    }
}

#[test]
fn what_an_authority_has_signed_is_trusted() -> Result<()> {
    let rig = Rig::start("-h -I gateway -n 192.0.2.1 -V -1d:+1w")?;
    // As ssh has it: with the port, or for any port, or by a pattern (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT).
    for line in [
        "@cert-authority [192.0.2.1]:443 CA\n",
        "@cert-authority 192.0.2.* CA\n",
    ] {
        rig.known(line)?;
        for engine in ENGINES {
            rig.is_trusted(engine)?;
        }
    }
    Ok(())
}

#[test]
fn what_an_authority_has_signed_for_others_is_not() -> Result<()> {
    for (words, why) in [
        (
            "-h -I gateway -n other.example -V -1d:+1w",
            "it is for other.example",
        ),
        ("-h -I gateway -n 192.0.2.1 -V -2d:-1d", "expired"),
        ("-I gateway -n 192.0.2.1 -V -1d:+1w", "host"),
    ] {
        let rig = Rig::start(words)?;
        rig.known("@cert-authority [192.0.2.1]:443 CA\n")?;
        rig.is_refused("embedded", why)?;
        rig.is_refused("openssh", "ssh does not trust the host key")?;
    }
    Ok(())
}

#[test]
fn an_authority_that_is_revoked_vouches_for_nobody() -> Result<()> {
    let rig = Rig::start("-h -I gateway -n 192.0.2.1 -V -1d:+1w")?;
    rig.known("@cert-authority [192.0.2.1]:443 CA\n@revoked * CA\n")?;
    rig.is_refused("embedded", "REVOKED")?;
    rig.is_refused("openssh", "ssh does not trust the host key")
}
