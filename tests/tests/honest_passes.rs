//! What a rule with an application passes is a connection of the kernel's own: no relay, the client's own address.

use adit_tests::connect::{Family, Target, Targets, gateway, told};
use adit_tests::script::Sight;
use adit_tests::{Conversation, Gateway, Lab, Routing, RunningAdit, User, address, sights};
use adit_tests::{connecting, rules_with, without_a_queue};
use anyhow::{Result, ensure};

const RULES: &str = "  - {name: peers go their way, app: [adit-peer], action: pass}
  - {name: no shells, app: [bash, dash], action: block}
  - {name: the rest, to: [198.51.100.0/24, \"2001:db8:2::/64\"], action: tunnel, zone: lab}
";

fn started() -> Result<(Lab, RunningAdit, Targets)> {
    started_in(Lab::with(Routing::Open)?)
}

fn started_in(lab: Lab) -> Result<(Lab, RunningAdit, Targets)> {
    let targets = Targets::start(&lab)?;
    let gateway = gateway(&lab)?;
    let rules = connecting("honest", &rules_with(User::Alice, RULES));
    let adit = RunningAdit::with(&lab, gateway, &rules)?;
    Ok((lab, adit, targets))
}

/// Sockets of a process to or from a port, as `ss` lists them.
fn sockets_of(lab: &Lab, process: u32, port: u16) -> Result<Vec<String>> {
    let inside = format!("awk '/^NSpid/ {{ print $NF }}' /proc/{process}/status");
    let pid = std::process::Command::new("sh")
        .args(["-c", &inside])
        .output()?;
    let pid = String::from_utf8(pid.stdout)?;
    let line = format!("ss -Htanp '( dport = :{port} or sport = :{port} )'");
    let listed = lab.client().user(User::Root).sh(&line)?.ok()?;
    let of_it = format!("pid={},", pid.trim());
    let lines = listed.lines().filter(|line| line.contains(&of_it));
    Ok(lines.map(str::to_owned).collect())
}

#[test]
fn a_pass_by_application_is_a_connection_of_the_kernels_own() -> Result<()> {
    let (lab, adit, _targets) = started()?;
    passes(&lab, &adit, 0)
}

/// Where the kernel holds nothing, the broker is in between; the server sees the same.
#[test]
fn without_a_queue_a_pass_by_application_is_relayed() -> Result<()> {
    let lab = Lab::with(Routing::Open)?;
    without_a_queue(&lab)?;
    let (lab, adit, _targets) = started_in(lab)?;
    passes(&lab, &adit, 1)
}

/// A passed conversation, to which the broker has so many sockets of its own.
fn passes(lab: &Lab, adit: &RunningAdit, relayed: usize) -> Result<()> {
    for (server, client) in [
        (address::SERVER, address::CLIENT),
        (address::SERVER6, address::CLIENT6),
    ] {
        let talk = Conversation::new("both 300K; pause 1500; finish; end", "both 300K; end");
        let talk = talk.at(server);
        let (mut listener, to) = talk.listen(lab)?;
        let mut dialler = talk.dial(&lab.client(), to)?;
        let to = to.to_string();
        let flow = adit.broker.flow(lab, "the passed flow", |flow| {
            flow.destination == to && flow.action.as_deref() == Some("pass")
        })?;
        ensure!(
            flow.rule.as_deref() == Some("peers go their way"),
            "{flow:?}"
        );
        ensure!(
            flow.application.as_deref() == Some("/run/lab/bin/adit-peer"),
            "{flow:?}"
        );
        let port = to.rsplit(':').next().unwrap_or_default().parse()?;
        ensure!(dialler.running()?, "{}", dialler.tale());
        let of_broker = sockets_of(lab, adit.broker.process.pid(), port)?;
        ensure!(of_broker.len() == relayed, "of the broker: {of_broker:?}");
        let of_program = sockets_of(lab, dialler.pid(), port)?;
        ensure!(of_program.len() == 1, "{of_program:?}; {}", dialler.tale());
        ensure!(of_program[0].contains(client), "{of_program:?}");
        for end in [&mut dialler, &mut listener] {
            ensure!(end.end(talk.within)?.success(), "{}", end.tale());
        }
        let seen = adit_tests::sights(&listener.stdout())?.remove(0);
        ensure!(seen.peer == client, "the server saw {}", seen.peer);
    }
    Ok(())
}

#[test]
fn a_pass_to_nobody_is_what_the_network_says() -> Result<()> {
    let (lab, adit, _targets) = started()?;
    for to in ["198.51.100.10:4002", "[2001:db8:2::10]:4002"] {
        let peer = lab.client().argv(&["adit-peer", "dial", to, "end"])?.ok()?;
        let steps = adit_tests::sights(&peer)?.remove(0).steps;
        ensure!(steps == ["connect: connection refused"], "{steps:?}");
        let flow = adit
            .broker
            .flow(&lab, "its flow", |flow| flow.destination == to)?;
        ensure!(flow.action.as_deref() == Some("pass"), "{flow:?}");
    }
    Ok(())
}

#[test]
fn a_block_by_application_is_refused_and_the_rest_is_tunnelled() -> Result<()> {
    let (lab, adit, _targets) = started()?;
    for to in [address::SERVER, address::SERVER6] {
        let line = format!("exec 3<>/dev/tcp/{to}/4001");
        let said = lab.client().argv(&["bash", "-c", &line])?.failed()?;
        ensure!(said.contains("Connection refused"), "{said}");
    }
    let flow = adit.broker.flow(&lab, "the blocked flow", |flow| {
        flow.action.as_deref() == Some("block")
    })?;
    ensure!(
        flow.state == "refused" && flow.rule.as_deref() == Some("no shells"),
        "{flow:?}"
    );
    let to = Target::Open.at(Family::V4).to_string();
    let text = lab.client().argv(&["adit-connect", "to", &to, "--read"])?;
    let one = told(&text.ok()?)?.remove(0);
    ensure!(one.then.as_deref() == Some("data"), "{one:?}");
    let tunnelled = "the tunnelled flow";
    adit.broker.flow(&lab, tunnelled, |flow| {
        flow.action.as_deref() == Some("tunnel")
    })?;
    Ok(())
}

/// Nothing can be brought to the broker that insists on another device: whoever is not passed is told at once.
#[test]
fn a_socket_that_is_bound_to_a_device_is_its_programs() -> Result<()> {
    const RULES: &str =
        "  - {name: by IPv6 directly, app: [adit-peer], to: \"2001:db8::/32\", action: pass}
  - {name: the peer's, app: [adit-peer], action: tunnel, zone: lab}
  - {name: nobody else, action: block}
";
    let lab = Lab::with(Routing::Open)?;
    let gateway = Gateway::start(&lab)?;
    let rules = connecting("honest", &rules_with(User::Alice, RULES));
    let adit = RunningAdit::with(&lab, gateway, &rules)?;
    let dial = |to: &str| -> Result<Sight> {
        let bound = ["--device", "gate"];
        let words = ["adit-peer", "dial", to, "send 1; expect 1"];
        let dialled = lab.client().argv(&[&words[..], &bound].concat())?.ok()?;
        Ok(sights(&dialled)?.remove(0))
    };

    let talk = Conversation::new("", "expect 1; send 1").at(address::SERVER6);
    let (mut listener, to) = talk.listen(&lab)?;
    let passed = dial(&to.to_string())?;
    ensure!(passed.steps.len() == 3, "{passed:?}");
    listener.end(talk.within)?;
    let seen = sights(&listener.stdout())?.remove(0).peer;
    ensure!(seen == address::CLIENT6, "the server saw {seen}");

    let talk = talk.at(address::SERVER);
    let (_listener, to) = talk.listen(&lab)?;
    let tunnelled = dial(&to.to_string())?;
    let steps = ["connect: network unreachable"];
    ensure!(tunnelled.steps == steps, "{tunnelled:?}");
    let to = to.to_string();
    let flow = adit
        .broker
        .flow(&lab, "it", |flow| flow.destination == to)?;
    ensure!(flow.rule.as_deref() == Some("the peer's"), "{flow:?}");
    let reason = flow.reason.clone().unwrap_or_default();
    ensure!(reason.contains("network device"), "{flow:?}");
    Ok(())
}
