//! Gateways of others' making, which know of no link: the same sights through each of them as directly.

use adit_tests::{
    AsDirect, Broker, Capture, Conversation, Gateway, Host, Lab, Process, User, address,
    rules_for_networks, way,
};
use anyhow::{Context, Result};

/// Where `ssh -D` listens.
const SOCKS: u16 = 9000;

struct Started {
    lab: Lab,
    broker: Broker,
    _server: Process,
    _capture: Capture,
}

/// `engine` is what the broker takes then, or `auto`, which is the system's `ssh`.
fn started(server: impl Fn(&Lab) -> Result<Process>, engine: &str) -> Result<Started> {
    let lab = Lab::new()?;
    let server = server(&lab)?;
    let capture = Capture::start(&lab)?;
    let usual = Gateway::for_user(User::Alice);
    let rules = rules_for_networks(User::Alice, &[address::ZONE]);
    let rules = rules
        .replace(&usual, usual.trim_end_matches(":443"))
        .replacen("rules:\n", &format!("    engine: {engine}\nrules:\n"), 1);
    let broker = Broker::start(&lab, User::Alice, &rules)?;
    Ok(Started {
        lab,
        broker,
        _server: server,
        _capture: capture,
    })
}

fn sshd(lab: &Lab) -> Result<Process> {
    way::start_jump(lab, Host::Gateway, address::GATEWAY, 22, "RekeyLimit 8M")
}

impl Started {
    fn does_it_all(&self) -> Result<()> {
        let gateway = AsDirect {
            lab: &self.lab,
            broker: &self.broker,
        };
        // New keys come under the bulk, where the server has a limit.
        gateway.does_all_but_resets(200)?;
        self.resets_are_what_ssh_makes_of_them().context("resets")
    }

    /// SSH has no word for a reset. It is one where the server closes without an end, as AsyncSSH does; else what it becomes in the
    /// system's own forwarding at the same server.
    fn resets_are_what_ssh_makes_of_them(&self) -> Result<()> {
        let gateway = format!("{}@{}", User::Alice.name(), address::GATEWAY);
        let words = ["ssh", "-N", "-D", &format!("127.0.0.1:{SOCKS}"), &gateway];
        let _ssh = self.lab.client().start("ssh", &words)?;
        self.lab.wait_listening(Host::Client, SOCKS)?;
        let by_ssh = format!("socks5=127.0.0.1:{SOCKS}");
        // Asked for, so that a reset comes neither before the server has connected nor before what was sent is here.
        for (client, server) in [
            (
                "send 10K; expect 10K; send 1; end",
                "expect 10K; send 10K; expect 1; reset",
            ),
            ("send 10K; expect 10K; reset", "expect 10K; send 10K; end"),
        ] {
            let talk = Conversation::new(client, server);
            let through_adit = talk.hold(&self.lab, &self.lab.client())?;
            let direct = talk.hold(&self.lab, &self.lab.direct())?;
            if through_adit.story() != direct.story() {
                let through_ssh = talk.through(&by_ssh).hold(&self.lab, &self.lab.client())?;
                through_adit
                    .same_as(&through_ssh)
                    .with_context(|| client.to_owned())?;
            }
        }
        Ok(())
    }
}

#[test]
fn through_openssh_with_new_keys_under_load() -> Result<()> {
    started(sshd, "auto")?.does_it_all()
}

#[test]
fn through_openssh_by_our_own_engine_with_new_keys_under_load() -> Result<()> {
    started(sshd, "embedded")?.does_it_all()
}

#[test]
fn through_dropbear() -> Result<()> {
    started(way::start_dropbear, "auto")?.does_it_all()
}

#[test]
fn through_dropbear_by_our_own_engine() -> Result<()> {
    started(way::start_dropbear, "embedded")?.does_it_all()
}

#[test]
fn through_asyncssh_with_new_keys_under_load() -> Result<()> {
    started(|lab| way::start_asyncssh(lab, Some(8 << 20)), "auto")?.does_it_all()
}

/// Its new keys are more than the library of our own engine can bear under load.
#[test]
fn through_asyncssh_by_our_own_engine() -> Result<()> {
    started(|lab| way::start_asyncssh(lab, None), "embedded")?.does_it_all()
}
