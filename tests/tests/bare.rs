//! A gateway that is a stock sshd and knows of no link: one connection of the system's `ssh`, or one of the broker's own for each flow.

use std::time::Duration;

use adit_tests::{
    Broker, Capture, Conversation, Flow, Gateway, Host, Lab, Order, Process, User, address,
    rules_for_networks, until, way,
};
use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

const PATIENCE: Duration = Duration::from_secs(20);

struct Started {
    lab: Lab,
    broker: Broker,
    sshd: Process,
    _capture: Capture,
}

/// What carries flows there.
#[derive(Debug, Clone, Copy)]
enum By {
    /// One `ssh` for all of them, which is taken where there is one.
    Ssh,
    /// The broker's own engine.
    Connections,
}

const EITHER: [By; 2] = [By::Ssh, By::Connections];

/// An sshd at the zone's edge with `more` in its configuration, and Alice's broker.
fn started(by: By, more: &str) -> Result<Started> {
    let engine = match by {
        By::Ssh => "auto",
        By::Connections => "embedded",
    };
    started_with(&format!("engine: {engine}"), more)
}

/// The same, with that line in the zone.
fn started_with(line: &str, more: &str) -> Result<Started> {
    started_after(|_| Ok(()), line, more)
}

/// The same, after that.
fn started_after(before: impl Fn(&Lab) -> Result<()>, line: &str, more: &str) -> Result<Started> {
    started_behind(&[], before, line, more)
}

/// The same, with these words before the broker's own.
fn started_behind(
    words: &[&str],
    before: impl Fn(&Lab) -> Result<()>,
    line: &str,
    more: &str,
) -> Result<Started> {
    let lab = Lab::new()?;
    let sshd = way::start_jump(&lab, Host::Gateway, address::GATEWAY, 22, more)?;
    before(&lab)?;
    let capture = Capture::start(&lab)?;
    // The way to the gateway leads through them as well, and must not be captured.
    let networks = [address::ZONE, address::ZONE6, address::OUTSIDE];
    let rules = rules_for_networks(User::Alice, &networks);
    let usual = Gateway::for_user(User::Alice);
    let rules = rules
        .replace(&usual, usual.trim_end_matches(":443"))
        .replacen("rules:\n", &format!("    {line}\nrules:\n"), 1);
    let broker = Broker::start_behind(&lab, User::Alice, &rules, words, &[])?;
    Ok(Started {
        lab,
        broker,
        sshd,
        _capture: capture,
    })
}

impl Started {
    fn as_direct(&self, talk: &Conversation<'_>) -> Result<()> {
        talk.hold(&self.lab, &self.lab.client())?
            .same_as(&talk.hold(&self.lab, &self.lab.direct())?)
    }

    fn is(&self, state: &str) -> Result<()> {
        until(&format!("the zone to be {state}"), PATIENCE, || {
            Ok(self.broker.status(&self.lab)?["zones"][0]["state"] == state)
        })
    }

    /// A program that connects to `to` is told `told`, and `adit flows` has `reason`.
    fn turned_away(&self, to: &str, told: &str, reason: &str) -> Result<Flow> {
        let dialled = self
            .lab
            .client()
            .argv(&["adit-peer", "dial", to, "end"])?
            .ok()?;
        let steps = adit_tests::sights(&dialled)?.remove(0).steps;
        let last = steps.last().cloned().unwrap_or_default();
        let expected = match Order::of_this_run() {
            Order::Honest => format!("connect: {told}"),
            Order::Early => "End: connection reset".to_owned(),
        };
        ensure!(last == expected, "{to}: {steps:?}");
        let flow = self
            .broker
            .flow(&self.lab, "the flow", |flow| flow.destination == to)?;
        let said = flow.reason.clone().unwrap_or_default();
        ensure!(said.contains(reason), "`{reason}` is not in `{said}`");
        Ok(flow)
    }
}

#[test]
fn programs_see_what_they_see_directly() -> Result<()> {
    EITHER.into_iter().try_for_each(programs_see)
}

fn programs_see(by: By) -> Result<()> {
    let started = started(by, "")?;
    for (client, server) in [
        (
            "send 100K; expect 3; finish; end",
            "expect 100K; send 3; end",
        ),
        ("finish; expect 100K; end", "end; send 100K"),
        (
            "expect 100K; end; send 100K",
            "send 100K; finish; expect 100K; end",
        ),
        ("both 300K; finish; end", "both 300K; end"),
    ] {
        started.as_direct(&Conversation::new(client, server))?;
    }
    started.as_direct(&Conversation::new("ping 20; finish; end", "echo").at(address::SERVER6))?;
    started.as_direct(&Conversation::new("ping 20; finish; end", "echo").times(50))?;
    let zone = started.broker.status(&started.lab)?["zones"][0].clone();
    let because = match by {
        By::Ssh => "the gateway has no adit-link: ssh forwards a port for each flow",
        By::Connections => {
            "the gateway has no adit-link: one SSH connection for each flow, as the rules want no ssh"
        }
    };
    ensure!(zone["engine_because"] == because, "{zone}");
    Ok(())
}

#[test]
fn bulk_both_ways_never_stands_still() -> Result<()> {
    for by in EITHER {
        started(by, "")?.as_direct(
            &Conversation::new("number; both 64M; finish; end", "number; both 64M; end").times(2),
        )?;
    }
    Ok(())
}

#[test]
fn what_is_refused_unreachable_and_denied_is_told() -> Result<()> {
    EITHER.into_iter().try_for_each(is_told)
}

fn is_told(by: By) -> Result<()> {
    let started = started(by, "PermitOpen 198.51.100.10:81 198.51.100.99:80")?;
    let refused = format!("{}:81", address::SERVER);
    started.turned_away(
        &refused,
        "connection refused",
        "refused: Connection refused",
    )?;
    let nobody = format!("{}:80", address::NOBODY);
    started.turned_away(&nobody, "host unreachable", "unreachable: No route to host")?;
    let denied = format!("{}:82", address::SERVER);
    started.turned_away(
        &denied,
        "host unreachable",
        "denied: its sshd does not allow it",
    )?;
    Ok(())
}

#[test]
fn a_program_that_stops_reading_stalls_nobody() -> Result<()> {
    EITHER.into_iter().try_for_each(stalls_nobody)
}

fn stalls_nobody(by: By) -> Result<()> {
    let started = started(by, "")?;
    let stuck = Conversation::new("expect 1000; pause 60000", "flood");
    let (_listener, to) = stuck.listen(&started.lab)?;
    let _dialler = stuck.dial(&started.lab.client(), to)?;
    started.broker.until_stuck(&started.lab, &to.to_string())?;
    started.as_direct(
        &Conversation::new("number; both 4M; finish; end", "number; both 4M; end").times(4),
    )
}

#[test]
fn a_gateway_that_is_gone_is_noticed_and_used_when_it_is_back() -> Result<()> {
    EITHER.into_iter().try_for_each(is_noticed)
}

fn is_noticed(by: By) -> Result<()> {
    let mut started = started(by, "")?;
    started.is("up")?;
    let cut = Conversation::new("expect 10; end", "send 10; pause 60000");
    let (_listener, to) = cut.listen(&started.lab)?;
    let mut cut = cut.dial(&started.lab.client(), to)?;
    let to = to.to_string();
    started.broker.flow(&started.lab, "an open flow", |flow| {
        flow.destination == to && flow.down == 10
    })?;
    started.sshd.kill()?;
    let end = ["pkill", "-KILL", "-u", User::Alice.name(), "-x", "sshd"];
    started.lab.gateway().argv(&end)?.ok()?;
    cut.end(PATIENCE)?;
    let steps = adit_tests::sights(&cut.stdout())?.remove(0).steps;
    let last = steps.last().map(String::as_str);
    ensure!(last == Some("End: connection reset"), "{steps:?}");
    started.is("down")?;
    let file = format!("{}/jump_22_config", User::Root.home());
    let words = ["/usr/sbin/sshd", "-D", "-e", "-f", &file];
    let _again = started.lab.gateway().start("sshd-again", &words)?;
    started.is("up")?;
    started.as_direct(&Conversation::new("both 10K; finish; end", "both 10K; end"))
}

#[test]
fn connections_end_with_the_broker() -> Result<()> {
    for by in EITHER {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            end_with_the_broker(by, signal)?;
        }
    }
    Ok(())
}

fn end_with_the_broker(by: By, signal: Signal) -> Result<()> {
    let mut started = started(by, "")?;
    started.as_direct(&Conversation::new("ping 20; finish; end", "echo").times(10))?;
    // Nobody else finds a way into the connection that stands.
    let left = started
        .lab
        .client()
        .sh("find /tmp -user adit-alice -name master")?;
    ensure!(left.stdout.is_empty(), "{left}");
    started.broker.process.signal(signal)?;
    started.broker.process.end(PATIENCE)?;
    until("all of the user's connections to be gone", PATIENCE, || {
        let words = ["pgrep", "-u", User::Alice.name(), "-x", "sshd"];
        Ok(!started.lab.gateway().argv(&words)?.success())
    })
}

/// Whoever may be asked for anything logs in by the broker, which can ask.
#[test]
fn ssh_is_not_taken_where_the_user_may_be_asked() -> Result<()> {
    for line in ["host_keys: ask", "methods: [publickey, password]"] {
        let started = started_with(line, "")?;
        started.as_direct(&Conversation::new("ping 3; finish; end", "echo"))?;
        let zone = started.broker.status(&started.lab)?["zones"][0].clone();
        ensure!(zone["engine"] == "embedded", "{zone}");
        let because = zone["engine_because"].as_str().unwrap_or_default();
        ensure!(
            because.ends_with("as ssh could not ask for what may be asked here"),
            "{zone}"
        );
    }
    Ok(())
}

/// One that does not get in, as its own configuration has it, costs nothing but its try.
#[test]
fn ssh_is_not_taken_where_it_does_not_get_in() -> Result<()> {
    let lab = Lab::new()?;
    let _sshd = way::start_jump(&lab, Host::Gateway, address::GATEWAY, 22, "")?;
    let config = format!("{}/.ssh/config", User::Alice.home());
    lab.write(User::Alice, &config, "PubkeyAuthentication no\n")?;
    let _capture = Capture::start(&lab)?;
    let usual = Gateway::for_user(User::Alice);
    let rules = rules_for_networks(User::Alice, &[address::ZONE]);
    let rules = rules.replace(&usual, usual.trim_end_matches(":443"));
    let broker = Broker::start(&lab, User::Alice, &rules)?;
    let talk = Conversation::new("ping 3; finish; end", "echo");
    talk.hold(&lab, &lab.client())?
        .same_as(&talk.hold(&lab, &lab.direct())?)?;
    let zone = broker.status(&lab)?["zones"][0].clone();
    let because = zone["engine_because"].as_str().unwrap_or_default();
    ensure!(
        because.contains("as ssh does not get there: ssh was not let in"),
        "{zone}"
    );
    Ok(())
}

/// Where no program of that name is found.
fn started_without_ssh(line: &str) -> Result<Started> {
    started_behind(&["env", "PATH=/run/lab/bin"], |_| Ok(()), line, "")
}

#[test]
fn no_ssh_is_needed() -> Result<()> {
    let started = started_without_ssh("engine: auto")?;
    started.as_direct(&Conversation::new("ping 20; finish; end", "echo").times(10))?;
    let zone = started.broker.status(&started.lab)?["zones"][0].clone();
    ensure!(zone["engine"] == "embedded", "{zone}");
    let because = zone["engine_because"].as_str().unwrap_or_default();
    ensure!(because.contains("ssh cannot be run"), "{zone}");
    Ok(())
}

#[test]
fn the_engine_openssh_names_what_is_missing() -> Result<()> {
    let started = started_without_ssh("engine: openssh")?;
    started.is("down")?;
    let zone = started.broker.status(&started.lab)?["zones"][0].clone();
    let reason = zone["reason"].as_str().unwrap_or_default();
    ensure!(
        reason.contains("ssh cannot be run") && reason.contains("openssh-client"),
        "{zone}"
    );
    Ok(())
}

/// That the rules want it changes nothing but who logs in first.
#[test]
fn the_engine_openssh_needs_no_link_either() -> Result<()> {
    let started = started_with("engine: openssh", "")?;
    started.as_direct(&Conversation::new(
        "both 300K; finish; end",
        "both 300K; end",
    ))?;
    let zone = started.broker.status(&started.lab)?["zones"][0].clone();
    ensure!(zone["engine"] == "openssh", "{zone}");
    Ok(())
}

/// One connection carries all: who gives up before its destination answers takes none of the others along.
#[test]
fn who_gives_up_early_disturbs_no_other() -> Result<()> {
    let started = started(By::Ssh, "")?;
    started.is("up")?;
    let nobody = format!("{}:80", address::NOBODY);
    let words = ["adit-connect", "to", &nobody, "--within", "300"];
    for _ in 0..3 {
        started.lab.client().argv(&words)?.ok()?;
        started.as_direct(&Conversation::new("ping 5; finish; end", "echo"))?;
    }
    let log = started.broker.process.stderr();
    ensure!(log.matches("link up").count() == 1, "{log}");
    Ok(())
}

#[test]
fn an_ssh_that_is_killed_resets_what_it_carried_and_is_started_again() -> Result<()> {
    let started = started(By::Ssh, "")?;
    started.is("up")?;
    let cut = Conversation::new("expect 10; end", "send 10; pause 60000");
    let (_listener, to) = cut.listen(&started.lab)?;
    let mut cut = cut.dial(&started.lab.client(), to)?;
    let to = to.to_string();
    started.broker.flow(&started.lab, "an open flow", |flow| {
        flow.destination == to && flow.down == 10
    })?;
    let end = ["pkill", "-KILL", "-u", User::Alice.name(), "-x", "ssh"];
    started.lab.client().argv(&end)?.ok()?;
    cut.end(PATIENCE)?;
    let steps = adit_tests::sights(&cut.stdout())?.remove(0).steps;
    let last = steps.last().map(String::as_str);
    ensure!(last == Some("End: connection reset"), "{steps:?}");
    started.as_direct(&Conversation::new("both 10K; finish; end", "both 10K; end"))
}

#[test]
fn a_connection_that_is_lost_resets_its_flow_and_no_other_thing() -> Result<()> {
    let started = started(By::Connections, "")?;
    started.is("up")?;
    let cut = Conversation::new("expect 10; end", "send 10; pause 60000");
    let (_listener, to) = cut.listen(&started.lab)?;
    let mut cut = cut.dial(&started.lab.client(), to)?;
    let to = to.to_string();
    started.broker.flow(&started.lab, "an open flow", |flow| {
        flow.destination == to && flow.down == 10
    })?;
    // The oldest carries nothing: it stands for the gateway.
    let all = format!("pgrep -u {} -x sshd", User::Alice.name());
    let line = format!("kill -KILL $({all} | grep -vx \"$({all} -o)\")");
    started.lab.gateway().sh(&line)?.ok()?;
    cut.end(PATIENCE)?;
    let steps = adit_tests::sights(&cut.stdout())?.remove(0).steps;
    let last = steps.last().map(String::as_str);
    ensure!(last == Some("End: connection reset"), "{steps:?}");
    started.as_direct(&Conversation::new("both 10K; finish; end", "both 10K; end"))?;
    let log = started.broker.process.stderr();
    ensure!(!log.contains("link lost"), "{log}");
    Ok(())
}

/// What ssh knows to be revoked is not to be gone around by an engine that was not told.
#[test]
fn a_host_key_that_ssh_does_not_trust_ends_it() -> Result<()> {
    let revoke = |lab: &Lab| -> Result<()> {
        let line = "cut -d' ' -f2- ~/.ssh/known_hosts >~/.ssh/revoked
            echo 'RevokedHostKeys ~/.ssh/revoked' >~/.ssh/config";
        lab.client().sh(line)?.ok()?;
        Ok(())
    };
    let started = started_after(revoke, "engine: auto", "")?;
    started.is("down")?;
    let zone = started.broker.status(&started.lab)?["zones"][0].take();
    let reason = zone["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("ssh does not trust the host key"), "{zone}");
    Ok(())
}

/// Whoever comes in between later is seen by the next connection: then all is given up, loudly, and nothing goes around.
#[test]
fn a_host_key_that_changes_while_the_zone_is_up_takes_it_down() -> Result<()> {
    let mut started = started_with("engine: embedded\n    on_down: pass", "")?;
    started.is("up")?;
    // The sessions that it has go on.
    started.sshd.kill()?;
    let own = format!("{}/jump_22", User::Root.home());
    let line = format!("rm {own}_ed25519*; ssh-keygen -q -t ed25519 -N '' -f {own}_ed25519");
    let (lab, root) = (&started.lab, started.lab.gateway().user(User::Root));
    root.sh(&line)?.ok()?;
    let words = ["/usr/sbin/sshd", "-D", "-e", "-f", &format!("{own}_config")];
    let mut other = lab.gateway().start("sshd-other", &words)?;
    other.ready_when("sshd", PATIENCE, || lab.listening(Host::Gateway, 22))?;
    let to = format!("{}:81", address::SERVER);
    lab.client().argv(&["adit-peer", "dial", &to, "end"])?;
    started.is("down")?;
    let zone = started.broker.status(lab)?["zones"][0].take();
    let reason = zone["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("HAS CHANGED"), "{zone}");
    let flow = started.turned_away(
        &format!("{}:82", address::SERVER),
        "host unreachable",
        "HAS CHANGED",
    )?;
    ensure!(flow.action.as_deref() == Some("tunnel"), "{flow:?}");
    let log = started.broker.process.stderr();
    let is_loud = |line: &str| line.contains("ERROR") && line.contains("HAS CHANGED");
    ensure!(log.lines().any(is_loud), "{log}");
    Ok(())
}
