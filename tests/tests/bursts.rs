//! One program that opens thousands of connections at once: every one of them is decided by what it is, however
//! long the look-ups take.

use adit_tests::script::Sight;
use adit_tests::{Conversation, Gateway, Lab, Routing, RunningAdit, User, address, rules_with};
use anyhow::{Result, ensure};

const AT_ONCE: usize = 2000;
/// More than the look-ups' queue holds, also when they are done as fast as connections come.
const BLOCKED_AT_ONCE: usize = 5000;

/// A lab in which what is passed arrives, and `adit-peer` gets this; all others are passed.
fn peers(action: &str) -> Result<(Lab, RunningAdit)> {
    let lab = Lab::with(Routing::Open)?;
    let line = format!("  - {{name: the peers, app: [adit-peer], {action}}}\n");
    let gateway = Gateway::start(&lab)?;
    let adit = RunningAdit::with(&lab, gateway, &rules_with(User::Alice, &line))?;
    Ok((lab, adit))
}

fn is_turned_away(sight: &Sight) -> bool {
    let last = sight.steps.last();
    last.is_some_and(|last| last.contains("reset") || last.contains("refused"))
}

#[test]
fn none_of_a_blocked_program_gets_through() -> Result<()> {
    let (lab, adit) = peers("action: block")?;
    for address in [address::SERVER, address::SERVER6] {
        let talk = Conversation::new("send 10; expect 10", "send 10").at(address);
        // Without end: each connection that it accepts is told.
        let talk = talk.times(0);
        let (mut listener, to) = talk.listen(&lab)?;
        let talk = talk.times(BLOCKED_AT_ONCE);
        let mut dialler = talk.dial(&lab.client(), to)?;
        dialler.end(talk.within)?;
        let seen = adit_tests::sights(&dialler.stdout())?;
        let got = seen.iter().filter(|sight| !is_turned_away(sight)).count();
        ensure!(
            seen.len() == BLOCKED_AT_ONCE && got == 0,
            "{got} of {}",
            seen.len()
        );
        ensure!(listener.running()?, "{}", listener.tale());
        let told = adit_tests::sights(&listener.stdout())?;
        ensure!(told.is_empty(), "{} got through", told.len());
    }
    let flows = adit.broker.flows(&lab)?;
    let blocked =
        |flow: &adit_tests::Flow| flow.action.as_deref() == Some("block") || flow.state == "failed";
    let other = flows.iter().find(|flow| !blocked(flow));
    ensure!(!flows.is_empty() && other.is_none(), "{other:?}");
    Ok(())
}

#[test]
fn all_of_a_tunnelled_program_are_tunnelled() -> Result<()> {
    let (lab, _adit) = peers("action: tunnel, zone: lab")?;
    for (address, gateway) in [
        (address::SERVER, address::GATEWAY_INSIDE),
        (address::SERVER6, address::GATEWAY6_INSIDE),
    ] {
        let talk = Conversation::new(
            "number; send 10; expect 20; finish; end",
            "number; expect 10; send 20; end",
        );
        let had = talk.at(address).times(AT_ONCE).hold(&lab, &lab.client())?;
        let through = had.server.iter().filter(|sight| sight.peer == gateway);
        let through = through.count();
        ensure!(through == AT_ONCE, "{through} of {}", had.server.len());
        let whole = |sight: &&Sight| sight.steps.last().is_some_and(|s| s == "end");
        let whole = had.client.iter().filter(whole).count();
        ensure!(whole == AT_ONCE, "{whole} ended well");
    }
    Ok(())
}
