//! A connect() while no gateway answers, or one that answers late: a wait or an error, and never both.

use std::time::Duration;

use adit_tests::connect::{
    CONNECTED, Family, GAVE_UP, Target, Targets, Way, gateway, honestly, told,
};
use adit_tests::{Broker, Flow, Lab, Process, Routing, RunningAdit, User};
use adit_tests::{Witness, until};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

const PATIENCE: Duration = Duration::from_secs(20);
/// What a person does not notice as a wait, in ms.
const SOON: u64 = 1_000;

/// Fields are dropped in order: a process that stands still keeps its lab from ending.
struct Zone {
    adit: RunningAdit,
    targets: Targets,
    lab: Lab,
}

fn started(on_down: &str) -> Result<Zone> {
    let lab = Lab::with(Routing::Wire)?;
    let targets = Targets::start(&lab)?;
    let gateway = gateway(&lab)?;
    let rules = honestly(User::Alice);
    let rules = rules.replacen("\nrules:", &format!("\n    on_down: {on_down}\nrules:"), 1);
    let adit = RunningAdit::with(&lab, gateway, &rules)?;
    Ok(Zone { lab, adit, targets })
}

/// `adit-connect to` in the background.
fn connecting_to(lab: &Lab, target: Target, more: &[&str]) -> Result<Process> {
    let to = target.at(Family::V4).to_string();
    let words = [&["adit-connect", "to", &to][..], more].concat();
    lab.client().start("connect", &words)
}

/// The one flow to the target.
fn only_flow(zone: &Zone, target: Target) -> Result<Flow> {
    let to = target.at(Family::V4).to_string();
    let mut flows = zone.adit.broker.flows(&zone.lab)?;
    flows.retain(|flow| flow.destination == to);
    ensure!(flows.len() == 1, "{flows:#?}");
    flows.pop().context("no flow")
}

/// Who was accepted at the target's port, as its listener tells it.
fn accepted(zone: &Zone, target: Target) -> Vec<String> {
    let own = target.at(Family::V4).to_string();
    let told = zone.targets.listener.stdout();
    let lines = told.lines().filter(|line| line.ends_with(&own));
    lines.map(str::to_owned).collect()
}

fn zone_is(broker: &Broker, lab: &Lab, state: &str) -> Result<()> {
    until(&format!("the zone to be {state}"), PATIENCE, || {
        Ok(broker.status(lab)?["zones"][0]["state"] == state)
    })
}

#[test]
fn hold_is_a_slow_connect_and_no_error() -> Result<()> {
    for way in Way::ALL {
        let mut zone = started("hold")?;
        let witness = Witness::start(&zone.lab)?;
        zone.adit.gateway.process.kill()?;
        let more = ["--way", way.word(), "--within", "20000", "--read"];
        let mut program = connecting_to(&zone.lab, Target::Open, &more)?;
        let to = Target::Open.at(Family::V4).to_string();
        zone.adit.broker.flow(&zone.lab, "the held flow", |flow| {
            flow.destination == to && flow.state == "opening" && flow.age_ms >= 2_000
        })?;
        ensure!(program.running()?, "{}", program.tale());
        zone.adit.gateway.restart(&zone.lab)?;
        ensure!(program.end(PATIENCE)?.success(), "{}", program.tale());
        let one = told(&program.stdout())?.remove(0);
        ensure!(one.outcome == CONNECTED && one.ms() >= 2_000, "{one:?}");
        ensure!(one.then.as_deref() == Some("data"), "{one:?}");
        ensure!(accepted(&zone, Target::Open).len() == 1);
        witness.finish(&zone.lab)?.nothing()?;
    }
    Ok(())
}

#[test]
fn reject_is_an_unreachable_host_at_once() -> Result<()> {
    let mut zone = started("reject")?;
    zone.adit.gateway.process.kill()?;
    zone_is(&zone.adit.broker, &zone.lab, "down")?;
    let witness = Witness::start(&zone.lab)?;
    for family in Family::ALL {
        for way in Way::ALL {
            let to = Target::Open.at(family).to_string();
            let words = ["adit-connect", "to", &to, "--way", way.word()];
            let text = zone.lab.client().argv(&words)?.ok()?;
            let one = told(&text)?.remove(0);
            ensure!(
                one.outcome == "EHOSTUNREACH" && one.ms() < SOON,
                "{way:?}: {one:?}"
            );
        }
    }
    let to = Target::Open.at(Family::V4).to_string();
    let flow = zone
        .adit
        .broker
        .flow(&zone.lab, "its flow", |flow| flow.destination == to)?;
    let reason = flow.reason.clone().unwrap_or_default();
    ensure!(
        flow.state == "failed" && reason.contains("192.0.2.1"),
        "{flow:?}"
    );
    witness.finish(&zone.lab)?.nothing()
}

/// The gateway stands still: whoever asks it is held.
fn standing_still(zone: &Zone) -> Result<()> {
    let warm = connecting_to(&zone.lab, Target::Closed, &[])?.end(PATIENCE)?;
    ensure!(warm.success());
    zone_is(&zone.adit.broker, &zone.lab, "up")?;
    zone.adit.gateway.process.signal(Signal::SIGSTOP)
}

/// TCP sends a SYN again after 1 s, and after 3 s; not while it is held.
#[test]
fn held_for_three_seconds_it_is_one_question_one_stream_and_one_accept() -> Result<()> {
    let zone = started("hold")?;
    standing_still(&zone)?;
    let mut program = connecting_to(&zone.lab, Target::Open, &["--within", "20000", "--read"])?;
    let to = Target::Open.at(Family::V4).to_string();
    zone.adit.broker.flow(&zone.lab, "the held flow", |flow| {
        flow.destination == to && flow.age_ms >= 3_500
    })?;
    only_flow(&zone, Target::Open)?;
    zone.adit.gateway.process.signal(Signal::SIGCONT)?;
    ensure!(program.end(PATIENCE)?.success(), "{}", program.tale());
    let one = told(&program.stdout())?.remove(0);
    let data = one.then.as_deref() == Some("data");
    ensure!(
        one.outcome == CONNECTED && data && one.ms() >= 3_000,
        "{one:?}"
    );
    only_flow(&zone, Target::Open)?;
    let accepted = accepted(&zone, Target::Open);
    ensure!(accepted.len() == 1, "{accepted:?}");
    Ok(())
}

/// A hook that goes takes with it all that the kernel's queues hold (`nf_queue_nf_hook_drop` of net/netfilter/nf_queue.c),
/// whoever's it was: what was held is asked about again when its SYN is sent again, 1, 3, 7 and 15 s after the first.
#[test]
fn held_through_the_end_of_another_programs_rules() -> Result<()> {
    let zone = started("hold")?;
    let root = zone.lab.client().user(User::Root);
    let doubling = "key=net.ipv4.tcp_syn_linear_timeouts
        sysctl -n $key >/dev/null 2>&1 && sysctl -qw $key=0 || true";
    let theirs = "nft add table inet other
        nft add chain inet other out '{ type filter hook output priority 0; }'";
    root.sh(&format!("{doubling}; {theirs}"))?.ok()?;
    standing_still(&zone)?;
    let mut program = connecting_to(&zone.lab, Target::Open, &["--within", "40000", "--read"])?;
    let to = Target::Open.at(Family::V4).to_string();
    let is_held = |flow: &Flow| flow.destination == to && flow.state == "opening";
    zone.adit.broker.flow(&zone.lab, "the held flow", is_held)?;
    root.sh("nft delete table inet other")?.ok()?;
    until("its SYN to be sent a fourth time", PATIENCE, || {
        Ok(only_flow(&zone, Target::Open)?.age_ms >= 7_500)
    })?;
    ensure!(is_held(&only_flow(&zone, Target::Open)?));
    zone.adit.gateway.process.signal(Signal::SIGCONT)?;
    // The fifth is far.
    let soon = Duration::from_secs(3);
    ensure!(program.end(soon)?.success(), "{}", program.tale());
    let one = told(&program.stdout())?.remove(0);
    ensure!(
        one.outcome == CONNECTED && one.then.as_deref() == Some("data"),
        "{one:?}"
    );
    only_flow(&zone, Target::Open)?;
    let accepted = accepted(&zone, Target::Open);
    ensure!(accepted.len() == 1, "{accepted:?}");
    Ok(())
}

/// Sockets of the gateway to a port of the zone.
fn dialled(lab: &Lab, port: u16) -> Result<String> {
    let line = format!("ss -Htan state all dport = :{port}");
    let listed = lab.gateway().sh(&line)?.ok()?;
    let live = listed.lines().filter(|line| !line.contains("TIME-WAIT"));
    Ok(live.collect::<Vec<_>>().join("\n"))
}

fn ends_with_its_program(zone: &Zone, target: Target) -> Result<()> {
    let to = target.at(Family::V4);
    let address = to.to_string();
    let flow = zone
        .adit
        .broker
        .flow(&zone.lab, "the abandoned flow's end", |flow| {
            flow.destination == address && !["deciding", "opening", "open"].contains(&&*flow.state)
        })?;
    ensure!(
        flow.reason
            .as_deref()
            .is_some_and(|reason| !reason.is_empty()),
        "{flow:?}"
    );
    let mut left = String::new();
    let ended = until("the gateway to hang up", PATIENCE, || {
        left = dialled(&zone.lab, to.port())?;
        Ok(left.is_empty())
    });
    ended.context(left)
}

#[test]
fn a_program_that_gives_up_while_the_gateway_dials_takes_the_dialling_with_it() -> Result<()> {
    let zone = started("hold")?;
    let mut program = connecting_to(&zone.lab, Target::Filtered, &["--within", "1500"])?;
    until("the gateway to dial", PATIENCE, || {
        Ok(!dialled(&zone.lab, Target::Filtered.at(Family::V4).port())?.is_empty())
    })?;
    ensure!(program.end(PATIENCE)?.success(), "{}", program.tale());
    let one = told(&program.stdout())?.remove(0);
    ensure!(one.outcome == GAVE_UP, "{one:?}");
    ends_with_its_program(&zone, Target::Filtered)
}

#[test]
fn a_program_that_gives_up_while_no_gateway_answers_leaves_nothing() -> Result<()> {
    let zone = started("hold")?;
    standing_still(&zone)?;
    let mut program = connecting_to(&zone.lab, Target::Open, &["--within", "500"])?;
    ensure!(program.end(PATIENCE)?.success(), "{}", program.tale());
    zone.adit.gateway.process.signal(Signal::SIGCONT)?;
    ends_with_its_program(&zone, Target::Open)
}

/// With cookies alone the kernel remembers no SYN, so no sequence number tells which question a connection belongs to.
#[test]
fn a_connection_whose_syn_is_not_kept_is_opened_once() -> Result<()> {
    let zone = started("reject")?;
    let cookies = "sysctl -qw net.ipv4.tcp_syncookies=2";
    zone.lab.client().user(User::Root).sh(cookies)?.ok()?;
    let mut program = connecting_to(&zone.lab, Target::Open, &["--read"])?;
    ensure!(program.end(PATIENCE)?.success(), "{}", program.tale());
    let one = told(&program.stdout())?.remove(0);
    ensure!(one.outcome == CONNECTED, "{one:?}");
    only_flow(&zone, Target::Open)?;
    ensure!(accepted(&zone, Target::Open).len() == 1);
    Ok(())
}

/// Two retransmissions are 7 s. While it is held a SYN is not sent again, so the program's kernel begins to count when the
/// gateway's has ended.
#[test]
fn silence_ends_with_the_kernels_own_time_out() -> Result<()> {
    let zone = started("hold")?;
    let few = "sysctl -qw net.ipv4.tcp_syn_retries=2";
    zone.lab.gateway().sh(few)?.ok()?;
    zone.lab.client().user(User::Root).sh(few)?.ok()?;
    let to = Target::Filtered.at(Family::V4).to_string();
    let words = [
        "adit-connect",
        "to",
        &to,
        "--way",
        "poll",
        "--within",
        "40000",
    ];
    let mut stories = Vec::new();
    for run in [zone.lab.direct(), zone.lab.client()] {
        let one = told(&run.argv(&words)?.ok()?)?.remove(0);
        ensure!(one.outcome == "ETIMEDOUT" && one.ms() < 30_000, "{one:?}");
        stories.push((one.story(), one.events));
    }
    ensure!(stories[0] == stories[1], "{stories:?}");
    Ok(())
}

/// The second connection from a port to the same destination, while the first is still held, is one of its own.
#[test]
fn the_same_source_port_again_is_another_connection() -> Result<()> {
    let zone = started("hold")?;
    standing_still(&zone)?;
    let from = ["--from", "40000", "--read"];
    let first = [&from[..], &["--within", "300"]].concat();
    let mut program = connecting_to(&zone.lab, Target::Open, &first)?;
    ensure!(program.end(PATIENCE)?.success(), "{}", program.tale());
    ensure!(told(&program.stdout())?.remove(0).outcome == GAVE_UP);
    let second = [&from[..], &["--within", "20000"]].concat();
    let mut program = connecting_to(&zone.lab, Target::Open, &second)?;
    let to = Target::Open.at(Family::V4).to_string();
    let count = |zone: &Zone| -> Result<usize> {
        let flows = zone.adit.broker.flows(&zone.lab)?;
        Ok(flows.iter().filter(|flow| flow.destination == to).count())
    };
    until(
        "both to be asked about",
        PATIENCE,
        || Ok(count(&zone)? == 2),
    )?;
    zone.adit.gateway.process.signal(Signal::SIGCONT)?;
    ensure!(program.end(PATIENCE)?.success(), "{}", program.tale());
    let one = told(&program.stdout())?.remove(0);
    ensure!(
        one.outcome == CONNECTED && one.then.as_deref() == Some("data"),
        "{one:?}"
    );
    let mut flows = zone.adit.broker.flows(&zone.lab)?;
    flows.retain(|flow| flow.destination == to);
    until("the first's stream to be closed", PATIENCE, || {
        Ok(dialled(&zone.lab, Target::Open.at(Family::V4).port())?.is_empty())
    })?;
    ensure!(flows.len() == 2, "{flows:#?}");
    Ok(())
}
