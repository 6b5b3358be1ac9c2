//! `hand_over`: at a stock sshd, early connections are read and written by the system's `ssh` itself.

use std::time::Duration;

use adit_tests::{
    Broker, Capture, Conversation, Flow, Gateway, Host, Lab, Process, User, address, connecting,
    rules_for_networks, sights, until, way,
};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

const PATIENCE: Duration = Duration::from_secs(20);
/// A port of the server that does not answer.
const SILENT: u16 = 7;

struct Started {
    lab: Lab,
    broker: Broker,
    _sshd: Process,
    _capture: Capture,
}

/// An sshd at the zone's edge, and Alice's broker, which may hand over to it.
fn started(more: &str) -> Result<Started> {
    let lab = Lab::new()?;
    let sshd = way::start_jump(&lab, Host::Gateway, address::GATEWAY, 22, more)?;
    let capture = Capture::start(&lab)?;
    let usual = Gateway::for_user(User::Alice);
    let rules = rules_for_networks(User::Alice, &[address::ZONE, address::ZONE6]);
    let rules = connecting("early", &rules)
        .replace(&usual, usual.trim_end_matches(":443"))
        .replacen("rules:\n", "    hand_over: true\nrules:\n", 1);
    let broker = Broker::start(&lab, User::Alice, &rules)?;
    let started = Started {
        lab,
        broker,
        _sshd: sshd,
        _capture: capture,
    };
    until("the zone to be up", PATIENCE, || {
        Ok(started.zone()?["state"] == "up")
    })?;
    Ok(started)
}

/// A conversation that goes on, and the programs at its ends.
struct Open {
    dialler: Process,
    listener: Process,
    flow: Flow,
}

impl Started {
    fn zone(&self) -> Result<serde_json::Value> {
        Ok(self.broker.status(&self.lab)?["zones"][0].take())
    }

    fn as_direct(&self, talk: &Conversation<'_>) -> Result<()> {
        talk.hold(&self.lab, &self.lab.client())?
            .same_as(&talk.hold(&self.lab, &self.lab.direct())?)
    }

    /// One that has had 10 bytes from its destination.
    fn open(&self) -> Result<Open> {
        let talk = Conversation::new("expect 10; end", "send 10; end");
        let (listener, to) = talk.listen(&self.lab)?;
        let dialler = talk.dial(&self.lab.client(), to)?;
        let to = to.to_string();
        let flow = self.broker.flow(&self.lab, "an open flow", |flow| {
            flow.destination == to && flow.state == "open" && flow.down == 10
        })?;
        Ok(Open {
            dialler,
            listener,
            flow,
        })
    }

    /// Whether `ssh` has the connection itself.
    fn is_with_ssh(&self, open: &Open) -> Result<bool> {
        let port = open.flow.source.rsplit(':').next().context("a port")?;
        let line = format!("ss -Htnp 'dport = :{port}' | grep '\"ssh\"' || true");
        let found = self.lab.client().user(User::Root).sh(&line)?.ok()?;
        Ok(!found.is_empty())
    }
}

/// The last thing that it saw.
fn last(mut process: Process) -> Result<String> {
    process.end(PATIENCE)?;
    let seen = sights(&process.stdout())?;
    let steps = &seen.first().context("nothing was seen")?.steps;
    steps.last().cloned().context("nothing was seen")
}

#[test]
fn programs_see_what_they_see_directly() -> Result<()> {
    let started = started("")?;
    for (client, server) in [
        (
            "send 100K; expect 3; finish; end",
            "expect 100K; send 3; end",
        ),
        ("finish; expect 100K; end", "end; send 100K"),
        ("both 300K; finish; end", "both 300K; end"),
        ("number; both 64M; finish; end", "number; both 64M; end"),
    ] {
        started.as_direct(&Conversation::new(client, server))?;
    }
    started.as_direct(&Conversation::new("ping 20; finish; end", "echo").at(address::SERVER6))?;
    started.as_direct(&Conversation::new("ping 20; finish; end", "echo").times(200))?;
    let zone = started.zone()?;
    let because = "the gateway has no adit-link: ssh forwards a port for each flow, and gets early connections whole";
    ensure!(zone["engine_because"] == because, "{zone}");
    Ok(())
}

#[test]
fn ssh_has_the_connection_and_bytes_are_counted_all_the_same() -> Result<()> {
    let started = started("")?;
    let open = started.open()?;
    ensure!(started.is_with_ssh(&open)?);
    ensure!(started.zone()?["streams"] == 1);
    // Nobody else finds a way into the connection that stands.
    let name = "find /tmp -user adit-alice -name master";
    let left = started.lab.client().sh(name)?;
    ensure!(left.stdout.is_empty(), "{left}");
    drop(open);
    let talk = Conversation::new(
        "send 70000; finish; expect 100K; end",
        "expect 70000; end; send 100K",
    );
    started.as_direct(&talk)?;
    started.broker.flow(&started.lab, "its count", |flow| {
        flow.state == "closed" && (flow.up, flow.down) == (70_000, 100 << 10)
    })?;
    Ok(())
}

/// ssh listens to a program no more once its destination has ended. What nobody takes is not lost in silence.
#[test]
fn what_is_sent_after_the_destinations_end_is_answered_by_a_reset() -> Result<()> {
    let started = started("")?;
    // What was on its way when the destination ended, and what came after it.
    for client in ["send 64M", "expect 100K; end; send 64M"] {
        let talk = Conversation::new(client, "send 100K; finish; end");
        let (listener, to) = talk.listen(&started.lab)?;
        let dialler = talk.dial(&started.lab.client(), to)?;
        let seen = last(dialler)?;
        // The one word of a reset where an end has come before it (tcp_reset in the kernel's tcp_input.c), and the other.
        let told = ["broken pipe", "connection reset"];
        ensure!(told.iter().any(|it| seen.ends_with(it)), "{seen}");
        last(listener)?;
        let to = to.to_string();
        let flow = started.broker.flow(&started.lab, "its end", |flow| {
            flow.destination == to && flow.state == "closed"
        })?;
        let reason = flow.reason.unwrap_or_default();
        ensure!(reason.contains("ssh takes nothing more"), "{reason}");
    }
    Ok(())
}

#[test]
fn refusals_have_their_reason() -> Result<()> {
    let started = started("PermitOpen 198.51.100.10:81")?;
    for (port, reason) in [
        (81, "refused: Connection refused"),
        (82, "denied: its sshd does not allow it"),
    ] {
        let to = format!("{}:{port}", address::SERVER);
        let words = ["adit-peer", "dial", &to, "end"];
        let dialled = started.lab.client().argv(&words)?.ok()?;
        let steps = sights(&dialled)?.remove(0).steps;
        let last = steps.last().map(String::as_str);
        ensure!(last == Some("End: connection reset"), "{steps:?}");
        let flow = started
            .broker
            .flow(&started.lab, "the flow", |flow| flow.destination == to)?;
        let said = flow.reason.unwrap_or_default();
        ensure!(said.contains(reason), "`{reason}` is not in `{said}`");
    }
    Ok(())
}

/// Also while ssh waits for its destination: an ssh that loses whoever asks it then would end with all that it has.
#[test]
fn a_flow_that_is_closed_is_reset_and_disturbs_no_other() -> Result<()> {
    let started = started("")?;
    let silence = format!(
        "nft add table inet lab
         nft 'add chain inet lab in {{ type filter hook input priority 0; }}'
         nft add rule inet lab in tcp dport {SILENT} drop"
    );
    started.lab.server().sh(&silence)?.ok()?;
    let other = started.open()?;
    let open = started.open()?;
    let close = |flow: &Flow| {
        let id = flow.id.to_string();
        started.broker.adit(&started.lab, &["close", &id])?.ok()
    };
    close(&open.flow)?;
    let seen = last(open.dialler)?;
    ensure!(seen == "End: connection reset", "{seen}");
    ensure!(last(open.listener)? == "end");

    // ssh has yet to hear of one of these, and will not hear of the other before the test is over.
    let nobody = format!("{}:80", address::NOBODY);
    let silent = format!("{}:{SILENT}", address::SERVER);
    for to in [nobody, silent] {
        let words = ["adit-peer", "dial", &to, "end"];
        let waiting = started.lab.client().start("waiting", &words)?;
        let flow = started
            .broker
            .flow(&started.lab, "the flow that waits", |flow| {
                flow.destination == to && flow.state == "opening"
            })?;
        close(&flow)?;
        let seen = last(waiting)?;
        ensure!(seen == "End: connection reset", "{seen}");
    }
    until("ssh to have heard of the first", PATIENCE, || {
        Ok(started.zone()?["streams"] == 2)
    })?;
    ensure!(started.is_with_ssh(&other)?);
    started.as_direct(&Conversation::new("ping 5; finish; end", "echo"))?;
    let log = started.broker.process.stderr();
    ensure!(log.matches("link up").count() == 1, "{log}");
    Ok(())
}

/// What breaks on the way is never taken for the end of an answer.
#[test]
fn whoever_is_killed_resets_what_was_handed_over() -> Result<()> {
    for killed in ["ssh", "sshd", "adit"] {
        let started = started("")?;
        let open = started.open()?;
        ensure!(started.is_with_ssh(&open)?);
        let words = ["pkill", "-KILL", "-u", User::Alice.name(), "-x", killed];
        match killed {
            "sshd" => started.lab.gateway().argv(&words)?.ok()?,
            "ssh" => started.lab.client().argv(&words)?.ok()?,
            _ => {
                started.broker.process.signal(Signal::SIGKILL)?;
                String::new()
            }
        };
        let seen = last(open.dialler)?;
        ensure!(seen == "End: connection reset", "{killed}: {seen}");
        if killed != "adit" {
            started.as_direct(&Conversation::new("both 10K; finish; end", "both 10K; end"))?;
        }
    }
    Ok(())
}
