//! One flow never stands in another's way, and load never brings anything to a standstill.

use std::time::Duration;

use adit_tests::{
    Conversation, Gateway, GatewayKind, Lab, Process, RunningAdit, Shared, sights, until,
};
use adit_tests::{User, address, rules_for_networks};
use anyhow::{Context, Result, ensure};

const ZONE: [&str; 2] = ["198.51.100.0/24:*", "[2001:db8:2::/64]:*"];
/// A round trip is measured on a machine that does other things too; below this nobody notices.
const UNNOTICED_US: u64 = 1_000;
/// No flow of sixteen that share two cores may wait longer for its next bytes.
const STANDSTILL_MS: u64 = 2_000;

fn lab() -> Result<&'static (Lab, RunningAdit)> {
    static LAB: Shared<(Lab, RunningAdit)> = Shared::new();
    LAB.get(|| {
        let lab = Lab::new()?;
        let adit = RunningAdit::start(&lab)?;
        Ok((lab, adit))
    })
}

/// Starts a flow that one end floods and the other never reads; returns when nothing moves any more.
fn stuck(
    client: &str,
    server: &str,
    moved: impl Fn(&adit_tests::Flow) -> u64,
) -> Result<[Process; 2]> {
    let (lab, adit) = lab()?;
    let conversation = Conversation::new(client, server);
    let (listener, to) = conversation.listen(lab)?;
    let dialler = conversation.dial(&lab.client(), to)?;
    let mut before = 0;
    until("the flow to be stuck", Duration::from_secs(20), || {
        let flows = adit.broker.flows(lab)?;
        let flow = flows.iter().find(|flow| flow.destination == to.to_string());
        let now = flow.map(&moved).unwrap_or_default();
        let stands = now > 100_000 && now == before;
        before = now;
        Ok(stands)
    })?;
    Ok([listener, dialler])
}

/// Everything else goes on as it did before `client` and `server` were started and got stuck.
fn check(client: &str, server: &str, moved: impl Fn(&adit_tests::Flow) -> u64) -> Result<()> {
    let (lab, _) = lab()?;
    let ping = Conversation::new("ping 400; finish; end", "echo");
    let idle = ping.hold(lab, &lab.client())?.client[0]
        .timing
        .round_trip(50);
    let stuck = stuck(client, server, moved)?;
    let beside = ping.hold(lab, &lab.client())?.client[0]
        .timing
        .round_trip(50);
    ensure!(
        beside <= idle * 2 + UNNOTICED_US,
        "a round trip takes {beside} µs, idle {idle} µs"
    );
    for bulk in [
        Conversation::new("send 16M; finish; end", "expect 16M; end"),
        Conversation::new("expect 16M; end", "send 16M; finish; end"),
        Conversation::new("ping 1; finish; end", "echo").times(20),
    ] {
        let through = bulk
            .hold(lab, &lab.client())
            .context("beside a stuck flow")?;
        through.same_as(&bulk.hold(lab, &lab.direct())?)?;
    }
    drop(stuck);
    Ok(())
}

#[test]
fn a_client_that_stops_reading_stalls_nobody() -> Result<()> {
    check("expect 1000; pause 60000", "flood", |flow| flow.down)
}

#[test]
fn a_server_that_stops_reading_stalls_nobody() -> Result<()> {
    check("flood", "expect 1000; pause 60000", |flow| flow.up)
}

/// Sixteen flows send as fast as they can both ways for so long; each byte is checked.
fn saturate(lab: &Lab, lasting_ms: u64) -> Result<u64> {
    let steps = format!("number; saturate {lasting_ms}");
    let mut conversation = Conversation::new(&steps, &steps).times(16);
    conversation.within = Duration::from_millis(lasting_ms) + Duration::from_secs(30);
    let (mut listener, to) = conversation.listen(lab)?;
    let mut dialler = conversation.dial(&lab.client(), to)?;
    ensure!(
        dialler.end(conversation.within)?.success(),
        "{}",
        dialler.tale()
    );
    ensure!(
        listener.end(conversation.within)?.success(),
        "{}",
        listener.tale()
    );
    let mut received = 0;
    for sight in [sights(&dialler.stdout())?, sights(&listener.stdout())?].concat() {
        let last = sight.steps.last().map(String::as_str);
        ensure!(last == Some("saturated, intact to the end"), "{sight:?}");
        let standstill = sight.timing.longest_standstill_ms;
        ensure!(
            standstill < STANDSTILL_MS,
            "a flow stood still for {standstill} ms"
        );
        received += sight.timing.received;
    }
    Ok(received)
}

#[test]
fn saturated_both_ways_for_twenty_seconds_never_stands_still() -> Result<()> {
    let (lab, _) = lab()?;
    let received = saturate(lab, 20_000)?;
    ensure!(received > 1 << 30, "only {received} bytes in 20 s");
    Ok(())
}

fn started(kind: GatewayKind) -> Result<(Lab, RunningAdit)> {
    let lab = Lab::new()?;
    let gateway = Gateway::allowing(&lab, kind, &ZONE)?;
    let rules = rules_for_networks(User::Alice, &[address::ZONE, address::ZONE6]);
    let adit = RunningAdit::with(&lab, gateway, &rules)?;
    Ok((lab, adit))
}

#[test]
fn rekeying_every_8_mebibytes_under_load_loses_nothing() -> Result<()> {
    let (lab, _adit) = started(GatewayKind::Rekeying { mib: 8 })?;
    let received = saturate(&lab, 8_000)?;
    ensure!(
        received > 256 << 20,
        "{received} bytes are too few to have renewed keys often"
    );
    Ok(())
}

#[test]
fn rekeying_under_load_with_a_stock_sshd_loses_nothing() -> Result<()> {
    let (lab, adit) = started(GatewayKind::Sshd { rekey_mib: 8 })?;
    let received = saturate(&lab, 8_000)?;
    let renewals = adit.gateway.process.stderr().matches("rekey").count() as u64;
    ensure!(
        renewals >= received / (64 << 20),
        "{renewals} renewals for {received} bytes"
    );
    Ok(())
}
