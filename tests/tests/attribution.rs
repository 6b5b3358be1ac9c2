//! Which program a connection is of, where its address alone would not tell.

use std::net::SocketAddr;

use adit_tests::{
    Conversation, Gateway, Lab, Order, Routing, RunningAdit, User, address, rules_with, sights,
    without_a_queue,
};
use anyhow::{Result, ensure};

const RULES: &str = "  - {name: the peer's, app: [adit-peer], action: tunnel, zone: lab}\n";
const PORT: u16 = 40_000;

/// One byte there and one back from [`PORT`], then a reset: no socket is left, and conntrack still lists the connection.
/// Whom the server saw.
fn from_one_port(lab: &Lab, server: &str) -> Result<(SocketAddr, String)> {
    let talk = Conversation::new("", "expect 1; send 1").at(server);
    let (mut listener, to) = talk.listen(lab)?;
    let (port, to_text) = (PORT.to_string(), to.to_string());
    let words = ["adit-peer", "dial", &to_text, "send 1; expect 1; reset"];
    let dialled = lab
        .client()
        .argv(&[&words[..], &["--from", &port]].concat())?
        .ok()?;
    let sight = sights(&dialled)?.remove(0);
    let steps = ["connected", "sent", "received", "reset it"];
    ensure!(sight.steps.len() == steps.len(), "{:?}", sight.steps);
    listener.end(talk.within)?;
    Ok((to, sights(&listener.stdout())?.remove(0).peer))
}

fn check(server: &str, tunnelled: &str) -> Result<()> {
    let lab = Lab::with(Routing::Open)?;
    if Order::of_this_run() == Order::Early {
        // With a queue whose an early connection is, is asked before any redirect.
        without_a_queue(&lab)?;
    }
    let gateway = Gateway::start(&lab)?;
    let adit = RunningAdit::with(&lab, gateway, &rules_with(User::Alice, RULES))?;
    let mut changed = 0;
    for _ in 0..3 {
        let (to, seen) = from_one_port(&lab, server)?;
        ensure!(
            seen == tunnelled,
            "to {to}: the server saw {seen}, not {tunnelled}"
        );
        let to = to.to_string();
        let flow = adit
            .broker
            .flow(&lab, "it", |flow| flow.destination == to)?;
        let application = flow.application.unwrap_or_default();
        ensure!(application.ends_with("/adit-peer"), "{application}");
        changed += u32::from(flow.source.parse::<SocketAddr>()?.port() != PORT);
    }
    let expected = match Order::of_this_run() {
        // Asked before the redirect.
        Order::Honest => 0,
        // The first one comes as it is. Then the redirect has to choose other ports, or this shows nothing.
        Order::Early => 2,
    };
    ensure!(changed == expected, "{changed} source ports were changed");
    Ok(())
}

#[test]
fn a_redirect_that_changes_the_source_port_hides_nobody() -> Result<()> {
    check(address::SERVER, address::GATEWAY_INSIDE)
}

#[test]
fn a_redirect_that_changes_the_source_port_hides_nobody_over_ipv6() -> Result<()> {
    check(address::SERVER6, address::GATEWAY6_INSIDE)
}
