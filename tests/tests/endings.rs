//! How a broker ends: asked or not, with a helper or without, and what it leaves in force.

use std::time::Duration;

use adit_tests::{Broker, Capture, Conversation, Gateway, Lab, Routing, RunningAdit, User};
use adit_tests::{Witness, address, as_before, control_socket, kernel_state, sights};
use adit_tests::{rules_for_networks, until};
use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

const PATIENCE: Duration = Duration::from_secs(10);

fn rules() -> String {
    rules_for_networks(User::Alice, &[address::ZONE, address::ZONE6])
}

fn works(lab: &Lab) -> Result<()> {
    let talk = Conversation::new("both 300K; finish; end", "both 300K; end");
    talk.hold(lab, &lab.client())?
        .same_as(&talk.hold(lab, &lab.direct())?)
}

/// Alice's connections to the zone are refused, and none of them is seen on the wire.
fn closed(lab: &Lab) -> Result<()> {
    let witness = Witness::start(lab)?;
    for address in [address::SERVER, &format!("[{}]", address::SERVER6)] {
        let to = format!("{address}:80");
        let dialled = lab.client().argv(&["adit-peer", "dial", &to, "end"])?;
        let sight = sights(&dialled.ok()?)?.remove(0);
        let refused = ["connect: connection refused"];
        let reset = ["connected", "End: connection reset"];
        ensure!(
            sight.steps == refused || sight.steps == reset,
            "{to}: {sight:?}"
        );
    }
    witness.finish(lab)?.nothing()
}

/// A broker that runs behind these words.
fn behind(lab: &Lab, before: &[&str]) -> Result<(Gateway, Capture, Broker)> {
    let gateway = Gateway::start(lab)?;
    let capture = Capture::start(lab)?;
    let broker = Broker::start_behind(lab, User::Alice, &rules(), before, &[])?;
    Ok((gateway, capture, broker))
}

#[test]
fn the_end_of_its_terminal_ends_it_and_leaves_nothing() -> Result<()> {
    let lab = Lab::with(Routing::Wire)?;
    let before = kernel_state(&lab)?;
    // script(1) gives it a terminal, which is gone when script is.
    let line = "exec env --default-signal=HUP script --quiet --command \"$*\" /dev/null";
    let (_gateway, _capture, broker) = behind(&lab, &["bash", "-c", line, "script"])?;
    works(&lab)?;
    broker.process.signal(Signal::SIGKILL)?;
    until("the broker to end", PATIENCE, || {
        Ok(!lab.client().sh("pgrep -x adit")?.success())
    })?;
    as_before(&lab, &before)
}

#[test]
fn a_hangup_without_the_end_of_a_terminal_does_not_end_it() -> Result<()> {
    let lab = Lab::with(Routing::Wire)?;
    let (_gateway, _capture, mut broker) = behind(&lab, &["env", "--default-signal=HUP"])?;
    broker.process.signal(Signal::SIGHUP)?;
    broker
        .process
        .line_with("rules read anew (SIGHUP)", PATIENCE)?;
    works(&lab)?;
    ensure!(broker.process.running()?);
    Ok(())
}

#[test]
fn nohup_keeps_it_from_ending_with_its_terminal() -> Result<()> {
    let lab = Lab::with(Routing::Wire)?;
    let before = kernel_state(&lab)?;
    let (_gateway, _capture, mut broker) = behind(&lab, &["nohup"])?;
    broker.process.signal(Signal::SIGHUP)?;
    for _ in 0..3 {
        works(&lab)?;
    }
    ensure!(broker.status(&lab)?["state"] == "capturing");
    broker.process.signal(Signal::SIGTERM)?;
    let status = broker.process.end(PATIENCE)?;
    ensure!(status.success(), "{status}: {}", broker.process.tale());
    as_before(&lab, &before)
}

#[test]
fn down_without_a_helper_says_so_and_opens_nothing() -> Result<()> {
    let lab = Lab::with(Routing::Wire)?;
    let before = kernel_state(&lab)?;
    let mut adit = RunningAdit::start(&lab)?;
    works(&lab)?;
    adit.capture.process.kill()?;
    for _ in 0..2 {
        // The first ends the broker, the second finds what it could not take back.
        let said = adit.broker.adit(&lab, &["down"])?.failed()?;
        ensure!(said.contains("sudo adit down"), "{said}");
        closed(&lab)?;
    }
    let status = adit.broker.process.end(PATIENCE)?;
    let tale = adit.broker.process.tale();
    ensure!(status.code() == Some(1), "{status}: {tale}");
    ensure!(tale.contains("did not take the goodbye"), "{tale}");
    let control = control_socket(User::Alice);
    let sudo = ["sudo", "adit", "down", "--control", &control];
    lab.client().argv(&sudo)?.ok()?;
    as_before(&lab, &before)
}

#[test]
fn refused_by_the_helper_it_leaves_anothers_claim_alone() -> Result<()> {
    let lab = Lab::with(Routing::Wire)?;
    let before = kernel_state(&lab)?;
    let mut adit = RunningAdit::start(&lab)?;
    adit.capture.process.kill()?;
    // While the first stands still, a second broker of the same user is sooner at the new helper.
    adit.broker.process.signal(Signal::SIGSTOP)?;
    adit.capture = Capture::start(&lab)?;
    let control = format!("{}/second.sock", User::Alice.home());
    let file = format!("{}/rules.yaml", User::Alice.home());
    let words = ["adit", "broker", "--rules", &file, "--control", &control];
    let mut second = lab.client().start("second", &words)?;
    second.line_with("INFO capturing", PATIENCE)?;
    adit.broker.process.signal(Signal::SIGCONT)?;
    let status = adit.broker.process.end(PATIENCE)?;
    let tale = adit.broker.process.tale();
    ensure!(status.code() == Some(1), "{status}: {tale}");
    ensure!(tale.contains("the capture helper refuses"), "{tale}");
    works(&lab)?;
    let down = ["adit", "down", "--control", &control];
    lab.client().argv(&down)?.ok()?;
    second.end(PATIENCE)?;
    as_before(&lab, &before)
}

#[test]
fn of_two_that_start_together_one_wins_and_down_ends_it() -> Result<()> {
    let lab = Lab::with(Routing::Wire)?;
    let before = kernel_state(&lab)?;
    let _gateway = Gateway::start(&lab)?;
    let _capture = Capture::start(&lab)?;
    let (file, control) = (
        format!("{}/rules.yaml", User::Alice.home()),
        control_socket(User::Alice),
    );
    lab.write(User::Alice, &file, rules())?;
    let words = ["adit", "broker", "--rules", &file, "--control", &control];
    for round in 0..5 {
        let both = [
            lab.client().start("one", &words)?,
            lab.client().start("other", &words)?,
        ];
        let mut both = both.map(|process| (process, false));
        until("one of them to give up", PATIENCE, || {
            for (process, ended) in &mut both {
                *ended = !process.running()?;
            }
            Ok(both.iter().any(|(_, ended)| *ended))
        })?;
        both.sort_by_key(|(_, ended)| *ended);
        let [(mut winner, winner_ended), (mut loser, _)] = both;
        ensure!(
            !winner_ended,
            "round {round}: both ended: {} {}",
            winner.tale(),
            loser.tale()
        );
        let status = loser.end(PATIENCE)?;
        ensure!(
            status.code() == Some(1) && loser.stderr().contains("another broker already answers"),
            "round {round}: {status}: {}",
            loser.tale()
        );
        winner.line_with("INFO capturing", PATIENCE)?;
        works(&lab)?;
        lab.client()
            .argv(&["adit", "down", "--control", &control])?
            .ok()?;
        let status = winner.end(PATIENCE)?;
        ensure!(status.success(), "round {round}: {}", winner.tale());
        as_before(&lab, &before)?;
    }
    Ok(())
}
