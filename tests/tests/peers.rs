//! Gateways of others' making, which know of no link: the same sights through each of them as directly.

use adit_tests::{
    AsDirect, Broker, Capture, Conversation, Gateway, Host, Lab, Process, User, address,
    rules_for_networks, way,
};
use anyhow::{Context, Result, ensure};

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
    let broker = Broker::start(&lab, User::Alice, &rules)?;
    Ok(Started {
        lab,
        broker,
        server,
        _capture: capture,
    })
}

fn sshd(lab: &Lab) -> Result<Process> {
    way::start_jump(
        lab,
        Host::Gateway,
        address::GATEWAY,
        22,
        "RekeyLimit 8M\nLogLevel DEBUG1",
    )
}

/// What OpenSSH and AsyncSSH log at the end of each exchange of keys but a connection's first, and of each.
const NEW_KEYS: [&str; 2] = ["rekeying out", "Completed key exchange"];
/// 64 MiB both ways, with new keys after 8.
const RENEWALS: usize = 8;

impl Started {
    fn does_it_all(&self, resets: Resets) -> Result<()> {
        let gateway = AsDirect {
            lab: &self.lab,
            broker: &self.broker,
        };
        // New keys come under the bulk, where the server has a limit.
        gateway.does_all_but_resets(200)?;
        self.has_resets(resets).context("resets")
    }

    /// The server has seen new keys as often as its limit says.
    fn has_new_keys(&self) -> Result<()> {
        let log = self.server.stderr();
        let [openssh, asyncssh] = NEW_KEYS.map(|words| log.matches(words).count());
        let logins = log.matches("Starting SSH").count();
        let renewals = openssh.max(asyncssh.saturating_sub(logins));
        ensure!(renewals >= RENEWALS, "{renewals} in {}", self.server.tale());
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
    let started = started(sshd, "auto")?;
    started.does_it_all(Resets::AreEnds)?;
    started.has_new_keys()
}

#[test]
fn through_openssh_by_our_own_engine_with_new_keys_under_load() -> Result<()> {
    let started = started(sshd, "embedded")?;
    started.does_it_all(Resets::AreEnds)?;
    started.has_new_keys()
}

/// It has no limit of its own that could be small: ssh asks for new keys.
fn dropbear_with_new_keys(lab: &Lab) -> Result<Process> {
    let server = way::start_dropbear(lab)?;
    let config = format!("{}/.ssh/config", User::Alice.home());
    lab.write(User::Alice, &config, "Host *\n    RekeyLimit 8M\n")?;
    Ok(server)
}

#[test]
fn through_dropbear_with_new_keys_under_load() -> Result<()> {
    started(dropbear_with_new_keys, "auto")?.does_it_all(Resets::AreEnds)
}

#[test]
fn through_dropbear_by_our_own_engine() -> Result<()> {
    started(way::start_dropbear, "embedded")?.does_it_all(Resets::AreEnds)
}

#[test]
fn through_asyncssh_with_new_keys_under_load() -> Result<()> {
    let server = |lab: &Lab| way::start_asyncssh(lab, Some(8 << 20));
    let started = started(server, "auto")?;
    started.does_it_all(Resets::AreTold)?;
    started.has_new_keys()
}

/// Its new keys are more than the library of our own engine can bear under load.
#[test]
fn through_asyncssh_by_our_own_engine() -> Result<()> {
    started(|lab| way::start_asyncssh(lab, None), "embedded")?.does_it_all(Resets::AreTold)
}
