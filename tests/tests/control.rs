//! `adit status`, `flows`, `close`, `down`, `check`: what they say, and that they do it.

use std::time::Duration;

use adit_tests::{Broker, Capture, Conversation, Gateway, Lab, RunningAdit, User, address, adit};
use adit_tests::{
    as_before, control_socket, kernel_state, rules_for_networks, rules_with, service, until,
};
use anyhow::{Result, ensure};
use serde_json::Value;

fn started() -> Result<(Lab, RunningAdit)> {
    let lab = Lab::new()?;
    let adit = RunningAdit::start(&lab)?;
    Ok((lab, adit))
}

#[test]
fn status_tells_who_captures_what_through_which_gateway() -> Result<()> {
    let (lab, adit) = started()?;
    Conversation::new("finish; end", "end").hold(&lab, &lab.client())?;
    let status = adit.broker.status(&lab)?;
    ensure!(status["state"] == "capturing", "{status}");
    ensure!(
        status["uid"] == User::Alice.uid() && status["user"] == User::Alice.name(),
        "{status}"
    );
    ensure!(status["capture"]["connected"] == true, "{status}");
    let zone = &status["zones"][0];
    ensure!(zone["name"] == "lab" && zone["state"] == "up", "{status}");
    ensure!(
        zone["gateway"] == Gateway::for_user(User::Alice),
        "{status}"
    );
    ensure!(status["flows"]["total"].as_u64() >= Some(1), "{status}");
    let for_people = adit.broker.adit(&lab, &["status"])?.ok()?;
    for word in ["capturing", "lab", "192.0.2.1"] {
        ensure!(
            for_people.contains(word),
            "`{word}` is not in: {for_people}"
        );
    }
    Ok(())
}

#[test]
fn flows_tell_application_destination_rule_bytes_and_age() -> Result<()> {
    let (lab, adit) = started()?;
    let talk = Conversation::new(
        "send 1000; expect 2000; pause 60000",
        "expect 1000; send 2000; end",
    );
    let (_listener, to) = talk.listen(&lab)?;
    let _dialler = talk.dial(&lab.client(), to)?;
    let to = to.to_string();
    let flow = adit.broker.flow(&lab, "an open flow", |flow| {
        flow.destination == to
            && flow.state == "open"
            && (flow.up, flow.down) == (1000, 2000)
            && flow.application.is_some()
    })?;
    ensure!(
        flow.application.as_deref() == Some("/run/lab/bin/adit-peer"),
        "{flow:?}"
    );
    ensure!(
        flow.rule.as_deref() == Some("the zone") && flow.zone.as_deref() == Some("lab"),
        "{flow:?}"
    );
    ensure!(
        flow.action.as_deref() == Some("tunnel") && flow.reason.is_none(),
        "{flow:?}"
    );
    ensure!(flow.age_ms < 60_000, "{flow:?}");
    let for_people = adit.broker.adit(&lab, &["flows"])?.ok()?;
    for word in ["adit-peer", &to, "open", "the zone"] {
        ensure!(
            for_people.contains(word),
            "`{word}` is not in: {for_people}"
        );
    }
    Ok(())
}

#[test]
fn close_ends_that_flow_and_no_other() -> Result<()> {
    let (lab, adit) = started()?;
    let talk = Conversation::new("send 10; end", "expect 10; end");
    let (mut listener, to) = talk.listen(&lab)?;
    let mut dialler = talk.dial(&lab.client(), to)?;
    let other = Conversation::new("ping 10; pause 1500; ping 10; finish; end", "echo");
    let (_echo, other_to) = other.listen(&lab)?;
    let mut bystander = other.dial(&lab.client(), other_to)?;
    let to = to.to_string();
    let flow = adit.broker.flow(&lab, "an open flow", |flow| {
        flow.destination == to && flow.up == 10
    })?;
    adit.broker
        .adit(&lab, &["close", &flow.id.to_string()])?
        .ok()?;
    for end in [&mut dialler, &mut listener] {
        end.end(Duration::from_secs(5))?;
        let sight = adit_tests::sights(&end.stdout())?.remove(0);
        ensure!(
            sight
                .steps
                .last()
                .is_some_and(|last| last == "End: connection reset"),
            "{sight:?}"
        );
    }
    ensure!(bystander.end(Duration::from_secs(10))?.success());
    let sight = adit_tests::sights(&bystander.stdout())?.remove(0);
    ensure!(
        sight.steps.last().is_some_and(|last| last == "end"),
        "{sight:?}"
    );
    let again = adit.broker.adit(&lab, &["close", "999999"])?;
    ensure!(again.code == Some(1), "closing what is not there: {again}");
    Ok(())
}

#[test]
fn down_leaves_nothing_behind() -> Result<()> {
    let lab = Lab::new()?;
    let before = kernel_state(&lab)?;
    let mut adit = RunningAdit::start(&lab)?;
    Conversation::new("finish; end", "end").hold(&lab, &lab.client())?;
    ensure!(
        kernel_state(&lab)? != before,
        "the claim should be seen in the kernel"
    );
    adit.broker.adit(&lab, &["down"])?.ok()?;
    let status = adit.broker.process.end(Duration::from_secs(5))?;
    ensure!(
        status.success(),
        "the broker ended with {status}: {}",
        adit.broker.process.tale()
    );
    as_before(&lab, &before)?;
    let said = lab
        .client()
        .argv(&["curl", "-sS", &format!("http://{}/", address::SERVER)])?;
    ensure!(
        !said.success() && said.took < Duration::from_secs(2),
        "as without Adit: {said}"
    );
    Ok(())
}

#[test]
fn down_after_the_broker_was_killed_leaves_nothing_behind() -> Result<()> {
    let lab = Lab::new()?;
    let before = kernel_state(&lab)?;
    let mut adit = RunningAdit::start(&lab)?;
    adit.broker.process.kill()?;
    adit.broker.adit(&lab, &["down"])?.ok()?;
    as_before(&lab, &before)?;
    Ok(())
}

#[test]
fn without_a_broker_the_commands_say_so() -> Result<()> {
    let lab = Lab::new()?;
    for words in [
        &["status"][..],
        &["status", "--json"],
        &["flows"],
        &["close", "1"],
    ] {
        let ended = adit(&lab, User::Alice, words)?;
        ensure!(ended.code == Some(1) && !ended.stderr.is_empty(), "{ended}");
        ensure!(!ended.stderr.contains("panicked"), "{ended}");
    }
    Ok(())
}

#[test]
fn a_broken_rule_file_is_told_with_its_place_and_starts_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let _gateway = Gateway::start(&lab)?;
    let _capture = Capture::start(&lab)?;
    let before = kernel_state(&lab)?;
    let rules = rules_with(
        User::Alice,
        "  - {name: far, ports: [70000], action: block}\n",
    );
    lab.write(User::Alice, "/run/lab/home/adit-alice/rules.yaml", &rules)?;
    let line = rules
        .lines()
        .position(|line| line.contains("70000"))
        .map_or(0, |line| line + 1);
    let control = control_socket(User::Alice);
    for words in [
        &["adit", "check", "rules.yaml"][..],
        &[
            "adit",
            "broker",
            "--rules",
            "rules.yaml",
            "--control",
            &control,
        ],
    ] {
        let ended = lab.client().argv(words)?;
        ensure!(ended.code == Some(2), "{ended}");
        let said = format!("{}{}", ended.stdout, ended.stderr);
        ensure!(said.contains(&format!("rules.yaml:{line}:")), "{ended}");
    }
    as_before(&lab, &before)?;
    Ok(())
}

#[test]
fn no_control_socket_where_others_can_put_one() -> Result<()> {
    let lab = Lab::new()?;
    let before = kernel_state(&lab)?;
    let _gateway = Gateway::start(&lab)?;
    let _capture = Capture::start(&lab)?;
    let rules = rules_for_networks(User::Alice, &[address::ZONE]);
    lab.write(User::Alice, "/run/lab/home/adit-alice/rules.yaml", rules)?;
    let make = "mkdir -m 777 open && mkdir -m 700 open/inner";
    lab.client().sh(make)?.ok()?;
    let of_bob = "mkdir -m 1777 everyones && chmod 755 .";
    lab.client().user(User::Bob).sh(of_bob)?.ok()?;
    for (directory, blamed) in [
        ("/run/lab/home/adit-alice/open", "adit-alice/open"),
        ("/run/lab/home/adit-alice/open/inner", "adit-alice/open"),
        ("/run/lab/home/adit-bob/everyones", "adit-bob/everyones"),
    ] {
        let control = format!("{directory}/control.sock");
        let words = ["adit", "broker", "--rules", "rules.yaml"];
        let argv = [&words[..], &["--control", &control]].concat();
        let ended = lab.client().timeout(Duration::from_secs(5)).argv(&argv)?;
        ensure!(ended.code == Some(1), "{ended}");
        for word in [blamed, "others may write"] {
            ensure!(ended.stderr.contains(word), "no `{word}`: {ended}");
        }
        let left = lab.client().sh(&format!("ls {control}*"))?;
        ensure!(!left.success(), "it left something: {left}");
    }
    as_before(&lab, &before)
}

#[test]
fn a_name_that_is_not_utf_8_is_shown_all_the_same() -> Result<()> {
    let (lab, adit) = started()?;
    let talk = Conversation::new("send 10; expect 20; pause 60000", "expect 10; send 20; end");
    let (_listener, to) = talk.listen(&lab)?;
    let line = format!(
        "name=$(printf 'peer-\\377') && cp /run/lab/bin/adit-peer \"$name\" \\
         && exec ./\"$name\" dial {to} '{}'",
        talk.client
    );
    let _dialler = lab.client().start("dial", &["sh", "-c", &line])?;
    let to = to.to_string();
    let shown = "/run/lab/home/adit-alice/peer-\u{fffd}";
    // Who opened it is looked up beside the relay, so the program stays.
    adit.broker.flow(&lab, "the open flow", |flow| {
        flow.destination == to
            && flow.application.as_deref() == Some(shown)
            && (flow.state.as_str(), flow.up, flow.down) == ("open", 10, 20)
    })?;
    let for_people = adit.broker.adit(&lab, &["flows"])?.ok()?;
    ensure!(for_people.contains("peer-"), "{for_people}");
    Ok(())
}

#[test]
fn a_claim_is_released_on_request_when_the_broker_is_gone() -> Result<()> {
    let lab = Lab::with(adit_tests::Routing::Open)?;
    let gateway = Gateway::start(&lab)?;
    let _capture = Capture::start(&lab)?;
    let rules = rules_for_networks(User::Alice, &[address::ZONE]);
    let release = ["--on-broker-gone", "release"];
    let mut broker = Broker::start_with(&lab, User::Alice, &rules, &release)?;
    let _web = service::web(&lab)?;
    let seen = || -> Result<String> {
        let line = format!("curl -sS --max-time 1 http://{}/whoami", address::SERVER);
        Ok(lab.client().sh(&line)?.stdout.trim().to_owned())
    };
    ensure!(seen()? == address::GATEWAY_INSIDE, "it should be tunnelled");
    broker.process.kill()?;
    until("the client to go direct", Duration::from_secs(5), || {
        Ok(seen()? == address::CLIENT)
    })?;
    drop(gateway);
    Ok(())
}

#[test]
fn json_is_one_object() -> Result<()> {
    let (lab, adit) = started()?;
    for words in [&["status", "--json"][..], &["flows", "--json"]] {
        let text = adit.broker.adit(&lab, words)?.ok()?;
        let value: Value = serde_json::from_str(&text)?;
        ensure!(value.is_object(), "{text}");
    }
    Ok(())
}
