//! The log of decisions, and `adit replay`: exactly what changes, and nothing that stands in the way of a flow.

use std::time::Duration;

use adit_tests::{Broker, Capture, Gateway, Lab, RunningAdit, User, rules_with, service, until};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

const RULES: &str = "  - {name: shut, app: curl, to: 198.51.100.12, action: block}\n  \
    - {name: zone, app: curl, to: 198.51.100.0/24, action: tunnel, zone: lab}\n";
const ALICES_LOG: &str = "/run/lab/home/adit-alice/.local/state/adit/decisions";

/// How many decisions `adit status` says are recorded.
fn recorded(lab: &Lab, broker: &Broker) -> Result<u64> {
    let status = broker.status(lab)?;
    let recorded = status["decisions"]["recorded"].as_u64();
    recorded.with_context(|| status.to_string())
}

fn wait_recorded(lab: &Lab, broker: &Broker, count: u64) -> Result<()> {
    let what = format!("{count} decisions on disk");
    until(&what, Duration::from_secs(10), || {
        Ok(recorded(lab, broker)? >= count)
    })
}

fn curl(lab: &Lab, to: &str) -> Result<bool> {
    let line = format!("curl -sS --max-time 10 http://{to}/whoami");
    Ok(lab.client().sh(&line)?.success())
}

#[test]
fn replay_lists_exactly_what_changes() -> Result<()> {
    let lab = Lab::new()?;
    let _web = service::web(&lab)?;
    let gateway = Gateway::start(&lab)?;
    let adit = RunningAdit::with(&lab, gateway, &rules_with(User::Alice, RULES))?;
    for (to, arrives) in [
        ("198.51.100.10", true),
        ("198.51.100.10", true),
        ("198.51.100.11", true),
        ("198.51.100.10:81", false),
        ("198.51.100.12", false),
    ] {
        ensure!(curl(&lab, to)? == arrives, "{to}");
    }
    wait_recorded(&lab, &adit.broker, 5)?;
    let new = rules_with(
        User::Alice,
        "  - {name: apart, to: 198.51.100.10, ports: 80, action: pass}\n  \
           - {name: nobody, to: 198.51.100.11, action: block}\n  \
           - {name: all, to: 198.51.100.0/24, action: tunnel, zone: lab}\n",
    );
    let file = format!("{}/new.yaml", User::Alice.home());
    lab.write(User::Alice, &file, &new)?;
    let client = lab.client();
    let said = client
        .argv(&["adit", "replay", "--rules", "new.yaml"])?
        .ok()?;
    let line = |word: &str| {
        new.lines()
            .position(|line| line.contains(word))
            .map_or(0, |at| at + 1)
    };
    let expected = format!(
        "2 tunnel→pass, 1 becomes blocked, 1 block→tunnel, 1 unchanged
  2 × /usr/bin/curl to 198.51.100.10:80: tunnel lab, by \"zone\" → pass, by \"apart\" (new.yaml:{})
  1 × /usr/bin/curl to 198.51.100.11:80: tunnel lab, by \"zone\" → block, by \"nobody\" (new.yaml:{})
  1 × /usr/bin/curl to 198.51.100.12:80: block, by \"shut\" → tunnel lab, by \"all\" (new.yaml:{})
",
        line("apart"),
        line("nobody"),
        line("name: all"),
    );
    ensure!(said == expected, "{said}instead of\n{expected}");
    let json = client.argv(&[
        "adit", "replay", "--rules", "new.yaml", "--since", "1h", "--json",
    ])?;
    let json: Value = serde_json::from_str(&json.ok()?)?;
    ensure!(
        json["replay"]["judged"] == 5 && json["unreadable"] == 0,
        "{json}"
    );
    let later = client.argv(&[
        "adit",
        "replay",
        "--rules",
        "new.yaml",
        "--since",
        "2100-01-01T00:00:00Z",
    ])?;
    ensure!(later.clone().ok()? == "0 unchanged\n", "{later}");
    for words in [["--rules", "none.yaml"], ["--since", "soon"]] {
        let ended = client.argv(&[&["adit", "replay"][..], &words].concat())?;
        ensure!(ended.code == Some(2), "{ended}");
    }
    Ok(())
}

#[test]
fn what_was_not_looked_up_cannot_be_told() -> Result<()> {
    let lab = Lab::new()?;
    let _web = service::web(&lab)?;
    let gateway = Gateway::start(&lab)?;
    let adit = RunningAdit::with(&lab, gateway, &rules_with(User::Alice, RULES))?;
    ensure!(curl(&lab, "198.51.100.10")?);
    wait_recorded(&lab, &adit.broker, 1)?;
    let new = rules_with(
        User::Alice,
        "  - {name: hashed, app: {path: curl, sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855}, action: block}\n",
    );
    lab.write(
        User::Alice,
        &format!("{}/new.yaml", User::Alice.home()),
        &new,
    )?;
    let said = lab
        .client()
        .argv(&["adit", "replay", "--rules", "new.yaml"])?
        .ok()?;
    ensure!(
        said.starts_with("0 unchanged, 1 cannot be told\n"),
        "{said}"
    );
    ensure!(said.contains("its `sha256` was not recorded"), "{said}");
    Ok(())
}

#[test]
fn the_log_is_its_users_alone_and_survives_a_kill() -> Result<()> {
    let lab = Lab::new()?;
    let _web = service::web(&lab)?;
    let gateway = Gateway::start(&lab)?;
    let rules = rules_with(User::Alice, RULES);
    let mut adit = RunningAdit::with(&lab, gateway, &rules)?;
    ensure!(curl(&lab, "198.51.100.10")?);
    wait_recorded(&lab, &adit.broker, 1)?;
    let modes = lab
        .client()
        .sh(&format!("stat -c %a {ALICES_LOG} {ALICES_LOG}/*"))?
        .ok()?;
    ensure!(modes == "700\n600\n", "{modes}");
    adit.broker.process.kill()?;
    // Half a line, as a crash may leave it.
    lab.client()
        .sh(&format!(
            "printf '{{\"time\":\"20' >> {ALICES_LOG}/0000000001.jsonl"
        ))?
        .ok()?;
    let broker = Broker::start(&lab, User::Alice, &rules)?;
    ensure!(curl(&lab, "198.51.100.10")?);
    wait_recorded(&lab, &broker, 1)?;
    let json = lab
        .client()
        .argv(&["adit", "replay", "--rules", "rules.yaml", "--json"])?
        .ok()?;
    let json: Value = serde_json::from_str(&json)?;
    ensure!(
        json["replay"]["judged"] == 2 && json["unreadable"] == 1,
        "{json}"
    );
    Ok(())
}

#[test]
fn a_place_where_nothing_can_be_kept_stops_no_flow() -> Result<()> {
    let lab = Lab::new()?;
    let _web = service::web(&lab)?;
    let _gateway = Gateway::start(&lab)?;
    let _capture = Capture::start(&lab)?;
    lab.client()
        .sh("mkdir -m 777 open && ln -s /etc/passwd file")?
        .ok()?;
    let rules = rules_with(User::Alice, RULES);
    let home = User::Alice.home();
    for (place, why) in [("open", "others may write"), ("file", "Not a directory")] {
        let state = format!("{home}/{place}");
        let mut broker = Broker::start_with(&lab, User::Alice, &rules, &["--state", &state])?;
        ensure!(curl(&lab, "198.51.100.10")?, "{}", broker.process.tale());
        until("the loss to be told", Duration::from_secs(10), || {
            let decisions = broker.status(&lab)?["decisions"].clone();
            let reason = decisions["reason"].as_str().unwrap_or_default().to_owned();
            ensure!(decisions["recorded"] == 0, "{decisions}");
            Ok(decisions["dropped"] == 1 && reason.contains(why))
        })
        .with_context(|| format!("{:?}", broker.status(&lab)))?;
        broker.adit(&lab, &["down"])?.ok()?;
        broker.process.end(Duration::from_secs(10))?;
    }
    let mut broker = Broker::start_with(&lab, User::Alice, &rules, &["--no-decision-log"])?;
    ensure!(curl(&lab, "198.51.100.10")?);
    ensure!(broker.status(&lab)?["decisions"].is_null());
    ensure!(broker.process.running()?);
    let nothing = lab
        .client()
        .argv(&["adit", "replay", "--rules", "rules.yaml"])?;
    ensure!(nothing.code == Some(1), "{nothing}");
    Ok(())
}
