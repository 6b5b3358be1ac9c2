//! One user's flood of connections is that user's alone.

use std::sync::Mutex;
use std::time::Duration;

use adit_tests::connect::{
    CONNECTED, Family, Flooded, GAVE_UP, Target, Targets, gateway, honestly, told,
};
use adit_tests::{Broker, Capture, Gateway, Lab, Process, User, until};
use anyhow::{Context, Result, ensure};

const PATIENCE: Duration = Duration::from_secs(30);
const SYNS: usize = 20_000;
/// How many of them are open at once; so many are waited for at last.
const LAST: usize = 4000;
const WITHIN: Duration = Duration::from_secs(20);
/// The same where no answer comes.
const SILENCE: Duration = Duration::from_secs(1);
/// How many come to the broker at the least: as many as may be held of a user.
const ASKED: u64 = 4096;
/// Bob's connects of one turn, of all turns before a flood, and beside it at the least.
const TURN: usize = 10;
const BEFORE: usize = 300;
const LEAST: usize = TURN;
/// A SYN that is lost is sent again after so many µs.
const SENT_AGAIN: u64 = 1_000_000;
/// The other's median may become so many times what it was.
const MOST: f64 = 2.0;

/// Microseconds of Bob's connects, one after another.
fn turn(lab: &Lab) -> Result<Vec<u64>> {
    let to = Target::Spare.at(Family::V4).to_string();
    let times = TURN.to_string();
    let words = ["adit-connect", "to", "--times", &times, &to];
    let text = lab.client().user(User::Bob).argv(&words)?.ok()?;
    let told = told(&text)?;
    ensure!(
        told.len() == TURN && told.iter().all(|one| one.outcome == "connected"),
        "{text}"
    );
    Ok(told.iter().map(|one| one.us).collect())
}

/// Median, 99th percentile, and the highest.
fn percentiles(values: &mut [u64]) -> Result<(u64, u64, u64)> {
    values.sort_unstable();
    let at = |percent| values.get(values.len() * percent / 100).copied();
    let last = values.last().context("no values")?;
    Ok((at(50).unwrap_or(*last), at(99).unwrap_or(*last), *last))
}

/// Two users, each with a broker, and someone to go to for whom nobody else asks.
struct Neighbours {
    alice: Broker,
    _bob: Broker,
    _processes: (Capture, Gateway, Targets, Process),
    lab: Lab,
}

fn neighbours() -> Result<Neighbours> {
    let lab = Lab::new()?;
    let targets = Targets::start(&lab)?;
    let bobs = Target::Spare.at(Family::V4);
    let (address, port) = (bobs.ip().to_string(), bobs.port().to_string());
    let words = ["adit-connect", "listen", &address, "--port", &port];
    let mut listener = lab.server().start("bobs", &words)?;
    listener.line_with("listening", PATIENCE)?;
    let gateway = gateway(&lab)?;
    let capture = Capture::start(&lab)?;
    let alice = Broker::start(&lab, User::Alice, &honestly(User::Alice))?;
    let bob = Broker::start(&lab, User::Bob, &honestly(User::Bob))?;
    Ok(Neighbours {
        alice,
        _bob: bob,
        _processes: (capture, gateway, targets, listener),
        lab,
    })
}

/// Alice floods; what came of it, and what Bob's connects took that began and ended meanwhile.
fn flood(of: &Neighbours, target: Target) -> Result<(Flooded, Vec<u64>)> {
    let (to, count) = (target.at(Family::V4).to_string(), SYNS.to_string());
    let within = if target == Target::Filtered {
        SILENCE
    } else {
        WITHIN
    };
    let (at_once, within) = (LAST.to_string(), within.as_millis().to_string());
    let words = ["adit-connect", "flood", &to, "--count", &count];
    let more = ["--at-once", &at_once, "--within", &within];
    let mut beside = Vec::new();
    let before = total(of)?;
    let flooding = of.lab.client();
    let mut flood = flooding.start("flood", &[&words[..], &more[..]].concat())?;
    loop {
        let turn = turn(&of.lab)?;
        if !flood.running()? {
            break;
        }
        beside.extend(turn);
    }
    let told: Flooded =
        serde_json::from_str(flood.stdout().trim()).with_context(|| flood.tale())?;
    let asked = total(of)? - before;
    ensure!(asked >= ASKED, "only {asked} came to the broker: {told:?}");
    ensure!(
        beside.len() >= LEAST,
        "only {} connects beside it: {told:?}",
        beside.len()
    );
    let mut quiet = 0;
    until("Alice's flows to be over", PATIENCE, || {
        let flows = of.alice.flows(&of.lab)?;
        let opening = flows.iter().any(|flow| flow.state == "opening");
        quiet = if opening { 0 } else { quiet + 1 };
        Ok(quiet == 3)
    })?;
    Ok((told, beside))
}

/// Each of a flood came to `outcome` or was given up for the next; most of the last ones came to it.
fn check(told: &Flooded, outcome: &str) -> Result<()> {
    let of = |outcome| told.outcomes.get(outcome).copied().unwrap_or_default();
    let all = match outcome {
        GAVE_UP => of(GAVE_UP),
        _ => of(GAVE_UP) + of(outcome),
    };
    ensure!(all == SYNS && of(outcome) > LAST / 2, "{told:?}");
    Ok(())
}

/// Flows of Alice so far.
fn total(of: &Neighbours) -> Result<u64> {
    let status = of.alice.status(&of.lab)?;
    status["flows"]["total"].as_u64().context("no total")
}

/// Floods, and gives what came of it in words.
fn flooded_by(target: Target, outcome: &str) -> Result<String> {
    // Each of these measures is a neighbour that another one would count.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock();
    let of = neighbours()?;
    turn(&of.lab)?;
    let (mut quiet, mut beside) = (Vec::new(), Vec::new());
    let mut floods = Vec::new();
    for _ in 0..3 {
        for _ in 0..BEFORE / TURN {
            quiet.extend(turn(&of.lab)?);
        }
        let (told, meanwhile) = flood(&of, target)?;
        check(&told, outcome)?;
        beside.extend(meanwhile);
        floods.push(told);
    }
    let samples = beside.len();
    let (quiet, quiet_99, _) = percentiles(&mut quiet)?;
    let (beside, beside_99, longest) = percentiles(&mut beside)?;
    let times = beside as f64 / quiet as f64;
    let said = format!(
        "{target:?}: Bob's connect {quiet} µs (p99 {quiet_99}), beside Alice's flood {beside} µs (p99 {beside_99}, longest {longest}): {times:.2}×, {samples} samples; {floods:?}"
    );
    ensure!(times <= MOST, "{said}");
    ensure!(longest < SENT_AGAIN, "a SYN of Bob's was lost: {said}");
    Ok(said)
}

#[test]
fn a_flood_to_a_silent_destination_disturbs_nobody_else() -> Result<()> {
    println!("{}", flooded_by(Target::Filtered, GAVE_UP)?);
    Ok(())
}

#[test]
fn a_flood_of_refused_connections_disturbs_nobody_else() -> Result<()> {
    println!("{}", flooded_by(Target::Closed, "ECONNREFUSED")?);
    Ok(())
}

#[test]
fn a_flood_that_is_let_in_disturbs_nobody_else() -> Result<()> {
    println!("{}", flooded_by(Target::Open, CONNECTED)?);
    Ok(())
}
