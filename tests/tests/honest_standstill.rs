//! A broker that stands still: programs have their own time-out, and nothing of it is left when it goes on.

use std::time::Duration;

use adit_tests::connect::{
    CONNECTED, Family, Target, Targets, Told, gateway, honestly, outcomes, send_few_syns, told,
};
use adit_tests::{Lab, Routing, Run, RunningAdit, User, Witness, until};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

const PATIENCE: Duration = Duration::from_secs(30);
const MANY: usize = 200;
/// How much later than directly a time-out may come, in ms.
const LATER: u64 = 1_500;

/// Fields are dropped in order: a process that stands still keeps its lab from ending.
struct Zone {
    adit: RunningAdit,
    _targets: Targets,
    lab: Lab,
}

fn started() -> Result<Zone> {
    let lab = Lab::with(Routing::Wire)?;
    send_few_syns(&lab)?;
    let targets = Targets::start(&lab)?;
    let gateway = gateway(&lab)?;
    let adit = RunningAdit::with(&lab, gateway, &honestly(User::Alice))?;
    let zone = Zone {
        lab,
        adit,
        _targets: targets,
    };
    // The link is up.
    let one = connect(&zone.lab.client(), Target::Closed, Family::V4)?;
    ensure!(one.outcome == "ECONNREFUSED", "{one:?}");
    Ok(zone)
}

fn connect(run: &Run<'_>, target: Target, family: Family) -> Result<Told> {
    let to = target.at(family).to_string();
    let words = ["adit-connect", "to", &to, "--way", "poll", "--read"];
    let text = run.argv(&[&words[..], &["--within", "40000"]].concat())?;
    told(&text.ok()?)?.pop().context("it told nothing")
}

/// Everything works: new connections are told the truth.
fn works(zone: &Zone) -> Result<()> {
    for family in Family::ALL {
        let one = connect(&zone.lab.client(), Target::Open, family)?;
        let data = one.then.as_deref() == Some("data");
        ensure!(one.outcome == CONNECTED && data, "{one:?}");
        let one = connect(&zone.lab.client(), Target::Closed, family)?;
        ensure!(one.outcome == "ECONNREFUSED", "{one:?}");
    }
    let status = zone.adit.broker.status(&zone.lab)?;
    ensure!(
        status["state"] == "capturing" && status["connect"]["mode"] == "honest",
        "{status}"
    );
    Ok(())
}

/// No flow is under way, and the gateway has no connection to the target.
fn is_quiet(zone: &Zone) -> Result<()> {
    let mut left = String::new();
    let quiet = until("all flows to be over", PATIENCE, || {
        let mut flows = zone.adit.broker.flows(&zone.lab)?;
        flows.retain(|flow| ["deciding", "opening", "open"].contains(&&*flow.state));
        let port = Target::Open.at(Family::V4).port();
        let line = format!("ss -Htn state connected exclude time-wait dport = :{port}");
        let dialled = zone.lab.gateway().sh(&line)?.ok()?;
        left = format!("{flows:?}\n{dialled}");
        Ok(flows.is_empty() && dialled.is_empty())
    });
    quiet.context(left)
}

#[test]
fn programs_have_their_own_time_out() -> Result<()> {
    let zone = started()?;
    let witness = Witness::start(&zone.lab)?;
    zone.adit.broker.process.signal(Signal::SIGSTOP)?;
    for family in Family::ALL {
        let silent = connect(&zone.lab.direct(), Target::Filtered, family)?;
        let stopped = connect(&zone.lab.client(), Target::Open, family)?;
        ensure!(stopped.outcome == "ETIMEDOUT", "{stopped:?}");
        let same = (&silent.outcome, &silent.events) == (&stopped.outcome, &stopped.events);
        let at_its_time = stopped.ms().abs_diff(silent.ms()) < LATER;
        ensure!(same && at_its_time, "{stopped:?}, directly {silent:?}");
    }
    witness.finish(&zone.lab)?.nothing()
}

/// What was asked meanwhile is about programs that are gone.
#[test]
fn a_broker_that_goes_on_does_nothing_for_those_that_gave_up() -> Result<()> {
    let zone = started()?;
    let witness = Witness::start(&zone.lab)?;
    zone.adit.broker.process.signal(Signal::SIGSTOP)?;
    let to = Target::Open.at(Family::V4).to_string();
    let many = MANY.to_string();
    let words = ["adit-connect", "to", &to, "--at-once", &many, "--within"];
    let text = zone.lab.client().argv(&[&words[..], &["40000"]].concat())?;
    let text = text.ok()?;
    let all = told(&text)?;
    let came = outcomes(&all);
    ensure!(came.get("ETIMEDOUT") == Some(&MANY), "{came:?}");
    zone.adit.broker.process.signal(Signal::SIGCONT)?;
    works(&zone)?;
    is_quiet(&zone)?;
    let flows = zone.adit.broker.flows(&zone.lab)?;
    let up: u64 = flows.iter().map(|flow| flow.up).sum();
    ensure!(up == 0, "someone spoke: {flows:?}");
    works(&zone)?;
    witness.finish(&zone.lab)?.nothing()
}

/// A program that still waits when the broker goes on is connected then, as if nothing had been.
#[test]
fn a_broker_that_goes_on_in_time_answers_who_still_waits() -> Result<()> {
    let zone = started()?;
    zone.adit.broker.process.signal(Signal::SIGSTOP)?;
    let to = Target::Open.at(Family::V4).to_string();
    let words = ["adit-connect", "to", &to, "--within", "20000", "--read"];
    let mut program = zone.lab.client().start("connect", &words)?;
    let root = zone.lab.client().user(User::Root);
    until("the SYN to be held", PATIENCE, || {
        let queues = root.sh("cat /proc/net/netfilter/nfnetlink_queue")?.ok()?;
        let mut held = queues
            .lines()
            .filter_map(|line| line.split_whitespace().nth(2));
        Ok(held.any(|held| held != "0"))
    })?;
    ensure!(program.running()?, "{}", program.tale());
    zone.adit.broker.process.signal(Signal::SIGCONT)?;
    ensure!(program.end(PATIENCE)?.success(), "{}", program.tale());
    let one = told(&program.stdout())?.remove(0);
    let data = one.then.as_deref() == Some("data");
    ensure!(one.outcome == CONNECTED && data, "{one:?}");
    is_quiet(&zone)
}
