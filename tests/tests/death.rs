//! kill -9 of each daemon at a random moment of a transfer, over and over: nothing of a tunnelled flow is
//! ever on the wire in clear, nothing stays behind, and a fresh start works.

use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use adit_tests::{Broker, Capture, address, as_before, kernel_state, rules_for_networks, until};
use adit_tests::{Conversation, Gateway, Lab, Process, Routing, RunningAdit, User, Witness};
use anyhow::{Context, Result};

const ROUNDS: u64 = 10;
const PATIENCE: Duration = Duration::from_secs(20);

/// `ADIT_TEST_SEED` repeats what an earlier run did.
fn seed() -> u64 {
    let given = std::env::var("ADIT_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| now.as_secs())
    };
    given.unwrap_or_else(now)
}

/// From 20 to 320 ms, chosen by the round.
fn moment(seed: u64, round: u64) -> Duration {
    let mut bytes = [0; 2];
    adit_tests::Content::new(seed ^ (round << 32)).fill(&mut bytes);
    Duration::from_millis(20 + u64::from(u16::from_le_bytes(bytes)) % 300)
}

/// Kills what `victim` names in the middle of transfers; `revive` starts it again.
fn check(
    victim: impl Fn(&mut RunningAdit) -> &mut Process,
    revive: impl Fn(&Lab, &mut RunningAdit) -> Result<()>,
) -> Result<()> {
    let seed = seed();
    let lab = Lab::with(Routing::Wire)?;
    let before = kernel_state(&lab)?;
    let mut adit = RunningAdit::start(&lab)?;
    let witness = Witness::start(&lab)?;
    for round in 0..ROUNDS {
        one_death(&lab, &mut adit, &victim, moment(seed, round))
            .and_then(|()| revive(&lab, &mut adit))
            .and_then(|()| works_again(&lab))
            .with_context(|| format!("round {round}, repeat with ADIT_TEST_SEED={seed}"))?;
    }
    witness
        .finish(&lab)?
        .nothing()
        .with_context(|| format!("ADIT_TEST_SEED={seed}"))?;
    adit.broker.adit(&lab, &["down"])?.ok()?;
    as_before(&lab, &before)?;
    Ok(())
}

fn one_death(
    lab: &Lab,
    adit: &mut RunningAdit,
    victim: impl Fn(&mut RunningAdit) -> &mut Process,
    after: Duration,
) -> Result<()> {
    let mut transfers = Vec::new();
    for address in [address::SERVER, address::SERVER6] {
        let transfer = Conversation::new("saturate 1000", "saturate 1000")
            .at(address)
            .times(4);
        let (listener, to) = transfer.listen(lab)?;
        transfers.push((transfer.dial(&lab.client(), to)?, listener));
    }
    // The moment is meant to be any moment: nothing is awaited here.
    thread::sleep(after);
    victim(adit).kill()?;
    // Whoever connects now, while something is missing, must not get out in clear.
    for address in [address::SERVER, address::SERVER6] {
        let line = format!("for i in 1 2 3; do curl -sS --max-time 1 'http://{address}:1/'; done");
        let url = line.replace(address::SERVER6, &format!("[{}]", address::SERVER6));
        lab.client().sh(&url)?.failed().ok();
    }
    for (dialler, _listener) in &mut transfers {
        dialler.end(PATIENCE)?;
    }
    Ok(())
}

fn works_again(lab: &Lab) -> Result<()> {
    for address in [address::SERVER, address::SERVER6] {
        let talk = Conversation::new("both 300K; finish; end", "both 300K; end").at(address);
        let (mut listener, to) = talk.listen(lab)?;
        // A gateway that just came back is found by the next try, not by the next flow.
        until("a transfer to work again", PATIENCE, || {
            let mut dialler = talk.dial(&lab.client(), to)?;
            dialler.end(PATIENCE)?;
            Ok(dialler.stdout().contains("\"end\""))
        })?;
        listener.end(PATIENCE)?;
    }
    Ok(())
}

#[test]
fn broker() -> Result<()> {
    check(
        |adit| &mut adit.broker.process,
        |lab, adit| {
            let rules = rules_for_networks(User::Alice, &[address::ZONE, address::ZONE6]);
            adit.broker = Broker::start(lab, User::Alice, &rules)?;
            Ok(())
        },
    )
}

#[test]
fn helper() -> Result<()> {
    check(
        |adit| &mut adit.capture.process,
        |lab, adit| {
            adit.capture = Capture::start(lab)?;
            adit.broker.wait_capturing(lab)
        },
    )
}

#[test]
fn gateway() -> Result<()> {
    check(
        |adit| &mut adit.gateway.process,
        |lab, adit| adit.gateway.restart(lab),
    )
}

#[test]
fn a_gateway_that_is_started_late_is_found() -> Result<()> {
    let lab = Lab::new()?;
    let mut gateway = Gateway::start(&lab)?;
    gateway.process.kill()?;
    let rules = rules_for_networks(User::Alice, &[address::ZONE, address::ZONE6]);
    let mut adit = RunningAdit::with(&lab, gateway, &rules)?;
    adit.gateway.restart(&lab)?;
    works_again(&lab)
}
