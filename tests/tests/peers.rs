//! Gateways of others' making, which know of no link: the same sights through each of them as directly.

use std::time::Duration;

use adit_tests::script::Sight;
use adit_tests::{
    AN_HOURS_KEYS, AsDirect, Broker, Capture, Conversation, Gateway, Host, Lab, MANY, Process,
    User, address, rules_for_networks, until, way,
};
use anyhow::{Context, Result, ensure};

const PATIENCE: Duration = Duration::from_secs(20);
/// Where `ssh -D` listens.
const SOCKS: u16 = 9000;

/// What a server makes of a destination's reset, for which SSH has no word.
#[derive(Clone, Copy)]
enum Resets {
    /// An end, as the system's own forwarding shows.
    AreEnds,
    /// It closes without an end, which is a reset again.
    AreTold,
}

struct Started {
    lab: Lab,
    broker: Broker,
    server: Process,
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
    let own_ssh = format!("export PATH={}:$PATH; exec \"$@\"", ssh_that_tells(&lab)?);
    let before = ["sh", "-c", &own_ssh, "sh"];
    let broker = Broker::start_behind(&lab, User::Alice, &rules, &before, &[])?;
    Ok(Started {
        lab,
        broker,
        server,
        _capture: capture,
    })
}

/// Where there is a `ssh` that writes down what it does, and else is the system's: Dropbear does not say when it gets new keys.
fn ssh_that_tells(lab: &Lab) -> Result<String> {
    let directory = format!("{}/bin", User::Alice.home());
    let program = format!("{directory}/ssh");
    let line = format!("#!/bin/sh\nexec /usr/bin/ssh -v -E {TOLD} \"$@\"\n");
    lab.write(User::Alice, &program, line)?;
    lab.client().argv(&["chmod", "700", &program])?.ok()?;
    Ok(directory)
}

/// What that `ssh` has written down.
const TOLD: &str = "/run/lab/home/adit-alice/ssh.log";

fn configure_ssh(lab: &Lab, line: &str) -> Result<()> {
    let config = format!("{}/.ssh/config", User::Alice.home());
    lab.write(User::Alice, &config, format!("Host *\n    {line}\n"))
}

fn sshd(lab: &Lab, limit: &str) -> Result<Process> {
    let lines = format!("RekeyLimit {limit}\nLogLevel DEBUG1");
    way::start_jump(lab, Host::Gateway, address::GATEWAY, 22, &lines)
}

/// What OpenSSH and AsyncSSH log at the end of each exchange of keys but a connection's first, and of each.
const NEW_KEYS: [&str; 2] = ["rekeying out", "Completed key exchange"];
/// A connection of AsyncSSH's.
const ACCEPTED: &str = "Accepted SSH client connection";
/// 64 MiB both ways, with new keys after 8.
const RENEWALS: usize = 8;
/// Connections that our own engine may have at a gateway that knows of no link: some of the flows wait for others to end.
const CONNECTIONS: usize = 100;

impl Started {
    fn does_it_all(&self, together: usize, resets: Resets) -> Result<()> {
        let gateway = AsDirect {
            lab: &self.lab,
            broker: &self.broker,
        };
        // New keys come under the bulk, where the server has a limit.
        gateway.does_all_but_resets(together)?;
        self.has_resets(resets).context("resets")
    }

    /// What a connection carries in an hour is seen as directly.
    fn lasts_an_hour(&self) -> Result<()> {
        let (lab, broker) = (&self.lab, &self.broker);
        AsDirect { lab, broker }.lasts_an_hour()
    }

    /// The server, or `ssh`, has seen new keys as often as that.
    fn has_new_keys(&self, least: usize) -> Result<()> {
        let told = self.lab.read(TOLD).unwrap_or_default();
        let log = match told.contains("software version dropbear") {
            true => told,
            false => self.server.stderr(),
        };
        let [openssh, asyncssh] = NEW_KEYS.map(|words| log.matches(words).count());
        let logins = log.matches(ACCEPTED).count();
        let renewals = openssh.max(asyncssh.saturating_sub(logins));
        ensure!(renewals >= least, "{renewals} in {log}");
        Ok(())
    }

    fn has_resets(&self, resets: Resets) -> Result<()> {
        let (client, alice) = (self.lab.client(), User::Alice.name());
        let gateway = format!("{alice}@{}", address::GATEWAY);
        let words = ["ssh", "-N", "-D", &format!("127.0.0.1:{SOCKS}"), &gateway];
        let _ssh = client.start("ssh", &words)?;
        self.lab.wait_listening(Host::Client, SOCKS)?;
        let by_ssh = format!("socks5=127.0.0.1:{SOCKS}");

        // Asked for, so that it comes neither before the server has connected nor before what was sent is here.
        let of_destination = Conversation::new(
            "send 10K; expect 10K; send 1; end",
            "expect 10K; send 10K; expect 1; reset",
        );
        let expected = match resets {
            Resets::AreTold => of_destination.hold(&self.lab, &self.lab.direct())?,
            Resets::AreEnds => of_destination
                .clone()
                .through(&by_ssh)
                .hold(&self.lab, &client)?,
        };
        of_destination
            .hold(&self.lab, &client)?
            .same_as(&expected)?;

        let of_program =
            Conversation::new("send 10K; expect 10K; reset", "expect 10K; send 10K; end");
        let seen = of_program.hold(&self.lab, &client)?;
        seen.same_as(&of_program.through(&by_ssh).hold(&self.lab, &client)?)
    }
}

#[test]
fn through_openssh_with_new_keys_under_load() -> Result<()> {
    let started = started(|lab| sshd(lab, "8M"), "auto")?;
    started.does_it_all(MANY, Resets::AreEnds)?;
    started.has_new_keys(RENEWALS)
}

/// What ssh takes else costs it a fifth of a second of processor time each.
fn quick_sshd(lab: &Lab) -> Result<Process> {
    let server = sshd(lab, "256K")?;
    configure_ssh(lab, "KexAlgorithms curve25519-sha256")?;
    Ok(server)
}

#[test]
fn through_openssh_for_an_hour() -> Result<()> {
    let started = started(quick_sshd, "auto")?;
    started.lasts_an_hour()?;
    started.has_new_keys(AN_HOURS_KEYS)
}

#[test]
fn through_openssh_by_our_own_engine_with_new_keys_under_load() -> Result<()> {
    let started = started(|lab| sshd(lab, "8M"), "embedded")?;
    started.does_it_all(CONNECTIONS, Resets::AreEnds)?;
    started.has_new_keys(RENEWALS)
}

#[test]
fn through_openssh_by_our_own_engine_for_an_hour() -> Result<()> {
    let started = started(|lab| sshd(lab, "256K"), "embedded")?;
    started.lasts_an_hour()?;
    started.has_new_keys(AN_HOURS_KEYS)
}

/// It has no limit of its own that could be small: ssh asks for new keys.
fn dropbear(lab: &Lab, limit: &str) -> Result<Process> {
    let server = way::start_dropbear(lab)?;
    configure_ssh(lab, &format!("RekeyLimit {limit}"))?;
    Ok(server)
}

#[test]
fn through_dropbear_with_new_keys_under_load() -> Result<()> {
    let started = started(|lab| dropbear(lab, "8M"), "auto")?;
    started.does_it_all(MANY, Resets::AreEnds)?;
    started.has_new_keys(RENEWALS)
}

#[test]
fn through_dropbear_for_an_hour() -> Result<()> {
    let started = started(|lab| dropbear(lab, "256K"), "auto")?;
    started.lasts_an_hour()?;
    started.has_new_keys(AN_HOURS_KEYS)
}

#[test]
fn through_dropbear_by_our_own_engine() -> Result<()> {
    started(way::start_dropbear, "embedded")?.does_it_all(CONNECTIONS, Resets::AreEnds)
}

fn asyncssh(lab: &Lab, limit: u64) -> Result<Process> {
    way::start_asyncssh(lab, Some(limit))
}

#[test]
fn through_asyncssh_with_new_keys_under_load() -> Result<()> {
    let started = started(|lab| asyncssh(lab, 8 << 20), "auto")?;
    started.does_it_all(MANY, Resets::AreTold)?;
    // It goes on with what it had begun to send, up to a window, before its new keys.
    started.has_new_keys(RENEWALS / 2)
}

/// There are fewer new keys as well.
#[test]
fn through_asyncssh_for_an_hour() -> Result<()> {
    let started = started(|lab| asyncssh(lab, 256 << 10), "auto")?;
    started.lasts_an_hour()?;
    started.has_new_keys(AN_HOURS_KEYS / 8)
}

/// Its new keys are more than the library of our own engine can bear under load. What is lost is told, and the next flow goes on.
#[test]
fn new_keys_of_asyncssh_lose_nothing_silently_by_our_own_engine() -> Result<()> {
    let started = started(|lab| asyncssh(lab, 1 << 20), "embedded")?;
    let (client, direct) = (started.lab.client(), started.lab.direct());
    for _ in 0..4 {
        let bulk = Conversation::new("both 16M; finish; end", "both 16M; end");
        let (seen, whole) = (
            bulk.hold(&started.lab, &client)?,
            bulk.hold(&started.lab, &direct)?,
        );
        ensure!(
            seen.same_as(&whole).is_ok() || seen.client.iter().all(is_told),
            "{:#?}",
            seen.story()
        );
        let next = Conversation::new("ping 20; finish; end", "echo");
        next.hold(&started.lab, &client)?
            .same_as(&next.hold(&started.lab, &direct)?)?;
    }
    let log = started.server.stderr();
    let exchanges = log.matches("Requesting key exchange").count();
    ensure!(exchanges > log.matches(ACCEPTED).count(), "{log}");
    Ok(())
}

/// Is the connection said to have been lost?
fn is_told(sight: &Sight) -> bool {
    let last = sight.steps.last();
    last.is_some_and(|last| last.ends_with("connection reset") || last.ends_with("broken pipe"))
}

#[test]
fn through_asyncssh_by_our_own_engine() -> Result<()> {
    let started = started(|lab| way::start_asyncssh(lab, None), "embedded")?;
    started.does_it_all(CONNECTIONS, Resets::AreTold)
}

#[test]
fn what_a_gateway_opens_towards_us_is_refused() -> Result<()> {
    let started = started(way::start_asyncssh_that_opens, "embedded")?;
    until("the answers", PATIENCE, || {
        Ok(started.server.stderr().contains("answers {"))
    })?;
    let log = started.server.stderr();
    ensure!(log.contains("answers {1: 700}"), "{log}");
    let talk = Conversation::new("both 100K; finish; end", "both 100K; end");
    let (lab, client) = (&started.lab, started.lab.client());
    talk.hold(lab, &client)?
        .same_as(&talk.hold(lab, &lab.direct())?)
}
