//! A connect() while no gateway answers, or one that answers late: a wait or an error, and never both.

use std::net::SocketAddr;
use std::time::Duration;

use adit_tests::connect::{
    CONNECTED, Family, GAVE_UP, Target, Targets, Told, Way, gateway, honestly, send_few_syns, told,
};
use adit_tests::{Broker, Flow, Lab, Process, Routing, Run, RunningAdit, User};
use adit_tests::{Witness, until};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

const PATIENCE: Duration = Duration::from_secs(20);
/// What a person does not notice as a wait, in ms.
const SOON: u64 = 1_000;
/// How much later than directly a time-out may come, in ms.
const LATER: u64 = 1_500;

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
fn connecting_to(lab: &Lab, to: SocketAddr, more: &[&str]) -> Result<Process> {
    let to = to.to_string();
    let words = [&["adit-connect", "to", &to][..], more].concat();
    lab.client().start("connect", &words)
}

/// The one flow there.
fn only_flow(zone: &Zone, to: SocketAddr) -> Result<Flow> {
    let to = to.to_string();
    let mut flows = zone.adit.broker.flows(&zone.lab)?;
    flows.retain(|flow| flow.destination == to);
    ensure!(flows.len() == 1, "{flows:#?}");
    flows.pop().context("no flow")
}

/// Who was accepted there, as its listener tells it.
fn accepted(zone: &Zone, to: SocketAddr) -> Vec<String> {
    let own = to.to_string();
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
    for (family, way) in Family::ALL.into_iter().cycle().zip(Way::ALL) {
        let mut zone = started("hold")?;
        let witness = Witness::start(&zone.lab)?;
        zone.adit.gateway.process.kill()?;
        let more = ["--way", way.word(), "--within", "20000", "--read"];
        let to = Target::Open.at(family);
        let mut program = connecting_to(&zone.lab, to, &more)?;
        let destination = to.to_string();
        zone.adit.broker.flow(&zone.lab, "the held flow", |flow| {
            flow.destination == destination && flow.state == "opening" && flow.age_ms >= 2_000
        })?;
        ensure!(program.running()?, "{}", program.tale());
        zone.adit.gateway.restart(&zone.lab)?;
        ensure!(program.end(PATIENCE)?.success(), "{}", program.tale());
        let one = told(&program.stdout())?.remove(0);
        ensure!(one.outcome == CONNECTED && one.ms() >= 2_000, "{one:?}");
        ensure!(one.then.as_deref() == Some("data"), "{one:?}");
        ensure!(accepted(&zone, to).len() == 1);
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
    let warm = connecting_to(&zone.lab, Target::Closed.at(Family::V4), &[])?.end(PATIENCE)?;
    ensure!(warm.success());
    zone_is(&zone.adit.broker, &zone.lab, "up")?;
    zone.adit.gateway.process.signal(Signal::SIGSTOP)
}

/// TCP sends a SYN again after 1 s, and after 3 s; not while it is held.
#[test]
fn held_for_three_seconds_it_is_one_question_one_stream_and_one_accept() -> Result<()> {
    let zone = started("hold")?;
    standing_still(&zone)?;
    let all = Family::ALL.map(|family| Target::Open.at(family));
    let more = ["--within", "20000", "--read"];
    let programs = all.map(|to| Ok((to, connecting_to(&zone.lab, to, &more)?)));
    let programs: Vec<(SocketAddr, Process)> = programs.into_iter().collect::<Result<_>>()?;
    for to in all {
        let destination = to.to_string();
        zone.adit.broker.flow(&zone.lab, "the held flow", |flow| {
            flow.destination == destination && flow.age_ms >= 3_500
        })?;
        only_flow(&zone, to)?;
    }
    zone.adit.gateway.process.signal(Signal::SIGCONT)?;
    for (to, mut program) in programs {
        ensure!(program.end(PATIENCE)?.success(), "{}", program.tale());
        let one = told(&program.stdout())?.remove(0);
        let data = one.then.as_deref() == Some("data");
        ensure!(
            one.outcome == CONNECTED && data && one.ms() >= 3_000,
            "{one:?}"
        );
        only_flow(&zone, to)?;
        let accepted = accepted(&zone, to);
        ensure!(accepted.len() == 1, "{accepted:?}");
    }
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
    let to = Target::Open.at(Family::V4);
    let mut program = connecting_to(&zone.lab, to, &["--within", "40000", "--read"])?;
    let destination = to.to_string();
    let is_held = |flow: &Flow| flow.destination == destination && flow.state == "opening";
    zone.adit.broker.flow(&zone.lab, "the held flow", is_held)?;
    root.sh("nft delete table inet other")?.ok()?;
    until("its SYN to be sent a fourth time", PATIENCE, || {
        Ok(only_flow(&zone, to)?.age_ms >= 7_500)
    })?;
    ensure!(is_held(&only_flow(&zone, to)?));
    zone.adit.gateway.process.signal(Signal::SIGCONT)?;
    // The fifth is far.
    let soon = Duration::from_secs(3);
    ensure!(program.end(soon)?.success(), "{}", program.tale());
    let one = told(&program.stdout())?.remove(0);
    ensure!(
        one.outcome == CONNECTED && one.then.as_deref() == Some("data"),
        "{one:?}"
    );
    only_flow(&zone, to)?;
    let accepted = accepted(&zone, to);
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

fn ends_with_its_program(zone: &Zone, to: SocketAddr) -> Result<()> {
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
    for family in Family::ALL {
        let to = Target::Filtered.at(family);
        let mut program = connecting_to(&zone.lab, to, &["--within", "1500"])?;
        until("the gateway to dial", PATIENCE, || {
            Ok(!dialled(&zone.lab, to.port())?.is_empty())
        })?;
        ensure!(program.end(PATIENCE)?.success(), "{}", program.tale());
        let one = told(&program.stdout())?.remove(0);
        ensure!(one.outcome == GAVE_UP, "{one:?}");
        ends_with_its_program(&zone, to)?;
    }
    Ok(())
}

#[test]
fn a_program_that_gives_up_while_no_gateway_answers_leaves_nothing() -> Result<()> {
    let zone = started("hold")?;
    for family in Family::ALL {
        standing_still(&zone)?;
        let to = Target::Open.at(family);
        let mut program = connecting_to(&zone.lab, to, &["--within", "500"])?;
        ensure!(program.end(PATIENCE)?.success(), "{}", program.tale());
        zone.adit.gateway.process.signal(Signal::SIGCONT)?;
        ends_with_its_program(&zone, to)?;
    }
    Ok(())
}

/// With cookies alone the kernel remembers no SYN, so no sequence number tells which question a connection belongs to.
#[test]
fn a_connection_whose_syn_is_not_kept_is_opened_once() -> Result<()> {
    let zone = started("reject")?;
    let cookies = "sysctl -qw net.ipv4.tcp_syncookies=2";
    zone.lab.client().user(User::Root).sh(cookies)?.ok()?;
    for family in Family::ALL {
        let to = Target::Open.at(family);
        let mut program = connecting_to(&zone.lab, to, &["--read"])?;
        ensure!(program.end(PATIENCE)?.success(), "{}", program.tale());
        let one = told(&program.stdout())?.remove(0);
        ensure!(one.outcome == CONNECTED, "{one:?}");
        only_flow(&zone, to)?;
        ensure!(accepted(&zone, to).len() == 1);
    }
    Ok(())
}

/// What each way of waiting is told of the target, over IPv4 and IPv6, all at once.
fn all_told(run: &Run<'_>, target: Target) -> Result<Vec<Told>> {
    let all = Family::ALL
        .into_iter()
        .flat_map(|family| Way::ALL.map(|way| (family, way)));
    let programs = all.map(|(family, way)| {
        let to = target.at(family).to_string();
        let words = ["adit-connect", "to", &to, "--way", way.word()];
        run.start("connect", &[&words[..], &["--within", "40000"]].concat())
    });
    let programs: Vec<Process> = programs.collect::<Result<_>>()?;
    let outcomes = programs.into_iter().map(|mut program| {
        ensure!(program.end(PATIENCE)?.success(), "{}", program.tale());
        told(&program.stdout())?.pop().context("it told nothing")
    });
    outcomes.collect()
}

/// The time of a hold is no time that is waited in addition: a program's kernel goes on to count while its SYN is held.
fn are_timed_out_as_directly(through: &[Told], direct: &[Told]) -> Result<()> {
    for (one, direct) in through.iter().zip(direct) {
        let what = format!("{one:?}, directly {direct:?}");
        ensure!(direct.outcome == "ETIMEDOUT", "{what}");
        ensure!(
            one.outcome == direct.outcome && one.events == direct.events,
            "{what}"
        );
        ensure!(one.ms().abs_diff(direct.ms()) < LATER, "{what}");
    }
    ensure!(through.len() == direct.len());
    Ok(())
}

#[test]
fn silence_ends_with_the_kernels_own_time_out() -> Result<()> {
    let zone = started("reject")?;
    send_few_syns(&zone.lab)?;
    let direct = all_told(&zone.lab.direct(), Target::Filtered)?;
    let through = all_told(&zone.lab.client(), Target::Filtered)?;
    are_timed_out_as_directly(&through, &direct)
}

/// Whoever is held for a gateway that does not come back has one flow, and waits no longer than for a destination that is silent.
#[test]
fn hold_ends_with_the_kernels_own_time_out() -> Result<()> {
    let mut zone = started("hold")?;
    send_few_syns(&zone.lab)?;
    let direct = all_told(&zone.lab.direct(), Target::Filtered)?;
    zone.adit.gateway.process.kill()?;
    let through = all_told(&zone.lab.client(), Target::Filtered)?;
    are_timed_out_as_directly(&through, &direct)?;
    let mut flows = Vec::new();
    let over = until("the flows to be over", PATIENCE, || {
        flows = zone.adit.broker.flows(&zone.lab)?;
        Ok(!flows.iter().any(|flow| flow.state == "opening"))
    });
    over.with_context(|| format!("{flows:#?}"))?;
    ensure!(flows.len() == through.len(), "{flows:#?}");
    Ok(())
}

/// The second connection from a port to the same destination, while the first is still held, is one of its own.
#[test]
fn the_same_source_port_again_is_another_connection() -> Result<()> {
    Family::ALL.into_iter().try_for_each(from_the_same_port)
}

fn from_the_same_port(family: Family) -> Result<()> {
    let zone = started("hold")?;
    standing_still(&zone)?;
    let to = Target::Open.at(family);
    let from = ["--from", "40000", "--read"];
    let first = [&from[..], &["--within", "300"]].concat();
    let mut program = connecting_to(&zone.lab, to, &first)?;
    ensure!(program.end(PATIENCE)?.success(), "{}", program.tale());
    ensure!(told(&program.stdout())?.remove(0).outcome == GAVE_UP);
    let second = [&from[..], &["--within", "20000"]].concat();
    let mut program = connecting_to(&zone.lab, to, &second)?;
    let destination = to.to_string();
    let flows = || -> Result<Vec<Flow>> {
        let mut flows = zone.adit.broker.flows(&zone.lab)?;
        flows.retain(|flow| flow.destination == destination);
        Ok(flows)
    };
    until("both to be asked about", PATIENCE, || {
        Ok(flows()?.len() == 2)
    })?;
    zone.adit.gateway.process.signal(Signal::SIGCONT)?;
    ensure!(program.end(PATIENCE)?.success(), "{}", program.tale());
    let one = told(&program.stdout())?.remove(0);
    ensure!(
        one.outcome == CONNECTED && one.then.as_deref() == Some("data"),
        "{one:?}"
    );
    until("the first's stream to be closed", PATIENCE, || {
        Ok(dialled(&zone.lab, to.port())?.is_empty())
    })?;
    let flows = flows()?;
    ensure!(flows.len() == 2, "{flows:#?}");
    Ok(())
}
