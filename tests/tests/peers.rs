//! Gateways of others' making, which know of no link: the same sights through each of them as directly.

use adit_tests::{
    Broker, Capture, Conversation, Gateway, Host, Lab, Process, User, address, rules_for_networks,
    way,
};
use anyhow::{Context, Result};

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
    fn as_direct(&self, talk: &Conversation<'_>) -> Result<()> {
        talk.hold(&self.lab, &self.lab.client())?
            .same_as(&talk.hold(&self.lab, &self.lab.direct())?)
    }

    /// Ends of either side first, and what follows them.
    fn keeps_ends_apart(&self) -> Result<()> {
        for (client, server) in [
            (
                "send 300K; finish; expect 5K; end",
                "expect 300K; end; send 5K; finish",
            ),
            (
                "expect 300K; end; send 5K; finish",
                "send 300K; finish; expect 5K; end",
            ),
        ] {
            self.as_direct(&Conversation::new(client, server))?;
        }
        Ok(())
    }

    /// Beyond what a connection carries with one set of keys, where the server has a limit.
    fn carries_bulk_both_ways(&self) -> Result<()> {
        self.as_direct(&Conversation::new("both 64M; finish; end", "both 64M; end"))
    }

    fn carries_many_at_once(&self, count: usize) -> Result<()> {
        self.as_direct(&Conversation::new("ping 5; finish; end", "echo").times(count))
    }

    fn is_not_stalled_by_a_reader_that_stopped(&self) -> Result<()> {
        let stuck = Conversation::new("expect 1000; pause 60000", "flood");
        let (_listener, to) = stuck.listen(&self.lab)?;
        let _dialler = stuck.dial(&self.lab.client(), to)?;
        self.broker.until_stuck(&self.lab, &to.to_string())?;
        self.as_direct(&Conversation::new("both 1M; finish; end", "both 1M; end"))
    }

    fn does_it_all(&self, at_once: usize) -> Result<()> {
        self.keeps_ends_apart().context("ends")?;
        self.carries_bulk_both_ways().context("bulk")?;
        self.carries_many_at_once(at_once).context("many at once")?;
        self.is_not_stalled_by_a_reader_that_stopped()
            .context("a reader that stopped")
    }
}

#[test]
fn through_openssh_with_new_keys_under_load() -> Result<()> {
    started(sshd, "auto")?.does_it_all(200)
}

#[test]
fn through_openssh_by_our_own_engine_with_new_keys_under_load() -> Result<()> {
    started(sshd, "embedded")?.does_it_all(200)
}

#[test]
fn through_dropbear() -> Result<()> {
    started(way::start_dropbear, "auto")?.does_it_all(200)
}

#[test]
fn through_dropbear_by_our_own_engine() -> Result<()> {
    started(way::start_dropbear, "embedded")?.does_it_all(200)
}

#[test]
fn through_asyncssh_with_new_keys_under_load() -> Result<()> {
    started(|lab| way::start_asyncssh(lab, Some(8 << 20)), "auto")?.does_it_all(200)
}

/// Its new keys are more than the library of our own engine can bear under load.
#[test]
fn through_asyncssh_by_our_own_engine() -> Result<()> {
    started(|lab| way::start_asyncssh(lab, None), "embedded")?.does_it_all(200)
}
