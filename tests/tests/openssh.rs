//! The engine `openssh`: the link over the system's ssh.

use std::time::Duration;

use adit_tests::rules_for_networks;
use adit_tests::{
    Broker, Capture, Conversation, Gateway, GatewayKind, Host, Lab, Process, User, address, until,
    way,
};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

const PATIENCE: Duration = Duration::from_secs(20);
const ENGINE: &str = "engine: openssh";

struct Started {
    lab: Lab,
    broker: Broker,
    _gateway: Gateway,
    _capture: Capture,
}

fn with_lines(networks: &[&str], lines: &[&str]) -> String {
    let more: String = lines.iter().map(|line| format!("    {line}\n")).collect();
    rules_for_networks(User::Alice, networks).replacen("rules:\n", &format!("{more}rules:\n"), 1)
}

/// Alice's broker with these lines more in its zone; `change` comes before it starts.
fn started(
    kind: GatewayKind,
    lines: &[&str],
    change: impl Fn(&Lab) -> Result<()>,
) -> Result<Started> {
    // The gateway's own network is tunnelled too: ssh's connection must not be captured.
    let networks = [address::ZONE, address::OUTSIDE];
    started_by(kind, &with_lines(&networks, lines), change)
}

/// The same by these rules.
fn started_by(
    kind: GatewayKind,
    rules: &str,
    change: impl Fn(&Lab) -> Result<()>,
) -> Result<Started> {
    let lab = Lab::new()?;
    let gateway = Gateway::allowing(&lab, kind, &["198.51.100.0/24:*"])?;
    change(&lab)?;
    let capture = Capture::start(&lab)?;
    let broker = Broker::start(&lab, User::Alice, rules)?;
    Ok(Started {
        lab,
        broker,
        _gateway: gateway,
        _capture: capture,
    })
}

fn as_it_is(_: &Lab) -> Result<()> {
    Ok(())
}

fn is_up(lab: &Lab, broker: &Broker) -> Result<()> {
    until("the zone to be up", PATIENCE, || {
        Ok(broker.status(lab)?["zones"][0]["state"] == "up")
    })
}

/// Why the zone is down; all of `words` are in it.
fn is_down(lab: &Lab, broker: &Broker, words: &[&str]) -> Result<()> {
    let mut reason = String::new();
    until("the zone to be down", PATIENCE, || {
        let zone = broker.status(lab)?["zones"][0].clone();
        reason = zone["reason"].as_str().unwrap_or_default().to_owned();
        Ok(zone["state"] == "down")
    })?;
    for word in words {
        ensure!(reason.contains(word), "`{word}` is not in {reason}");
    }
    Ok(())
}

impl Started {
    fn as_direct(&self, client: &str, server: &str) -> Result<()> {
        let talk = Conversation::new(client, server);
        talk.hold(&self.lab, &self.lab.client())?
            .same_as(&talk.hold(&self.lab, &self.lab.direct())?)
    }

    /// How many processes of ssh Alice has.
    fn processes(&self) -> Result<usize> {
        let words = ["pgrep", "-c", "-x", "ssh", "-u", User::Alice.name()];
        let counted = self.lab.client().argv(&words)?;
        Ok(counted.stdout.trim().parse()?)
    }
}

#[test]
fn programs_see_what_they_see_directly() -> Result<()> {
    let started = started(GatewayKind::AditServer, &[ENGINE], as_it_is)?;
    started.as_direct(
        "send 100K; expect 3; finish; end",
        "expect 100K; send 3; end",
    )?;
    started.as_direct("expect 100K; reset", "send 100K; end")?;
    let refused = started
        .lab
        .client()
        .argv(&["adit-peer", "dial", "198.51.100.10:81", "end"])?
        .ok()?;
    ensure!(
        refused.contains("refused") || refused.contains("reset"),
        "{refused}"
    );
    let zone = started.broker.status(&started.lab)?["zones"][0].clone();
    ensure!(
        zone["engine"] == "openssh" && zone["engine_because"] == "the rules say so",
        "{zone}"
    );
    ensure!(started.processes()? == 1, "one process of ssh");
    Ok(())
}

#[test]
fn bulk_both_ways_never_stands_still() -> Result<()> {
    let started = started(GatewayKind::AditServer, &[ENGINE], as_it_is)?;
    started.as_direct("both 64M; finish; end", "both 64M; end")
}

#[test]
fn under_a_stock_sshd_too() -> Result<()> {
    let started = started(GatewayKind::Sshd { rekey_mib: 8 }, &[ENGINE], as_it_is)?;
    started.as_direct("both 64M; finish; end", "both 64M; end")
}

#[test]
fn over_a_jump_host() -> Result<()> {
    let lab = Lab::new()?;
    let _jump = way::start_jump(&lab, Host::Gateway, address::GATEWAY, 22, "")?;
    let _gateway = way::start_gateway_behind(&lab)?;
    let _capture = Capture::start(&lab)?;
    let via = format!("via: {}@{}", User::Alice.name(), address::GATEWAY);
    let broker = Broker::start(&lab, User::Alice, &way::rules_behind(&[&via, ENGINE]))?;
    is_up(&lab, &broker)?;
    let talk = Conversation::new("both 16M; finish; end", "both 16M; end");
    let through = talk.hold(&lab, &lab.client())?;
    let direct = talk.hold(&lab, &lab.direct())?;
    ensure!(
        through.client[0].steps == direct.client[0].steps,
        "{through:?}"
    );
    Ok(())
}

#[test]
fn a_host_key_that_changed_stops_all_and_nothing_goes_around() -> Result<()> {
    let change = |lab: &Lab| {
        let home = User::Alice.home();
        let other = lab.read(&format!("{home}/.ssh/id_ed25519.pub"))?;
        let line = format!("[{}]:443 {other}", address::GATEWAY);
        lab.write(User::Alice, &format!("{home}/.ssh/known_hosts"), line)
    };
    let lines = [ENGINE, "on_down: pass"];
    let started = started(GatewayKind::AditServer, &lines, change)?;
    let words = [
        "ssh does not trust the host key",
        "IDENTIFICATION HAS CHANGED",
    ];
    is_down(&started.lab, &started.broker, &words)?;
    let to = format!("{}:80", address::SERVER);
    started
        .lab
        .client()
        .argv(&["adit-peer", "dial", &to, "end"])?;
    let flow = started
        .broker
        .flow(&started.lab, "the flow", |flow| flow.destination == to)?;
    let expected = (flow.action.as_deref(), flow.state.as_str());
    ensure!(expected == (Some("tunnel"), "failed"), "{flow:?}");
    Ok(())
}

#[test]
fn an_unknown_host_key_and_a_key_that_is_not_let_in_are_told() -> Result<()> {
    let forget = |lab: &Lab| {
        let file = format!("{}/.ssh/known_hosts", User::Alice.home());
        lab.write(User::Alice, &file, "")
    };
    let unknown = started(GatewayKind::AditServer, &[ENGINE], forget)?;
    let words = ["ssh does not trust the host key", "host key is known for"];
    is_down(&unknown.lab, &unknown.broker, &words)?;
    let lock_out = |lab: &Lab| {
        let keys = format!("/run/lab/gateway/keys/{}", User::Alice.name());
        lab.write(User::Service, &keys, "")
    };
    let denied = started(GatewayKind::AditServer, &[ENGINE], lock_out)?;
    is_down(
        &denied.lab,
        &denied.broker,
        &["ssh was not let in", "Permission denied"],
    )
}

fn known_hosts() -> String {
    format!("{}/.ssh/known_hosts", User::Alice.home())
}

/// The gateway's line goes elsewhere, and nothing is known.
fn forgotten(lab: &Lab) -> Result<()> {
    let line = lab.read(&known_hosts())?;
    lab.write(
        User::Alice,
        &format!("{}/.ssh/two", User::Alice.home()),
        line,
    )?;
    lab.write(User::Alice, &known_hosts(), "")
}

#[test]
fn a_new_host_key_is_noted_where_the_rules_say_so() -> Result<()> {
    let lines = [ENGINE, "host_keys: accept-new"];
    let started = started(GatewayKind::AditServer, &lines, forgotten)?;
    is_up(&started.lab, &started.broker)?;
    // Debian's ssh hashes the name.
    let find = format!(
        "ssh-keygen -F '[{}]:443' -f {}",
        address::GATEWAY,
        known_hosts()
    );
    let noted = started.lab.client().sh(&find)?.ok()?;
    let key = started.lab.read("/run/lab/gateway/host_ed25519.pub")?;
    let key = key.split_whitespace().nth(1).context("no key")?;
    ensure!(noted.contains(key), "{noted}");
    Ok(())
}

/// A file that is missing is made, with its directory.
#[test]
fn a_new_host_key_is_noted_where_there_was_no_directory() -> Result<()> {
    let rules = with_lines(&[address::ZONE], &[ENGINE, "host_keys: accept-new"]);
    let rules = rules.replace("~/.ssh/known_hosts", "~/new/known_hosts");
    let started = started_by(GatewayKind::AditServer, &rules, as_it_is)?;
    is_up(&started.lab, &started.broker)?;
    let noted = format!("{}/new/known_hosts", User::Alice.home());
    ensure!(started.lab.read(&noted)?.lines().count() == 1);
    Ok(())
}

/// ssh itself would accept it each time.
#[test]
fn a_new_host_key_that_cannot_be_noted_is_not_accepted() -> Result<()> {
    let closed = |lab: &Lab| {
        forgotten(lab)?;
        lab.client()
            .sh(&format!("chmod 400 {}", known_hosts()))?
            .ok()?;
        Ok(())
    };
    let lines = [ENGINE, "host_keys: accept-new"];
    let started = started(GatewayKind::AditServer, &lines, closed)?;
    let words = [
        "ssh does not trust the host key",
        "cannot be noted",
        "Permission denied",
    ];
    is_down(&started.lab, &started.broker, &words)
}

/// No other word counts where the rules name files, whatever ssh's own configuration would believe.
#[test]
fn the_files_of_the_rules_alone_say_which_host_keys_are_known() -> Result<()> {
    let believing = |lab: &Lab| {
        forgotten(lab)?;
        let config = format!("{}/.ssh/config", User::Alice.home());
        let line = format!(
            "KnownHostsCommand /bin/cat {}/.ssh/two\n",
            User::Alice.home()
        );
        lab.write(User::Alice, &config, line)
    };
    let started = started(GatewayKind::AditServer, &[ENGINE], believing)?;
    let words = ["ssh does not trust the host key", "host key is known for"];
    is_down(&started.lab, &started.broker, &words)
}

/// Nobody is there to be asked.
#[test]
fn a_new_host_key_that_is_to_be_asked_about_is_not_trusted() -> Result<()> {
    let started = started(
        GatewayKind::AditServer,
        &[ENGINE, "host_keys: ask"],
        forgotten,
    )?;
    let words = ["ssh does not trust the host key", "host key is known for"];
    is_down(&started.lab, &started.broker, &words)?;
    ensure!(started.lab.read(&known_hosts())?.is_empty());
    Ok(())
}

#[test]
fn a_revoked_host_key_is_not_trusted() -> Result<()> {
    let revoke = |lab: &Lab| {
        let line = lab.read(&known_hosts())?;
        let (_, key) = line.split_once(' ').context("no key")?;
        lab.write(
            User::Alice,
            &known_hosts(),
            format!("{line}\n@revoked * {key}\n"),
        )
    };
    let started = started(GatewayKind::AditServer, &[ENGINE], revoke)?;
    let words = ["ssh does not trust the host key", "REVOKED"];
    is_down(&started.lab, &started.broker, &words)
}

/// In the rules, and in ssh's configuration where they name none.
#[test]
fn a_host_key_may_stand_in_the_second_of_several_files() -> Result<()> {
    let configured = |lab: &Lab| {
        let config = format!("{}/.ssh/config", User::Alice.home());
        let line = "Host *\n    UserKnownHostsFile ~/.ssh/known_hosts ~/.ssh/two\n";
        lab.write(User::Alice, &config, line)?;
        forgotten(lab)
    };
    let usual = "known_hosts: ~/.ssh/known_hosts";
    let rules = with_lines(&[address::ZONE], &[ENGINE]);
    ensure!(rules.contains(usual), "{rules}");
    let both = rules.replace(usual, "known_hosts: [~/.ssh/known_hosts, ~/.ssh/two]");
    let none = rules.replace(&format!("    {usual}\n"), "");
    for (rules, change) in [
        (both, &forgotten as &dyn Fn(&Lab) -> Result<()>),
        (none, &configured),
    ] {
        let started = started_by(GatewayKind::AditServer, &rules, change)?;
        is_up(&started.lab, &started.broker)?;
    }
    Ok(())
}

/// The rules for a gateway that is a stock sshd and knows of no link.
fn bare(lab: &Lab) -> Result<(Process, String)> {
    let sshd = way::start_jump(lab, Host::Gateway, address::GATEWAY, 22, "")?;
    let rules = with_lines(&[address::ZONE], &[ENGINE]);
    Ok((
        sshd,
        rules.replace(&format!("{}:443", address::GATEWAY), address::GATEWAY),
    ))
}

#[test]
fn a_gateway_that_is_not_there_is_told_so() -> Result<()> {
    let lab = Lab::new()?;
    let (mut sshd, rules) = bare(&lab)?;
    sshd.kill()?;
    let _capture = Capture::start(&lab)?;
    let broker = Broker::start(&lab, User::Alice, &rules)?;
    is_down(&lab, &broker, &["cannot reach 192.0.2.1:22"])
}

#[test]
fn ssh_that_was_killed_is_started_again() -> Result<()> {
    let started = started(GatewayKind::AditServer, &[ENGINE], as_it_is)?;
    for _ in 0..3 {
        started.as_direct("send 10; expect 20; finish; end", "expect 10; send 20; end")?;
        let end = ["pkill", "-KILL", "-x", "ssh", "-u", User::Alice.name()];
        started.lab.client().argv(&end)?.ok()?;
    }
    started.as_direct("send 10; expect 20; finish; end", "expect 10; send 20; end")?;
    ensure!(started.processes()? == 1, "one process of ssh");
    Ok(())
}

#[test]
fn ssh_ends_with_its_broker() -> Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let mut started = started(GatewayKind::AditServer, &[ENGINE], as_it_is)?;
        is_up(&started.lab, &started.broker)?;
        ensure!(started.processes()? == 1, "one process of ssh");
        started.broker.process.signal(signal)?;
        started.broker.process.end(PATIENCE)?;
        until("ssh to be gone", PATIENCE, || Ok(started.processes()? == 0))?;
    }
    Ok(())
}

/// An upgrade puts another program in the place of the one that runs.
#[test]
fn ssh_is_started_after_the_broker_was_replaced() -> Result<()> {
    let lab = Lab::new()?;
    let _gateway = Gateway::start(&lab)?;
    let _capture = Capture::start(&lab)?;
    let place = format!("{}/bin", User::Alice.home());
    let line = format!("mkdir {place}; cp /run/lab/bin/adit {place}");
    lab.client().sh(&line)?.ok()?;
    let path = format!("PATH={place}:/run/lab/bin:/usr/bin:/bin");
    let rules = with_lines(&[address::ZONE], &[ENGINE]);
    let broker = Broker::start_behind(&lab, User::Alice, &rules, &["env", &path], &[])?;
    is_up(&lab, &broker)?;
    lab.client().sh(&format!("rm {place}/adit"))?.ok()?;
    let end = ["pkill", "-KILL", "-x", "ssh", "-u", User::Alice.name()];
    lab.client().argv(&end)?.ok()?;
    let talk = Conversation::new("both 100K; finish; end", "both 100K; end");
    talk.hold(&lab, &lab.client())?
        .same_as(&talk.hold(&lab, &lab.direct())?)
}

/// A unit of the user has no word of where its agent is.
#[test]
fn ssh_is_told_of_the_agent_that_the_broker_found() -> Result<()> {
    let lab = Lab::new()?;
    let _gateway = Gateway::start(&lab)?;
    let _capture = Capture::start(&lab)?;
    let runtime = format!("{}/runtime", User::Alice.home());
    let socket = format!("{runtime}/ssh-agent.socket");
    lab.client().sh(&format!("mkdir {runtime}"))?.ok()?;
    let _agent = lab
        .client()
        .start("agent", &["ssh-agent", "-D", "-a", &socket])?;
    until("the agent", PATIENCE, || Ok(lab.outside(&socket).exists()))?;
    let take = format!("cd ~/.ssh; SSH_AUTH_SOCK={socket} ssh-add -q id_ed25519; rm id_ed25519*");
    lab.client().sh(&take)?.ok()?;
    let rules = with_lines(&[address::ZONE], &[ENGINE]);
    let rules = rules.replace("identity: ~/.ssh/id_ed25519", "identity: agent");
    let runtime = format!("XDG_RUNTIME_DIR={runtime}");
    let before = ["env", "-u", "SSH_AUTH_SOCK", &runtime];
    let broker = Broker::start_behind(&lab, User::Alice, &rules, &before, &[])?;
    is_up(&lab, &broker)
}
