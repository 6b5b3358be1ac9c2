//! Rules for users and for all but some; blocks that say nothing, and blocks because too little is known.

use adit_tests::{
    Gateway, Lab, Process, Routing, RunningAdit, Shared, User, address, connecting, rules_with,
    service,
};
use anyhow::{Result, ensure};

const RULES: &str = r#"  - {name: silence, to: 198.51.100.11, ports: 8081, action: block, with: drop}
  - {name: refusal, to: 198.51.100.11, ports: 8082, action: block}
  - {name: of others, user: {not: adit-alice}, to: 198.51.100.11, action: block}
  - {name: of a group, group: [no-such-group, 4294967294], to: 198.51.100.11, action: block}
  - {name: which parent, app: {path: curl, not: {parent: /opt/launcher}}, to: 198.51.100.12, action: tunnel, zone: lab}
  - {name: hers, user: adit-alice, to: {not: 198.51.100.13}, ports: {not: [1-79]}, app: {not: [bash, unknown]}, action: tunnel, zone: lab}
  - {name: switched off, to: 198.51.100.13, action: block, enabled: false}
  - {name: over, to: 198.51.100.13, action: block, expires: 2020-12-31}
"#;

struct Zone {
    lab: Lab,
    adit: RunningAdit,
    _web: Process,
}

fn zone() -> Result<&'static Zone> {
    static ZONE: Shared<Zone> = Shared::new();
    ZONE.get(|| {
        let lab = Lab::with(Routing::Open)?;
        let web = service::web(&lab)?;
        let gateway = Gateway::start(&lab)?;
        let rules = connecting("honest", &rules_with(User::Alice, RULES));
        let adit = RunningAdit::with(&lab, gateway, &rules)?;
        Ok(Zone {
            lab,
            adit,
            _web: web,
        })
    })
}

/// How curl ends (curl(1), EXIT CODES), what it prints, and the rule of its flow, if the broker saw one.
fn check(to: &str, code: i32, seen: &str, rule: Option<&str>) -> Result<()> {
    let zone = zone()?;
    let line = format!("curl -sS --max-time 2 http://{to}/whoami");
    let ended = zone.lab.client().sh(&line)?;
    let tale = format!("{to}: {:?} {}{}", ended.code, ended.stdout, ended.stderr);
    ensure!(ended.code == Some(code), "{tale}");
    ensure!(ended.stdout.trim() == seen, "{tale}");
    if let Some(rule) = rule {
        let flow = zone
            .adit
            .broker
            .flow(&zone.lab, "its flow", |flow| flow.destination == to)?;
        ensure!(flow.rule.as_deref() == Some(rule), "{flow:?}");
    }
    Ok(())
}

#[test]
fn a_block_may_say_nothing() -> Result<()> {
    check("198.51.100.11:8081", 28, "", Some("silence"))?;
    check("198.51.100.11:8082", 7, "", None)
}

#[test]
fn what_cannot_be_known_under_a_not_blocks() -> Result<()> {
    // Its first parent is outside of the lab's process namespace.
    check("198.51.100.12:80", 7, "", Some("which parent"))
}

#[test]
fn rules_of_others_are_none_and_all_but_some_are_the_rest() -> Result<()> {
    check("198.51.100.11:80", 0, address::GATEWAY_INSIDE, Some("hers"))?;
    check("198.51.100.13:80", 0, address::CLIENT, None)
}
