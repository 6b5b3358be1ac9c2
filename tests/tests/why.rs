//! `adit why` tells of the connection that failed in the shell in which it is asked, and of no other; `adit explain` says the
//! same of one that is to come.

use std::time::Duration;

use adit_tests::{
    Ended, Gateway, GatewayKind, Lab, Order, RunningAdit, User, address, connecting,
    control_socket, rules_with, until_some,
};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Named by its application, so that in the early order too it is known who opened it before the destination refuses.
const THE_ZONE: &str =
    "  - {name: the zone, app: curl, to: 198.51.100.0/24, action: tunnel, zone: lab}\n";

fn started(lab: &Lab) -> Result<RunningAdit> {
    let rules = rules_with(User::Alice, THE_ZONE);
    RunningAdit::with(lab, Gateway::start(lab)?, &rules)
}

/// What `adit why --json` says in the same shell after `line` failed.
fn why(lab: &Lab, line: &str) -> Result<Value> {
    let ended = why_after(lab, line)?;
    let text = ended.ok()?;
    serde_json::from_str(&text).context(text)
}

fn why_after(lab: &Lab, line: &str) -> Result<Ended> {
    let control = control_socket(User::Alice);
    lab.client()
        .sh(&format!("{line} >&2; adit why --json --control {control}"))
}

fn curl(to: &str) -> String {
    format!("curl -sS --max-time 10 http://{to}/")
}

#[track_caller]
fn check(why: &Value, to: &str, rule: &str, stage: &str, saw: &str) {
    let flow = &why["flow"];
    assert_eq!(flow["destination"], to, "{why}");
    assert_eq!(flow["rule"], rule, "{why}");
    assert_eq!(flow["stage"], stage, "{why}");
    assert_eq!(why["saw"], saw, "{why}");
    assert_eq!(flow["application"], "/usr/bin/curl", "{why}");
    assert!(why["shares"]["process"].is_u64(), "{why}");
    assert!(
        why["advice"].as_str().is_some_and(|it| !it.is_empty()),
        "{why}"
    );
}

/// What programs see of a refusal, in this run's order.
fn seen(honest: &str) -> String {
    match Order::of_this_run() {
        Order::Honest => honest.to_owned(),
        Order::Early => "a connection that was accepted, then reset".to_owned(),
    }
}

#[test]
fn a_refused_connection_is_told_with_destination_rule_and_stage() -> Result<()> {
    let lab = Lab::new()?;
    let adit = started(&lab)?;
    let to = format!("{}:81", address::SERVER);
    let told = why(&lab, &curl(&to))?;
    check(
        &told,
        &to,
        "the zone",
        "refused",
        &seen("connection refused"),
    );
    let explained = &told["explained"]["explanation"];
    ensure!(explained["action"] == "tunnel", "{told}");
    ensure!(explained["line"].is_u64(), "{told}");
    // By its id it is told in any shell, and for people.
    let id = told["flow"]["id"].to_string();
    let text = adit.broker.adit(&lab, &["why", &id])?.ok()?;
    for word in [
        &to,
        "the destination refuses",
        "\"the zone\"",
        "/usr/bin/curl",
    ] {
        ensure!(text.contains(word), "`{word}` is not in: {text}");
    }
    let alone = "what the kernel decides alone is not seen here";
    ensure!(!text.contains(alone), "{text}");
    // Where it is guessed which one is meant, it is said which can't be.
    let line = format!(
        "{}; adit why --control {}",
        curl(&to),
        control_socket(User::Alice)
    );
    let said = lab.client().sh(&line)?.ok()?;
    ensure!(said.contains(alone), "{said}");
    let gone = adit.broker.adit(&lab, &["why", "999999"])?;
    ensure!(gone.code == Some(1), "{gone}");
    Ok(())
}

#[test]
fn two_shells_do_not_see_each_others() -> Result<()> {
    let lab = Lab::new()?;
    let _adit = started(&lab)?;
    let (one, other) = (
        format!("{}:81", address::SERVER),
        format!("{}:82", address::SERVER),
    );
    let control = control_socket(User::Alice);
    // Each waits for the other's failure before it asks: the last one of all is the other's for one of them.
    let shell = |own: &str, to: &str, others: &str| {
        format!(
            "{} >&2; touch {own}; while [ ! -e {others} ]; do sleep 0.05; done; adit why --json --control {control}",
            curl(to)
        )
    };
    let client = lab.client();
    let in_one = ["setsid", "-w", "sh", "-c", &shell("one", &one, "other")];
    let in_other = ["setsid", "-w", "sh", "-c", &shell("other", &other, "one")];
    let mut beside = client.start("one", &in_one)?;
    let told = client.argv(&in_other)?.ok()?;
    beside.end(Duration::from_secs(20))?;
    for (told, to) in [(told, &other), (beside.stdout(), &one)] {
        let told: Value = serde_json::from_str(&told).context(told)?;
        check(
            &told,
            to,
            "the zone",
            "refused",
            &seen("connection refused"),
        );
    }
    let nothing = why_after(&lab, "true")?;
    ensure!(nothing.code == Some(1), "{nothing}");
    ensure!(nothing.stderr.contains("adit explain"), "{nothing}");
    Ok(())
}

/// The parent of what failed is gone, the session is not.
#[test]
fn what_the_shell_left_behind_is_told_by_its_session() -> Result<()> {
    let lab = Lab::new()?;
    let _adit = started(&lab)?;
    let to = format!("{}:81", address::SERVER);
    let control = control_socket(User::Alice);
    let line = format!(
        "sh -c '(sleep 0.2; {} 2>/dev/null; touch done) &'; while [ ! -e done ]; do sleep 0.05; done; \
         adit why --json --control {control}",
        curl(&to)
    );
    let told = lab
        .client()
        .argv(&["setsid", "-w", "sh", "-c", &line])?
        .ok()?;
    let told: Value = serde_json::from_str(&told).context(told)?;
    ensure!(told["flow"]["destination"] == *to, "{told}");
    ensure!(told["shares"]["session"].is_u64(), "{told}");
    Ok(())
}

#[test]
fn each_stage_has_its_own_word() -> Result<()> {
    let lab = Lab::new()?;
    let allow = ["198.51.100.10:*", "198.51.100.99:*"];
    let gateway = Gateway::allowing(&lab, GatewayKind::AditServer, &allow)?;
    let rules = rules_with(
        User::Alice,
        "  - {name: not this, app: curl, to: 198.51.100.12, action: block}\n  \
           - {name: rest, app: curl, to: 198.51.100.0/24, action: tunnel, zone: lab}\n",
    );
    let mut adit = RunningAdit::with(&lab, gateway, &rules)?;
    // A block for an application is honest in both orders.
    let to = "198.51.100.12:80";
    let told = why(&lab, &curl(to))?;
    check(&told, to, "not this", "blocked", "connection refused");
    for (to, stage, saw) in [
        ("198.51.100.13:80", "denied", "no route to host"),
        ("198.51.100.10:81", "refused", "connection refused"),
        ("198.51.100.99:80", "unreachable", "no route to host"),
    ] {
        check(&why(&lab, &curl(to))?, to, "rest", stage, &seen(saw));
    }
    adit.gateway.process.kill()?;
    let to = "198.51.100.10:83";
    let told = why(&lab, &curl(to))?;
    let stage = &told["flow"]["stage"];
    // The link's end may be seen first.
    ensure!(stage == "zone-down" || stage == "link-lost", "{told}");
    ensure!(told["flow"]["destination"] == to, "{told}");
    Ok(())
}

/// A program that stops waiting is told of as well, though it is gone.
#[test]
fn who_stopped_waiting_is_told() -> Result<()> {
    let lab = Lab::new()?;
    let gateway = Gateway::start(&lab)?;
    let rules = rules_with(User::Alice, THE_ZONE);
    let mut adit = RunningAdit::with(&lab, gateway, &connecting("honest", &rules))?;
    lab.server()
        .sh("nft 'add table ip quiet; add chain ip quiet in {type filter hook input priority 0;}; add rule ip quiet in tcp dport 84 drop'")?
        .ok()?;
    let to = format!("{}:84", address::SERVER);
    let line = format!("curl -sS --max-time 1 http://{to}/");
    // That it is gone is noticed within a second: until then it has no answer yet.
    let told = why(&lab, &line)?;
    let flow = &told["flow"];
    ensure!(flow["destination"] == *to, "{told}");
    ensure!(
        flow["state"] == "opening" || flow["stage"] == "given-up",
        "{told}"
    );
    let id = flow["id"].to_string();
    let told = until_some("the flow to be given up", Duration::from_secs(10), || {
        let told = adit.broker.adit(&lab, &["why", &id, "--json"])?.ok()?;
        let told: Value = serde_json::from_str(&told)?;
        Ok((told["flow"]["stage"] == "given-up").then_some(told))
    })?;
    ensure!(told["saw"] == "nothing, until its own time is up", "{told}");
    ensure!(adit.broker.process.running()?);
    Ok(())
}

#[test]
fn explain_asks_the_rules_in_force() -> Result<()> {
    let lab = Lab::new()?;
    let gateway = Gateway::start(&lab)?;
    let rules = rules_with(
        User::Alice,
        "  - {name: sleeper, app: sleep, to: 198.51.100.0/24, action: tunnel, zone: lab}\n  \
           - {name: for bob, user: adit-bob, action: block}\n  \
           - {name: for staff, group: staff, to: 203.0.113.0/24, ports: 80, action: block}\n",
    );
    let adit = RunningAdit::with(&lab, gateway, &rules)?;
    // Another file lies there by now: it is not asked.
    let file = format!("{}/rules.yaml", User::Alice.home());
    lab.write(User::Alice, &file, "version: 1\ndefault: block\n")?;
    let ask = |words: &[&str]| -> Result<Value> {
        let words = [&["explain", "--json"], words].concat();
        let text = adit.broker.adit(&lab, &words)?.ok()?;
        serde_json::from_str(&text).context(text)
    };
    let curl = ["--app", "/usr/bin/curl"];
    let said = ask(&[&curl[..], &["--to", "203.0.113.1:443"]].concat())?;
    ensure!(
        said["action"] == "pass" && said["rule"] == "default",
        "{said}"
    );
    let said = ask(&[
        &curl[..],
        &["--to", "203.0.113.1:443", "--user", "adit-bob"],
    ]
    .concat())?;
    ensure!(
        said["action"] == "block" && said["rule"] == "for bob",
        "{said}"
    );
    let said = ask(&[&curl[..], &["--to", "203.0.113.1:80", "--group", "staff"]].concat())?;
    ensure!(
        said["action"] == "block" && said["rule"] == "for staff",
        "{said}"
    );
    // Without a port where all get the same; else the rule is named that asks for one.
    let said = ask(&[&curl[..], &["--to", "198.51.100.7"]].concat())?;
    ensure!(said["action"] == "pass", "{said}");
    let words = [
        "explain",
        "--app",
        "unknown",
        "--to",
        "203.0.113.1",
        "--group",
        "staff",
    ];
    let ended = adit.broker.adit(&lab, &words)?;
    ensure!(
        !ended.success() && ended.stderr.contains("for staff"),
        "{ended}"
    );
    // A live process: its pid as it is inside.
    let line = format!(
        "sleep 60 & while ! readlink /proc/$!/exe | grep -q sleep; do :; done; adit explain --json --pid $! --to 198.51.100.7:22 --control {}; kill $!",
        control_socket(User::Alice)
    );
    let text = lab.client().sh(&line)?.ok()?;
    let said: Value = serde_json::from_str(&text).context(text)?;
    ensure!(
        said["action"] == "tunnel" && said["rule"] == "sleeper",
        "{said}"
    );
    let ended = adit
        .broker
        .adit(&lab, &["explain", "--pid", "1", "--to", "198.51.100.7:22"])?;
    ensure!(ended.code == Some(1), "another user's process: {ended}");
    Ok(())
}
