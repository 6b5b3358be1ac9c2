//! What a gateway says of its own accord, and where its user sees it.

use std::time::Duration;

use adit_tests::{Conversation, Gateway, GatewayKind, Lab, RunningAdit, User, address};
use adit_tests::{rules_for_networks, until_some};
use anyhow::{Result, ensure};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(25);
const CONTROL: &str = "/run/lab/gateway/control.sock";

fn started(lab: &Lab, lines: &'static str) -> Result<RunningAdit> {
    let gateway = Gateway::allowing(lab, GatewayKind::Configured(lines), &["198.51.100.0/24:*"])?;
    RunningAdit::with(
        lab,
        gateway,
        &rules_for_networks(User::Alice, &[address::ZONE]),
    )
}

/// What `adit status --json` has of it, once it does.
fn notice(lab: &Lab, adit: &RunningAdit, words: &str) -> Result<Value> {
    until_some(&format!("{words:?} in `adit status`"), PATIENCE, || {
        let notice = adit.broker.status(lab)?["zones"][0]["notice"].clone();
        let told = notice["words"]
            .as_str()
            .is_some_and(|told| told.contains(words));
        Ok(told.then_some(notice))
    })
}

#[test]
fn the_end_of_a_session_is_announced() -> Result<()> {
    let lab = Lab::new()?;
    let mut adit = started(&lab, "session_timeout_seconds: 10\n")?;
    ensure!(adit.broker.status(&lab)?["zones"][0]["notice"].is_null());
    let notice = notice(&lab, &adit, "this session ends in 1 s")?;
    ensure!(
        notice["gateway"] == Gateway::for_user(User::Alice),
        "{notice}"
    );
    ensure!(notice["age_ms"].as_u64() < Some(5000), "{notice}");
    let for_people = adit.broker.adit(&lab, &["status"])?.ok()?;
    ensure!(
        for_people.contains("says ") && for_people.contains("this session ends in 1 s"),
        "{for_people}"
    );
    // Then the broker logs in again, and all goes on.
    adit.gateway.process.line_with("link ended", PATIENCE)?;
    let talk = Conversation::new("ping 10; finish; end", "echo");
    talk.hold(&lab, &lab.client())?;
    Ok(())
}

#[test]
fn a_drain_is_announced_to_who_has_something_open() -> Result<()> {
    let lab = Lab::new()?;
    let adit = started(&lab, "control: /run/lab/gateway/control.sock\n")?;
    let talk = Conversation::new("ping 10; pause 60000", "echo");
    let (_listener, to) = talk.listen(&lab)?;
    let _dialler = talk.dial(&lab.client(), to)?;
    let to = to.to_string();
    adit.broker.flow(&lab, "an open flow", |flow| {
        flow.destination == to && flow.up == 10
    })?;
    let service = lab.gateway().user(User::Service);
    service
        .argv(&[
            "adit-server",
            "drain",
            "--deadline",
            "600",
            "--control",
            CONTROL,
        ])?
        .ok()?;
    let told = notice(&lab, &adit, "the gateway takes nothing new")?;
    ensure!(
        told["words"]
            .as_str()
            .is_some_and(|words| words.ends_with("for 600 s")),
        "{told}"
    );
    Ok(())
}
