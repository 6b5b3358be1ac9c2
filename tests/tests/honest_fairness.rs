//! One user's flood of connections is that user's alone.

use std::sync::Mutex;
use std::time::Duration;

use adit_tests::connect::{Family, Flooded, Target, Targets, gateway, honestly, told};
use adit_tests::{Broker, Capture, Lab, User};
use anyhow::{Context, Result, ensure};

const READY: Duration = Duration::from_secs(10);
const SYNS: usize = 20_000;
/// Bob's connects of one turn.
const TURN: usize = 50;
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

/// Median and 99th percentile.
fn percentiles(values: &mut [u64]) -> Result<(u64, u64)> {
    values.sort_unstable();
    let at = |percent| values.get(values.len() * percent / 100).copied();
    at(50).zip(at(99)).context("no values")
}

/// Floods, and gives what came of it in words.
fn flooded_by(target: Target) -> Result<String> {
    // Each of these measures is a neighbour that another one would count.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock();
    let lab = Lab::new()?;
    let _targets = Targets::start(&lab)?;
    // Whom Bob goes to is nobody of whom Alice wants something.
    let bobs = Target::Spare.at(Family::V4);
    let (address, port) = (bobs.ip().to_string(), bobs.port().to_string());
    let words = ["adit-connect", "listen", &address, "--port", &port];
    let mut listener = lab.server().start("bobs", &words)?;
    listener.line_with("listening", READY)?;
    let _gateway = gateway(&lab)?;
    let _capture = Capture::start(&lab)?;
    let alice = Broker::start(&lab, User::Alice, &honestly(User::Alice))?;
    let _bob = Broker::start(&lab, User::Bob, &honestly(User::Bob))?;
    turn(&lab)?;
    let (mut quiet, mut beside) = (Vec::new(), Vec::new());
    let mut floods = Vec::new();
    let (to, count) = (target.at(Family::V4).to_string(), SYNS.to_string());
    for _ in 0..3 {
        for _ in 0..6 {
            quiet.extend(turn(&lab)?);
        }
        let words = ["adit-connect", "flood", &to, "--count", &count];
        let mut flood = lab.client().start("flood", &words)?;
        while flood.running()? {
            beside.extend(turn(&lab)?);
        }
        let told: Flooded =
            serde_json::from_str(flood.stdout().trim()).with_context(|| flood.tale())?;
        floods.push(told);
        let mut at_rest = 0;
        while at_rest < 3 {
            let opening = alice
                .flows(&lab)?
                .iter()
                .any(|flow| flow.state == "opening");
            at_rest = if opening { 0 } else { at_rest + 1 };
        }
    }
    let samples = beside.len();
    let (quiet, quiet_99) = percentiles(&mut quiet)?;
    let (beside, beside_99) = percentiles(&mut beside)?;
    let times = beside as f64 / quiet as f64;
    let said = format!(
        "{target:?}: Bob's connect {quiet} µs (p99 {quiet_99}), beside Alice's flood {beside} µs (p99 {beside_99}): {times:.2}×, {samples} samples; {floods:?}"
    );
    ensure!(samples >= 3 * TURN, "too few samples: {samples}");
    ensure!(times <= MOST, "{said}");
    Ok(said)
}

#[test]
fn a_flood_to_a_silent_destination_disturbs_nobody_else() -> Result<()> {
    println!("{}", flooded_by(Target::Filtered)?);
    Ok(())
}

#[test]
fn a_flood_of_refused_connections_disturbs_nobody_else() -> Result<()> {
    println!("{}", flooded_by(Target::Closed)?);
    Ok(())
}

#[test]
fn a_flood_that_is_let_in_disturbs_nobody_else() -> Result<()> {
    println!("{}", flooded_by(Target::Open)?);
    Ok(())
}
