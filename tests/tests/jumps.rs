//! A gateway behind jump hosts: reached through real ones, and what is said when one of them is in the way.

use std::time::Duration;

use adit_tests::{
    Broker, Capture, Conversation, Flow, Host, Lab, Process, User, address, until, way,
};
use anyhow::{Result, ensure};

const PATIENCE: Duration = Duration::from_secs(20);

struct Started {
    lab: Lab,
    broker: Broker,
    first: Process,
    _others: Vec<Process>,
    _capture: Capture,
}

fn first_jump() -> String {
    format!("{}@{}:22", User::Alice.name(), address::GATEWAY)
}

fn second_jump() -> String {
    format!("{}@198.51.100.11:2222", User::Alice.name())
}

/// A gateway behind as many jump hosts, the first with `more` in its configuration, and Alice's broker; `change` comes before that.
fn started(
    jumps: usize,
    more: &str,
    lines: &[&str],
    change: impl Fn(&Lab) -> Result<()>,
) -> Result<Started> {
    let lab = Lab::new()?;
    let first = way::start_jump(&lab, Host::Gateway, address::GATEWAY, 22, more)?;
    let mut others = vec![way::start_gateway_behind(&lab)?];
    let mut via = vec![first_jump()];
    if jumps == 2 {
        let second = way::start_jump(&lab, Host::Server, "198.51.100.11", 2222, "")?;
        others.push(second);
        via.push(second_jump());
    }
    change(&lab)?;
    let via = format!("via: {via:?}");
    let capture = Capture::start(&lab)?;
    let rules = way::rules_behind(&[&[via.as_str()], lines].concat());
    let broker = Broker::start(&lab, User::Alice, &rules)?;
    Ok(Started {
        lab,
        broker,
        first,
        _others: others,
        _capture: capture,
    })
}

impl Started {
    /// Both ends see what they would see without Adit, their addresses aside.
    fn as_direct(&self, client: &str, server: &str) -> Result<()> {
        let talk = Conversation::new(client, server);
        let through = talk.hold(&self.lab, &self.lab.client())?;
        let direct = talk.hold(&self.lab, &self.lab.direct())?;
        let (these, those) = (&through, &direct);
        ensure!(
            these.client[0].steps == those.client[0].steps,
            "{through:?}"
        );
        ensure!(
            these.server[0].steps == those.server[0].steps,
            "{through:?}"
        );
        Ok(())
    }

    fn is_up(&self) -> Result<()> {
        until("the zone to be up", PATIENCE, || {
            Ok(self.broker.status(&self.lab)?["zones"][0]["state"] == "up")
        })
    }

    /// Why the zone is down; all of `words` are in it.
    fn is_down(&self, words: &[&str]) -> Result<()> {
        let mut reason = String::new();
        until("the zone to be down", PATIENCE, || {
            let zone = self.broker.status(&self.lab)?["zones"][0].clone();
            reason = zone["reason"].as_str().unwrap_or_default().to_owned();
            Ok(zone["state"] == "down")
        })?;
        for word in words {
            ensure!(reason.contains(word), "`{word}` is not in {reason}");
        }
        Ok(())
    }

    fn turned_away(&self) -> Result<Flow> {
        let to = format!("{}:80", address::SERVER);
        self.lab.client().argv(&["adit-peer", "dial", &to, "end"])?;
        self.broker
            .flow(&self.lab, "the flow", |flow| flow.destination == to)
    }
}

fn as_it_is(_: &Lab) -> Result<()> {
    Ok(())
}

#[test]
fn a_gateway_behind_one_jump_host_is_reached_and_reached_again() -> Result<()> {
    let started = started(1, "", &[], as_it_is)?;
    started.as_direct(
        "send 100K; expect 3; finish; end",
        "expect 100K; send 3; end",
    )?;
    let zone = started.broker.status(&started.lab)?["zones"][0].clone();
    ensure!(zone["gateway"] == way::gateway_behind(), "{zone}");
    ensure!(zone["via"] == serde_json::json!([first_jump()]), "{zone}");
    let text = started.broker.adit(&started.lab, &["status"])?.ok()?;
    ensure!(
        text.contains(&format!(" by way of {}, ", first_jump())),
        "{text}"
    );
    // What serves this connection at the jump host, and not what listens.
    let end = ["pkill", "-KILL", "-u", User::Alice.name(), "-x", "sshd"];
    started.lab.gateway().argv(&end)?.ok()?;
    started.as_direct("send 10; expect 20; finish; end", "expect 10; send 20; end")?;
    let log = started.broker.process.stderr();
    ensure!(log.contains("link lost"), "{log}");
    Ok(())
}

#[test]
fn a_gateway_behind_two_jump_hosts_is_reached() -> Result<()> {
    let started = started(2, "", &[], as_it_is)?;
    started.as_direct(
        "send 100K; expect 3; finish; end",
        "expect 100K; send 3; end",
    )
}

#[test]
fn bulk_both_ways_through_jump_hosts_never_stands_still() -> Result<()> {
    let started = started(2, "", &[], as_it_is)?;
    started.as_direct("both 64M; finish; end", "both 64M; end")
}

#[test]
fn a_jump_host_that_denies_is_named() -> Result<()> {
    let started = started(1, "AllowTcpForwarding no", &[], as_it_is)?;
    let jump = format!("jump host {}: ", first_jump());
    started.is_down(&[&jump, &way::gateway_behind(), "does not allow that"])
}

#[test]
fn a_second_jump_host_that_is_not_there_is_named() -> Result<()> {
    let via = format!("via: [{:?}, \"nobody@198.51.100.10:9\"]", first_jump());
    let lab = Lab::new()?;
    let first = way::start_jump(&lab, Host::Gateway, address::GATEWAY, 22, "")?;
    let capture = Capture::start(&lab)?;
    let broker = Broker::start(&lab, User::Alice, &way::rules_behind(&[&via]))?;
    let started = Started {
        lab,
        broker,
        first,
        _others: Vec::new(),
        _capture: capture,
    };
    let jump = format!("jump host {}: ", first_jump());
    started.is_down(&[&jump, "nobody@198.51.100.10:9", "could not connect"])
}

#[test]
fn a_jump_host_that_is_down_is_named_and_used_when_it_is_back() -> Result<()> {
    let mut started = started(1, "", &[], as_it_is)?;
    started.is_up()?;
    started.first.kill()?;
    let end = ["pkill", "-KILL", "-u", User::Alice.name(), "-x", "sshd"];
    started.lab.gateway().argv(&end)?.ok()?;
    let jump = format!("jump host {}: ", first_jump());
    started.is_down(&[&jump, "cannot reach 192.0.2.1:22"])?;
    let file = format!("{}/jump_22_config", User::Root.home());
    let words = ["/usr/sbin/sshd", "-D", "-e", "-f", &file];
    let _again = started.lab.gateway().start("jump-again", &words)?;
    started.is_up()
}

/// The key of the first jump host, or of the gateway itself, is another than the known one.
fn never_around_a_changed_key(host: &str, named: &str) -> Result<()> {
    let change = |lab: &Lab| {
        let file = format!("{}/.ssh/known_hosts", User::Alice.home());
        let other = lab.read(&format!("{}/.ssh/id_ed25519.pub", User::Alice.home()))?;
        let known = lab.read(&file)?;
        let others = known.lines().filter(|line| !line.starts_with(host));
        let others: Vec<&str> = others.collect();
        let lines = format!("{host} {other}{}\n", others.join("\n"));
        lab.write(User::Alice, &file, lines)
    };
    let started = started(1, "", &["on_down: pass"], change)?;
    started.is_down(&[named, "HAS CHANGED", "known_hosts:1"])?;
    let flow = started.turned_away()?;
    let expected = (flow.action.as_deref(), flow.state.as_str());
    ensure!(expected == (Some("tunnel"), "failed"), "{flow:?}");
    Ok(())
}

#[test]
fn a_jump_host_whose_key_changed_stops_all_and_nothing_goes_around() -> Result<()> {
    let jump = format!("jump host {}: ", first_jump());
    never_around_a_changed_key("192.0.2.1 ", &jump)
}

#[test]
fn a_gateway_whose_key_changed_stops_all_behind_a_jump_host_too() -> Result<()> {
    never_around_a_changed_key("[198.51.100.10]:443 ", "HOST KEY OF [198.51.100.10]:443")
}
