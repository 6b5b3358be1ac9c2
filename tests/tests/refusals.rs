//! What can't be had is refused with its reason, and nothing else is disturbed.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use adit_tests::rules_for_networks;
use adit_tests::{
    Conversation, Flow, Gateway, GatewayKind, Lab, Order, Process, RunningAdit, User,
};
use adit_tests::{address, until};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

/// The gateway allows only the ports 1 to 9000.
fn started() -> Result<(Lab, RunningAdit)> {
    let lab = Lab::new()?;
    let allow = ["198.51.100.0/24:1-9000", "[2001:db8:2::/64]:1-9000"];
    let gateway = Gateway::allowing(&lab, GatewayKind::AditServer, &allow)?;
    let rules = rules_for_networks(User::Alice, &[address::ZONE, address::ZONE6]);
    let adit = RunningAdit::with(&lab, gateway, &rules)?;
    Ok((lab, adit))
}

/// Connects to `to`; the program is turned away, and `adit flows` says `reason`.
fn turned_away(lab: &Lab, adit: &RunningAdit, to: &str, state: &str, reason: &str) -> Result<Flow> {
    let dialled = lab.client().argv(&["adit-peer", "dial", to, "end"])?.ok()?;
    let sight = adit_tests::sights(&dialled)?.remove(0);
    let steps: Vec<&str> = sight.steps.iter().map(String::as_str).collect();
    // Accepted before the truth is known, a flow can only be reset; held until then, it is refused.
    let expected = match Order::of_this_run() {
        Order::Honest => {
            matches!(
                steps[..],
                ["connect: connection refused" | "connect: host unreachable"]
            )
        }
        Order::Early => matches!(steps[..], ["connected", "End: connection reset"]),
    };
    ensure!(expected, "{to} should be turned away, but: {steps:?}");
    let flow = adit.broker.flow(lab, &format!("a flow to {to}"), |flow| {
        flow.destination == to
    })?;
    ensure!(flow.state == state, "{flow:?}");
    let said = flow.reason.clone().unwrap_or_default();
    ensure!(
        said.to_lowercase().contains(reason),
        "`{reason}` is not in `{said}`"
    );
    let log = adit.broker.process.stderr();
    let told = log
        .lines()
        .any(|line| line.contains(to) && line.to_lowercase().contains(reason));
    ensure!(told, "the log does not tell of {to} with `{reason}`: {log}");
    Ok(flow)
}

#[test]
fn refused_unreachable_and_denied_are_told_and_disturb_nothing() -> Result<()> {
    let (lab, adit) = started()?;
    let ping = Conversation::new("ping 200; pause 4000; ping 200; finish; end", "echo");
    let (mut listener, _) = ping.listen(&lab)?;
    // The bystander listens where the gateway lets it.
    drop(listener.kill());
    let mut listener = lab.server().start(
        "bystander",
        &[
            "adit-peer",
            "serve",
            address::SERVER,
            "echo",
            "--port",
            "7777",
        ],
    )?;
    listener.line_with("port", Duration::from_secs(5))?;
    let to: SocketAddr = SocketAddr::new(address::SERVER.parse()?, 7777);
    let mut bystander = ping.dial(&lab.client(), to)?;
    let (v4, v6) = (address::SERVER, address::SERVER6);
    for (to, reason) in [
        (format!("{v4}:81"), "refused"),
        (format!("[{v6}]:81"), "refused"),
        (format!("{v4}:9999"), "denied"),
        (format!("[{v6}]:9999"), "denied"),
        (format!("{}:80", address::NOBODY), "unreachable"),
    ] {
        let flow = turned_away(&lab, &adit, &to, "refused", reason)?;
        ensure!(flow.zone.as_deref() == Some("lab"), "{flow:?}");
    }
    ensure!(
        bystander.end(Duration::from_secs(20))?.success(),
        "{}",
        bystander.tale()
    );
    let sight = adit_tests::sights(&bystander.stdout())?.remove(0);
    ensure!(
        sight.steps.last().is_some_and(|last| last == "end"),
        "{sight:?}"
    );
    Ok(())
}

#[test]
fn a_silent_destination_holds_nobody_else_up() -> Result<()> {
    let (lab, adit) = started()?;
    let silence =
        "nft add table inet lab; nft 'add chain inet lab in { type filter hook input priority 0; }'
nft add rule inet lab in tcp dport 7 drop";
    lab.server().sh(silence)?.ok()?;
    let to = format!("{}:7", address::SERVER);
    let mut waiting = lab
        .client()
        .start("waiting", &["adit-peer", "dial", &to, "end"])?;
    adit.broker
        .flow(&lab, "the silent flow", |flow| flow.destination == to)?;
    for _ in 0..20 {
        turned_away(
            &lab,
            &adit,
            &format!("{}:81", address::SERVER),
            "refused",
            "refused",
        )?;
    }
    ensure!(
        waiting.running()?,
        "it should still wait for its answer: {}",
        waiting.tale()
    );
    let flow = adit
        .broker
        .flow(&lab, "the silent flow", |flow| flow.destination == to)?;
    ensure!(flow.state == "opening", "{flow:?}");
    Ok(())
}

#[test]
fn gateway_down_is_told_and_gateway_up_is_used_again() -> Result<()> {
    let (lab, mut adit) = started()?;
    let to = format!("{}:80", address::SERVER);
    turned_away(
        &lab,
        &adit,
        &format!("{}:81", address::SERVER),
        "refused",
        "refused",
    )?;
    adit.gateway.process.kill()?;
    turned_away(&lab, &adit, &to, "failed", "")?;
    until(
        "`adit status` to say that the zone is down",
        Duration::from_secs(10),
        || {
            let zone = adit.broker.status(&lab)?["zones"][0].clone();
            let told = zone["reason"]
                .as_str()
                .is_some_and(|reason| !reason.is_empty());
            Ok(told && zone["state"] != "up")
        },
    )?;
    adit.gateway.restart(&lab)?;
    until(
        "the zone to be reached again",
        Duration::from_secs(20),
        || {
            let dialled = lab
                .client()
                .argv(&["adit-peer", "dial", &to, "end"])?
                .ok()?;
            let before = adit_tests::sights(&dialled)?;
            let flows = adit.broker.flows(&lab)?;
            let last = flows.last().context("no flow")?;
            Ok(!before.is_empty() && last.state == "refused")
        },
    )?;
    Ok(())
}

/// Waits until the server has what the client sent: the flow is open at both ends.
fn open_flow(lab: &Lab, adit: &RunningAdit) -> Result<[Process; 2]> {
    let talk = Conversation::new("send 10; end", "expect 10; pause 60000");
    let (listener, to) = talk.listen(lab)?;
    let dialler = talk.dial(&lab.client(), to)?;
    let to = to.to_string();
    adit.broker.flow(lab, "an open flow", |flow| {
        flow.destination == to && flow.state == "open" && flow.up == 10
    })?;
    Ok([dialler, listener])
}

fn is_reset([dialler, _listener]: &mut [Process; 2]) -> Result<()> {
    dialler.end(Duration::from_secs(5))?;
    let steps = adit_tests::sights(&dialler.stdout())?.remove(0).steps;
    let reset = steps
        .last()
        .is_some_and(|last| last == "End: connection reset");
    ensure!(reset, "{steps:?}");
    Ok(())
}

/// The flow that comes next waits a moment for the gateway, and sees nothing of its absence.
fn next_flow_works(lab: &Lab) -> Result<()> {
    let talk = Conversation::new("send 10; expect 20; finish; end", "expect 10; send 20; end");
    let (mut listener, to) = talk.listen(lab)?;
    let started = Instant::now();
    let mut dialler = talk.dial(&lab.client(), to)?;
    dialler.end(Duration::from_secs(10))?;
    let took = started.elapsed();
    let steps = adit_tests::sights(&dialler.stdout())?.remove(0).steps;
    ensure!(steps.last().is_some_and(|last| last == "end"), "{steps:?}");
    ensure!(took < Duration::from_secs(2), "it took {took:?}");
    listener.end(Duration::from_secs(5))?;
    Ok(())
}

/// The gateway's port answers all the time, what serves this user's link ends by `signal`.
fn link_ends_by(signal: &str) -> Result<()> {
    let lab = Lab::new()?;
    let kind = GatewayKind::Sshd { rekey_mib: 100 };
    let gateway = Gateway::allowing(&lab, kind, &["198.51.100.0/24:*"])?;
    let rules = rules_for_networks(User::Alice, &[address::ZONE]);
    let adit = RunningAdit::with(&lab, gateway, &rules)?;
    for _ in 0..3 {
        let open = open_flow(&lab, &adit);
        let mut open = open.with_context(|| adit.gateway.process.tale())?;
        let end = ["pkill", signal, "-x", "adit-server"];
        lab.gateway().argv(&end)?.ok()?;
        is_reset(&mut open)?;
        next_flow_works(&lab)?;
    }
    Ok(())
}

#[test]
fn after_a_link_that_was_killed_the_next_flow_waits_for_the_next_link() -> Result<()> {
    link_ends_by("-KILL")
}

#[test]
fn after_a_link_that_the_gateway_ended_the_next_flow_waits_for_the_next_link() -> Result<()> {
    link_ends_by("-TERM")
}

#[test]
fn a_gateway_that_is_restarted_resets_what_is_open_and_takes_what_comes() -> Result<()> {
    let lab = Lab::new()?;
    let gateway = Gateway::start(&lab)?;
    let rules = rules_for_networks(User::Alice, &[address::ZONE, address::ZONE6]);
    // While it is down the usual word refuses at once; this one waits.
    let rules = rules.replacen("\nrules:", "\n    on_down: hold\nrules:", 1);
    let mut adit = RunningAdit::with(&lab, gateway, &rules)?;
    let mut open = open_flow(&lab, &adit)?;
    adit.gateway.process.signal(Signal::SIGTERM)?;
    let ended = adit.gateway.process.end(Duration::from_secs(10))?;
    ensure!(ended.success(), "{}", adit.gateway.process.tale());
    is_reset(&mut open)?;
    adit.gateway.restart(&lab)?;
    next_flow_works(&lab)
}

#[test]
fn an_unknown_host_key_is_never_trusted() -> Result<()> {
    let lab = Lab::new()?;
    let gateway = Gateway::start(&lab)?;
    let home = User::Alice.home();
    let wrong = lab.read("/run/lab/home/adit-alice/.ssh/id_ed25519.pub")?;
    lab.write(
        User::Alice,
        &format!("{home}/.ssh/known_hosts"),
        format!("[192.0.2.1]:443 {wrong}"),
    )?;
    let rules = rules_for_networks(User::Alice, &[address::ZONE]);
    let adit = RunningAdit::with(&lab, gateway, &rules)?;
    turned_away(
        &lab,
        &adit,
        &format!("{}:80", address::SERVER),
        "failed",
        "key",
    )?;
    Ok(())
}
