//! A kernel that can't hold a connection: it is said, and each is accepted first, whatever the rules say.

use adit_tests::connect::{CONNECTED, Family, Target, Targets, Told, gateway, honestly, told};
use adit_tests::{Lab, Routing, RunningAdit, User, Witness, without_a_queue};
use anyhow::{Context, Result, ensure};

fn connect(lab: &Lab, target: Target, family: Family) -> Result<Told> {
    let to = target.at(family).to_string();
    let words = ["adit-connect", "to", &to, "--read"];
    let text = lab.client().argv(&words)?.ok()?;
    told(&text)?.pop().context("it told nothing")
}

#[test]
fn it_is_said_and_each_connection_is_accepted_first() -> Result<()> {
    let lab = Lab::with(Routing::Wire)?;
    without_a_queue(&lab)?;
    let _targets = Targets::start(&lab)?;
    let gateway = gateway(&lab)?;
    let adit = RunningAdit::with(&lab, gateway, &honestly(User::Alice))?;
    let connecting = adit.broker.status(&lab)?["connect"].clone();
    ensure!(
        connecting["mode"] == "early" && connecting["by"].is_null(),
        "{connecting}"
    );
    let reason = connecting["reason"].as_str().unwrap_or_default();
    for means in ["by nftables: ", "by xtables: "] {
        ensure!(reason.contains(means), "{connecting}");
    }
    let for_people = adit.broker.adit(&lab, &["status"])?.ok()?;
    let said = format!("connect  early ({reason})");
    ensure!(for_people.contains(&said), "{for_people}");

    let witness = Witness::start(&lab)?;
    for family in Family::ALL {
        for (target, then) in [(Target::Open, "data"), (Target::Closed, "ECONNRESET")] {
            let one = connect(&lab, target, family)?;
            let accepted = one.outcome == CONNECTED && one.then.as_deref() == Some(then);
            ensure!(accepted, "{one:?}");
        }
    }
    let to = Target::Closed.at(Family::V4).to_string();
    let flow = adit.broker.flow(&lab, "the refused flow", |flow| {
        flow.destination == to && flow.state == "refused"
    })?;
    ensure!(flow.rule.as_deref() == Some("the zone"), "{flow:?}");
    witness.finish(&lab)?.nothing()
}
