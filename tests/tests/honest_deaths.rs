//! Broker or helper killed while hundreds of connections are held.

use std::time::{Duration, Instant};

use adit_tests::connect::{CONNECTED, Family, Target, Targets, gateway, honestly, outcomes, told};
use adit_tests::{Broker, Capture, Lab, Process, Routing, RunningAdit, User};
use adit_tests::{Witness, address, as_before, kernel_state, until};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

const HELD: usize = 500;
const PATIENCE: Duration = Duration::from_secs(30);
/// From the broker's end to the last program's error.
const AT_ONCE: Duration = Duration::from_millis(1_500);

/// Fields are dropped in order: a process that stands still keeps its lab from ending.
struct Zone {
    adit: RunningAdit,
    targets: Targets,
    before: String,
    lab: Lab,
}

/// Everything runs, with these words for the broker.
fn started(routing: Routing, words: &[&str]) -> Result<Zone> {
    let lab = Lab::with(routing)?;
    let before = kernel_state(&lab)?;
    let targets = Targets::start(&lab)?;
    let gateway = gateway(&lab)?;
    let capture = Capture::start(&lab)?;
    let broker = Broker::start_with(&lab, User::Alice, &honestly(User::Alice), words)?;
    let adit = RunningAdit {
        gateway,
        capture,
        broker,
    };
    Ok(Zone {
        lab,
        adit,
        targets,
        before,
    })
}

/// The gateway stands still, and all of the programs' connections wait for it.
fn hold(zone: &Zone) -> Result<Process> {
    hold_by(zone, Family::V4)
}

fn hold_by(zone: &Zone, family: Family) -> Result<Process> {
    let to = Target::Closed.at(family).to_string();
    zone.lab.client().argv(&["adit-connect", "to", &to])?.ok()?;
    zone.adit.gateway.process.signal(Signal::SIGSTOP)?;
    let to = Target::Open.at(family).to_string();
    let at_once = HELD.to_string();
    let words = [
        "adit-connect",
        "to",
        &to,
        "--at-once",
        &at_once,
        "--within",
        "60000",
    ];
    let programs = zone.lab.client().start("programs", &words)?;
    let mut held = 0;
    let all = until("all to be held", PATIENCE, || {
        let flows = zone.adit.broker.flows(&zone.lab)?;
        held = flows.iter().filter(|flow| flow.state == "opening").count();
        Ok(held == HELD)
    });
    all.with_context(|| format!("{held} are; {}", zone.adit.broker.process.tale()))?;
    Ok(programs)
}

/// What all programs came to, which is one and the same.
fn all_are(programs: &mut Process, within: Duration, outcome: &str) -> Result<()> {
    ensure!(programs.end(within)?.success(), "{}", programs.tale());
    let told = told(&programs.stdout())?;
    let outcomes = outcomes(&told);
    let all = outcomes.get(outcome) == Some(&HELD);
    ensure!(all && told.len() == HELD, "{outcomes:?}");
    Ok(())
}

fn accepted(zone: &Zone) -> Vec<String> {
    let told = zone.targets.listener.stdout();
    let lines = told.lines().filter(|line| line.ends_with(":4001"));
    lines.map(str::to_owned).collect()
}

/// The server has accepted all of them from the client's own address.
fn came_themselves(zone: &Zone) -> Result<()> {
    until("the server to have accepted them", PATIENCE, || {
        Ok(accepted(zone).len() == HELD)
    })?;
    let own = accepted(zone);
    let all = own.iter().all(|line| line.starts_with(address::CLIENT));
    ensure!(all, "{own:?}");
    Ok(())
}

/// As before: held, and told the truth; and nothing is left of what was held.
fn is_honest_again(zone: &mut Zone) -> Result<()> {
    until("nothing to be left open", PATIENCE, || {
        let flows = zone.adit.broker.flows(&zone.lab)?;
        let open = ["deciding", "opening", "open"];
        Ok(!flows.iter().any(|flow| open.contains(&&*flow.state)))
    })?;
    zone.adit.broker.wait_capturing(&zone.lab)?;
    let to = Target::Closed.at(Family::V4).to_string();
    until("connects to be honest again", PATIENCE, || {
        let text = zone.lab.client().argv(&["adit-connect", "to", &to])?.ok()?;
        Ok(told(&text)?.remove(0).outcome == "ECONNREFUSED")
    })
}

#[test]
fn a_broker_killed_while_it_holds_five_hundred_is_refused_to_all_of_them() -> Result<()> {
    for family in Family::ALL {
        let took = refused_after_a_kill(family)?;
        println!("all refused {} ms after the kill", took.as_millis());
    }
    Ok(())
}

fn refused_after_a_kill(family: Family) -> Result<Duration> {
    let mut zone = started(Routing::Wire, &[])?;
    let witness = Witness::start(&zone.lab)?;
    let mut programs = hold_by(&zone, family)?;
    let killed = Instant::now();
    zone.adit.broker.process.kill()?;
    all_are(&mut programs, AT_ONCE, "ECONNREFUSED")
        .with_context(|| zone.adit.capture.process.tale())?;
    let took = killed.elapsed();
    witness.finish(&zone.lab)?.nothing()?;
    zone.adit.gateway.process.signal(Signal::SIGCONT)?;
    // The next broker claims what the dead one left, and takes all of it with it.
    let mut next = Broker::start(&zone.lab, User::Alice, &honestly(User::Alice))?;
    let to = Target::Open.at(family).to_string();
    let text = zone
        .lab
        .client()
        .argv(&["adit-connect", "to", &to, "--read"])?;
    let one = told(&text.ok()?)?.remove(0);
    ensure!(one.then.as_deref() == Some("data"), "{one:?}");
    next.adit(&zone.lab, &["down"])?.ok()?;
    next.process.end(PATIENCE)?;
    as_before(&zone.lab, &zone.before)?;
    let queues = zone.lab.client().user(User::Root);
    let queues = queues.sh("cat /proc/net/netfilter/nfnetlink_queue")?.ok()?;
    ensure!(queues.trim().is_empty(), "a queue is left: {queues}");
    Ok(took)
}

#[test]
fn a_broker_killed_whose_word_is_release_lets_all_of_them_go_direct() -> Result<()> {
    let mut zone = started(Routing::Open, &["--on-broker-gone", "release"])?;
    let mut programs = hold(&zone)?;
    zone.adit.broker.process.kill()?;
    all_are(&mut programs, PATIENCE, CONNECTED)?;
    came_themselves(&zone)?;
    as_before(&zone.lab, &zone.before)
}

#[test]
fn a_helper_killed_while_five_hundred_are_held_loses_none_of_them() -> Result<()> {
    let mut zone = started(Routing::Wire, &[])?;
    let witness = Witness::start(&zone.lab)?;
    let mut programs = hold(&zone)?;
    zone.adit.capture.process.kill()?;
    zone.adit.capture = Capture::start(&zone.lab)?;
    zone.adit.gateway.process.signal(Signal::SIGCONT)?;
    all_are(&mut programs, PATIENCE, CONNECTED).with_context(|| zone.adit.broker.process.tale())?;
    witness.finish(&zone.lab)?.nothing()?;
    is_honest_again(&mut zone)
}

/// A helper that is told to end leaves nobody waiting: the broker's word is applied to all that is held.
#[test]
fn a_helper_started_anew_while_five_hundred_are_held_leaves_none_of_them_waiting() -> Result<()> {
    let mut zone = started(Routing::Wire, &[])?;
    let witness = Witness::start(&zone.lab)?;
    let mut programs = hold(&zone)?;
    zone.adit.capture.process.signal(Signal::SIGTERM)?;
    all_are(&mut programs, AT_ONCE, "ECONNREFUSED")
        .with_context(|| zone.adit.capture.process.tale())?;
    ensure!(zone.adit.capture.process.end(PATIENCE)?.success());
    zone.adit.capture = Capture::start(&zone.lab)?;
    zone.adit.gateway.process.signal(Signal::SIGCONT)?;
    is_honest_again(&mut zone)?;
    witness.finish(&zone.lab)?.nothing()
}

/// What is held goes out as if Adit had never been there.
#[test]
fn adit_down_while_five_hundred_are_held_lets_all_of_them_go_direct() -> Result<()> {
    let mut zone = started(Routing::Open, &[])?;
    let mut programs = hold(&zone)?;
    zone.adit.broker.adit(&zone.lab, &["down"])?.ok()?;
    zone.adit.broker.process.end(PATIENCE)?;
    all_are(&mut programs, AT_ONCE, CONNECTED)?;
    came_themselves(&zone)?;
    as_before(&zone.lab, &zone.before)
}
