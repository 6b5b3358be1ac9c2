//! Several users at once, and a gateway inside a network that is tunnelled.

use std::time::Duration;

use adit_tests::{
    Broker, Capture, Conversation, Gateway, Lab, Routing, RunningAdit, User, address,
};
use adit_tests::{control_socket, rules_for_networks, rules_with, service, until};
use anyhow::{Result, ensure};

fn who(lab: &Lab, user: User, address: &str) -> Result<Option<String>> {
    let line = format!("curl -sS --max-time 10 http://{address}/whoami");
    let ended = lab.client().user(user).sh(&line)?;
    Ok(ended.success().then(|| ended.stdout.trim().to_owned()))
}

#[test]
fn two_users_neither_sees_nor_disturbs_the_other() -> Result<()> {
    let lab = Lab::with(Routing::Open)?;
    let _web = service::web(&lab)?;
    let _gateway = Gateway::start(&lab)?;
    let _capture = Capture::start(&lab)?;
    let (one, two) = ("198.51.100.11", "198.51.100.12");
    let alice = Broker::start(&lab, User::Alice, &rules_for_networks(User::Alice, &[one]))?;
    let mut bob = Broker::start(&lab, User::Bob, &rules_for_networks(User::Bob, &[two]))?;
    let (through, direct) = (
        Some(address::GATEWAY_INSIDE.to_owned()),
        Some(address::CLIENT.to_owned()),
    );
    let everyone = [
        (User::Alice, one, &through),
        (User::Alice, two, &direct),
        (User::Bob, one, &direct),
        (User::Bob, two, &through),
    ];
    for (user, address, expected) in everyone {
        let seen = who(&lab, user, address)?;
        ensure!(
            seen == *expected,
            "{user:?} to {address}: {seen:?} instead of {expected:?}"
        );
    }
    for (broker, own) in [(&alice, "198.51.100.11:80"), (&bob, "198.51.100.12:80")] {
        let flows = broker.flows(&lab)?;
        let only_own = !flows.is_empty() && flows.iter().all(|flow| flow.destination == own);
        ensure!(only_own, "{:?} sees {flows:#?}", broker.user);
    }
    bob.process.kill()?;
    until(
        "Bob's destinations to be blocked",
        Duration::from_secs(5),
        || Ok(who(&lab, User::Bob, two)?.is_none()),
    )?;
    ensure!(
        who(&lab, User::Bob, one)? == direct,
        "what Bob never claimed is his as before"
    );
    ensure!(
        who(&lab, User::Alice, one)? == through,
        "Alice is disturbed by the end of Bob's broker"
    );
    ensure!(
        who(&lab, User::Alice, two)? == direct,
        "Alice is disturbed by the end of Bob's broker"
    );
    Broker::start(&lab, User::Bob, &rules_for_networks(User::Bob, &[two]))?;
    Ok(())
}

#[test]
fn nobody_commands_anothers_broker() -> Result<()> {
    let lab = Lab::new()?;
    let adit = RunningAdit::start(&lab)?;
    let control = control_socket(User::Alice);
    // The directory of the lab lets everyone through: the broker itself has to refuse.
    lab.client().user(User::Alice).sh("chmod 755 ~")?.ok()?;
    for words in [&["status", "--json"][..], &["flows"], &["down"]] {
        let argv = [&["adit"], words, &["--control", &control]].concat();
        let ended = lab.client().user(User::Bob).argv(&argv)?;
        ensure!(ended.code == Some(1), "{ended}");
    }
    ensure!(adit.broker.status(&lab)?["state"] == "capturing");
    Ok(())
}

#[test]
fn nobody_is_answered_by_anothers_broker() -> Result<()> {
    let lab = Lab::new()?;
    let _gateway = Gateway::start(&lab)?;
    let _capture = Capture::start(&lab)?;
    let rules = rules_for_networks(User::Bob, &[address::ZONE]);
    let bob = Broker::start(&lab, User::Bob, &rules)?;
    // Bob lets everyone through to his socket, so that only the asker can notice.
    let open = "chmod 755 ~ && chmod 777 ~/control.sock";
    lab.client().user(User::Bob).sh(open)?.ok()?;
    let control = control_socket(User::Bob);
    for words in [&["status", "--json"][..], &["flows"], &["down"]] {
        let argv = [&["adit"], words, &["--control", &control]].concat();
        let ended = lab.client().user(User::Alice).argv(&argv)?;
        ensure!(ended.code == Some(1) && ended.stdout.is_empty(), "{ended}");
        let told = format!("served by another user (uid {})", User::Bob.uid());
        ensure!(ended.stderr.contains(&told), "{ended}");
    }
    ensure!(bob.status(&lab)?["state"] == "capturing");
    Ok(())
}

#[test]
fn a_gateway_inside_a_tunnelled_network_makes_no_loop() -> Result<()> {
    let lab = Lab::new()?;
    let networks = [
        address::ZONE,
        address::ZONE6,
        address::OUTSIDE,
        "2001:db8:1::/64",
    ];
    let gateway = Gateway::start(&lab)?;
    let adit = RunningAdit::with(&lab, gateway, &rules_for_networks(User::Alice, &networks))?;
    for address in [address::SERVER, address::SERVER6] {
        let talk = Conversation::new("both 4M; finish; end", "both 4M; end").at(address);
        talk.hold(&lab, &lab.client())?
            .same_as(&talk.hold(&lab, &lab.direct())?)?;
    }
    let flows = adit.broker.flows(&lab)?;
    let loops = flows
        .iter()
        .filter(|flow| flow.destination.starts_with(address::GATEWAY))
        .count();
    ensure!(loops == 0, "the broker captured itself: {flows:#?}");
    Ok(())
}

#[test]
fn a_gateway_inside_a_network_that_needs_the_application_makes_no_loop() -> Result<()> {
    let lab = Lab::new()?;
    let rules = rules_with(
        User::Alice,
        "  - {name: all of the peer's, app: [adit-peer], action: tunnel, zone: lab}
  - {name: nothing else, action: block}\n",
    );
    let gateway = Gateway::start(&lab)?;
    let _adit = RunningAdit::with(&lab, gateway, &rules)?;
    let talk = Conversation::new("both 1M; finish; end", "both 1M; end");
    talk.hold(&lab, &lab.client())?
        .same_as(&talk.hold(&lab, &lab.direct())?)
}
