//! What sessions see that last: new keys again and again, ends of their time, ends for want of flows. Small limits make an hour
//! of it pass in seconds.

use std::time::Duration;

use adit_tests::{
    AN_HOURS_KEYS, AsDirect, Conversation, Gateway, GatewayKind, Lab, RunningAdit, User, address,
    rules_for_networks, sights, until,
};
use anyhow::{Result, ensure};

const PATIENCE: Duration = Duration::from_secs(30);

fn started(lab: &Lab, kind: GatewayKind) -> Result<RunningAdit> {
    let gateway = Gateway::allowing(lab, kind, &["198.51.100.0/24:*"])?;
    let rules = rules_for_networks(User::Alice, &[address::ZONE]);
    RunningAdit::with(lab, gateway, &rules)
}

fn lasts_an_hour(lab: &Lab, adit: &RunningAdit) -> Result<()> {
    let broker = &adit.broker;
    AsDirect { lab, broker }.lasts_an_hour()
}

/// One login was enough for all of it.
fn is_one_session(adit: &RunningAdit, login: &str) -> Result<()> {
    let log = adit.gateway.process.stderr();
    let logins = log.matches(login).count();
    ensure!(logins == 1, "{logins} logins:\n{log}");
    Ok(())
}

#[test]
fn an_hours_new_keys_of_a_stock_sshd_lose_nothing() -> Result<()> {
    an_hours_new_keys_lose_nothing(GatewayKind::RenewingSshd("256K"))
}

#[test]
fn an_hours_new_keys_beside_an_only_command_lose_nothing() -> Result<()> {
    an_hours_new_keys_lose_nothing(GatewayKind::ForcingSshd("256K"))
}

fn an_hours_new_keys_lose_nothing(kind: GatewayKind) -> Result<()> {
    let lab = Lab::new()?;
    let adit = started(&lab, kind)?;
    lasts_an_hour(&lab, &adit)?;
    let log = adit.gateway.process.stderr();
    let renewals = log.matches("set_newkeys: rekeying out").count();
    ensure!(renewals >= AN_HOURS_KEYS, "{renewals} renewals:\n{log}");
    is_one_session(&adit, "Accepted publickey")
}

#[test]
fn an_hours_new_keys_of_our_own_gateway_lose_nothing() -> Result<()> {
    let lab = Lab::new()?;
    // 128 times 256 KiB go either way.
    let adit = started(&lab, GatewayKind::Configured("rekey_bytes: 262144\n"))?;
    lasts_an_hour(&lab, &adit)?;
    is_one_session(&adit, "logged in")
}

/// RFC 4253, section 9, has new keys after an hour at the latest.
#[test]
fn new_keys_by_the_clock_disturb_no_quiet_flow() -> Result<()> {
    let lab = Lab::new()?;
    let adit = started(&lab, GatewayKind::RenewingSshd("default 1"))?;
    let talk = Conversation::new(
        "ping 3; pause 1200; ping 3; pause 1200; ping 3; pause 1200; ping 3; finish; end",
        "echo",
    );
    let gateway = AsDirect {
        lab: &lab,
        broker: &adit.broker,
    };
    gateway.sees(&talk)?;
    let log = adit.gateway.process.stderr();
    let renewals = log.matches("set_newkeys: rekeying out").count();
    ensure!(renewals >= 3, "{renewals} renewals:\n{log}");
    is_one_session(&adit, "Accepted publickey")
}

#[test]
fn a_session_ends_with_its_flows_and_the_next_one_carries_on() -> Result<()> {
    let lab = Lab::new()?;
    let lines = "session_timeout_seconds: 2\nwarning_seconds: 0\n";
    let adit = started(&lab, GatewayKind::Configured(lines))?;
    for _ in 0..3 {
        let stays = Conversation::new("ping 1; end", "echo");
        let (_listener, to) = stays.listen(&lab)?;
        let mut stays = stays.dial(&lab.client(), to)?;
        stays.end(PATIENCE)?;
        let steps = sights(&stays.stdout())?.remove(0).steps;
        let last = steps.last().map(String::as_str);
        ensure!(last == Some("End: connection reset"), "{steps:?}");
        // Whoever comes in between waits for the next login.
        let next = Conversation::new("ping 3; finish; end", "echo");
        let seen = next.hold(&lab, &lab.client())?.client.remove(0).steps;
        ensure!(seen.last().is_some_and(|last| last == "end"), "{seen:?}");
    }
    let log = adit.gateway.process.stderr();
    let logins = log.matches("logged in").count();
    ensure!(logins >= 4, "{logins} logins:\n{log}");
    Ok(())
}

#[test]
fn a_session_is_idle_without_a_flow_and_not_with_a_silent_one() -> Result<()> {
    let lab = Lab::new()?;
    let lines = "idle_timeout_seconds: 1\nwarning_seconds: 0\n";
    let adit = started(&lab, GatewayKind::Configured(lines))?;
    let gateway = AsDirect {
        lab: &lab,
        broker: &adit.broker,
    };
    // Three times as long as a session may be idle.
    gateway.sees(&Conversation::new(
        "ping 1; pause 3000; ping 1; finish; end",
        "echo",
    ))?;
    let ends = || adit.gateway.process.stderr().matches("link ended").count();
    let before = ends();
    until("the idle session to end", PATIENCE, || Ok(ends() > before))?;
    // Whoever comes then waits for the next login, or meets it.
    gateway.sees(&Conversation::new("ping 3; finish; end", "echo"))
}
