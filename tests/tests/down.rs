//! What a flow gets while no gateway answers: the words of `on_down`, and what no word can weaken.

use std::time::Duration;

use adit_tests::{
    Broker, Capture, Conversation, Flow, Gateway, Lab, Order, Process, Routing, RunningAdit,
};
use adit_tests::{User, Witness, address, rules_for_networks, sights, until};
use anyhow::{Context, Result, ensure};

const PATIENCE: Duration = Duration::from_secs(10);
/// What a person does not notice as a wait.
const SOON: Duration = Duration::from_secs(2);

/// Alice's rules for the whole zone, with this word in the zone.
fn rules(word: &str) -> String {
    let rules = rules_for_networks(User::Alice, &[address::ZONE, address::ZONE6]);
    rules.replacen("\nrules:", &format!("\n    on_down: {word}\nrules:"), 1)
}

/// Everything runs, but nothing listens where the gateway should.
fn without_gateway(routing: Routing, word: &str) -> Result<(Lab, RunningAdit)> {
    let lab = Lab::with(routing)?;
    let mut gateway = Gateway::start(&lab)?;
    gateway.process.kill()?;
    let adit = RunningAdit::with(&lab, gateway, &rules(word))?;
    Ok((lab, adit))
}

/// Waits until an attempt has failed.
fn zone_is_down(lab: &Lab, broker: &Broker) -> Result<String> {
    let mut reason = String::new();
    until("the zone to be down", PATIENCE, || {
        let zone = broker.status(lab)?["zones"][0].clone();
        reason = zone["reason"].as_str().unwrap_or_default().to_owned();
        Ok(zone["state"] == "down")
    })?;
    Ok(reason)
}

/// A program that connects to `to` and says nothing is turned away, soon; gives its flow.
fn turned_away_soon(lab: &Lab, broker: &Broker, to: &str) -> Result<Flow> {
    let dialled = lab.client().argv(&["adit-peer", "dial", to, "end"])?;
    ensure!(dialled.took < SOON, "{dialled}");
    turned_away(&dialled.ok()?, "connect: host unreachable")?;
    broker.flow(lab, &format!("a flow to {to}"), |flow| {
        flow.destination == to
    })
}

/// What was accepted before can only be reset, what is held is told why.
fn turned_away(told: &str, honestly: &str) -> Result<()> {
    let steps = sights(told)?.remove(0).steps;
    let expected = match Order::of_this_run() {
        Order::Honest => honestly,
        Order::Early => "End: connection reset",
    };
    ensure!(
        steps.last().is_some_and(|last| last == expected),
        "{steps:?}"
    );
    Ok(())
}

#[test]
fn pass_goes_direct_until_the_gateway_is_there() -> Result<()> {
    let (lab, mut adit) = without_gateway(Routing::Open, "pass")?;
    for (server, client) in [
        (address::SERVER, address::CLIENT),
        (address::SERVER6, address::CLIENT6),
    ] {
        let talk = Conversation::new("both 300K; finish; end", "both 300K; end").at(server);
        let talk = Conversation {
            within: PATIENCE,
            ..talk
        };
        let had = talk.hold(&lab, &lab.client());
        let had = had.with_context(|| adit.broker.process.tale())?;
        ensure!(
            had.server[0].peer == client && had.client[0].steps.last().is_some_and(|s| s == "end"),
            "{had:?}"
        );
    }
    let flows = adit.broker.flows(&lab)?;
    // The kernel's own connections are not counted by anyone.
    let end = match Order::of_this_run() {
        Order::Honest => ("direct", 0, 0),
        Order::Early => ("closed", 300 << 10, 300 << 10),
    };
    let told = |flow: &Flow| {
        flow.action.as_deref() == Some("pass")
            && flow.zone.as_deref() == Some("lab")
            && flow.rule.as_deref() == Some("the zone")
            && (flow.state.as_str(), flow.up, flow.down) == end
    };
    ensure!(flows.len() == 2 && flows.iter().all(told), "{flows:#?}");
    adit.gateway.restart(&lab)?;
    until("the zone to be up", PATIENCE, || {
        Ok(adit.broker.status(&lab)?["zones"][0]["state"] == "up")
    })?;
    let talk = Conversation::new("both 300K; finish; end", "both 300K; end");
    talk.hold(&lab, &lab.client())?
        .same_as(&talk.hold(&lab, &lab.direct())?)
}

/// Nobody listens at port 444, and port 443 shows another key than the one that is known.
fn never_around_a_changed_key(word: &str, gateways: &str) -> Result<()> {
    let lab = Lab::with(Routing::Open)?;
    let _gateway = Gateway::start(&lab)?;
    let known = format!("{}/.ssh/known_hosts", User::Alice.home());
    let other = lab.read(&format!("{}/.ssh/id_ed25519.pub", User::Alice.home()))?;
    let lines = format!("# a line of comment\n[192.0.2.1]:443,[192.0.2.1]:444 {other}");
    lab.write(User::Alice, &known, lines)?;
    let _capture = Capture::start(&lab)?;
    let usual = format!("[\"{}\"]", Gateway::for_user(User::Alice));
    let broker = Broker::start(&lab, User::Alice, &rules(word).replace(&usual, gateways))?;
    let witness = Witness::start(&lab)?;
    let shown = "ssh-keygen -lf /run/lab/gateway/host_ed25519.pub | cut -d' ' -f2";
    let shown = lab.gateway().sh(shown)?.ok()?;
    let told = [shown.trim(), &format!("{known}:2"), "HAS CHANGED"];
    let tells = |what: &str, text: &str| -> Result<()> {
        for word in told {
            ensure!(text.contains(word), "`{word}` is not in {what}: {text}");
        }
        Ok(())
    };
    tells("`adit status`", &zone_is_down(&lab, &broker)?)?;
    for _ in 0..5 {
        let to = format!("{}:80", address::SERVER);
        let flow = turned_away_soon(&lab, &broker, &to)?;
        ensure!(
            flow.state == "failed" && flow.action.as_deref() == Some("tunnel"),
            "{flow:?}"
        );
        tells("`adit flows`", &flow.reason.unwrap_or_default())?;
    }
    let log = broker.process.stderr();
    let loud = log.lines().find(|line| line.contains("ERROR"));
    tells("the log's errors", loud.context(log.clone())?)?;
    witness.finish(&lab)?.nothing()
}

#[test]
fn pass_never_goes_around_a_changed_host_key() -> Result<()> {
    never_around_a_changed_key("pass", "[\"adit-alice@192.0.2.1:443\"]")
}

/// Waiting would not make it another key.
#[test]
fn hold_does_not_wait_for_a_changed_host_key() -> Result<()> {
    never_around_a_changed_key("hold", "[\"adit-alice@192.0.2.1:443\"]")
}

#[test]
fn pass_never_goes_around_a_changed_host_key_beside_a_gateway_that_is_gone() -> Result<()> {
    never_around_a_changed_key(
        "pass",
        "[\"adit-alice@192.0.2.1:444\", \"adit-alice@192.0.2.1:443\"]",
    )?;
    never_around_a_changed_key(
        "pass",
        "[\"adit-alice@192.0.2.1:443\", \"adit-alice@192.0.2.1:444\"]",
    )
}

/// Starts a conversation and waits until its flow is held.
fn held(lab: &Lab, broker: &Broker, talk: &Conversation<'_>) -> Result<(Process, Process, Flow)> {
    let (listener, to) = talk.listen(lab)?;
    let mut dialler = talk.dial(&lab.client(), to)?;
    let to = to.to_string();
    broker.flow(lab, "the flow", |flow| flow.destination == to)?;
    zone_is_down(lab, broker)?;
    let flow = broker.flow(lab, "the held flow", |flow| flow.destination == to)?;
    ensure!(
        flow.state == "opening" && flow.action.as_deref() == Some("tunnel"),
        "{flow:?}"
    );
    ensure!(dialler.running()?, "it should wait: {}", dialler.tale());
    Ok((dialler, listener, flow))
}

#[test]
fn hold_waits_for_the_gateway_and_loses_nothing() -> Result<()> {
    let (lab, mut adit) = without_gateway(Routing::Wire, "hold")?;
    let witness = Witness::start(&lab)?;
    let talk = Conversation::new(
        "send 100K; finish; expect 200K; end",
        "expect 100K; end; send 200K",
    );
    let (mut dialler, mut listener, _) = held(&lab, &adit.broker, &talk)?;
    adit.gateway.restart(&lab)?;
    for end in [&mut dialler, &mut listener] {
        ensure!(end.end(PATIENCE)?.success(), "{}", end.tale());
    }
    let had = adit_tests::Exchange {
        client: sights(&dialler.stdout())?,
        server: sights(&listener.stdout())?,
    };
    witness.finish(&lab)?.nothing()?;
    had.same_as(&talk.hold(&lab, &lab.direct())?)
}

#[test]
fn closing_a_held_flow_ends_its_connect() -> Result<()> {
    let (lab, adit) = without_gateway(Routing::None, "hold")?;
    // What was sent and not read would make any close a reset: this program says nothing.
    let talk = Conversation::new("end", "end");
    let (mut dialler, _listener, flow) = held(&lab, &adit.broker, &talk)?;
    let id = flow.id.to_string();
    adit.broker.adit(&lab, &["close", &id])?.ok()?;
    dialler.end(SOON)?;
    turned_away(&dialler.stdout(), "connect: connection refused")?;
    let closed = adit.broker.flow(&lab, "its end", |ended| {
        ended.id == flow.id && ended.state == "closed"
    })?;
    let reason = closed.reason.unwrap_or_default();
    ensure!(reason.contains("adit close"), "{reason}");
    Ok(())
}

#[test]
fn reject_turns_away_at_once_with_its_reason() -> Result<()> {
    let (lab, adit) = without_gateway(Routing::Open, "reject")?;
    let witness = Witness::start(&lab)?;
    for to in [
        format!("{}:80", address::SERVER),
        format!("[{}]:80", address::SERVER6),
    ] {
        let flow = turned_away_soon(&lab, &adit.broker, &to)?;
        ensure!(
            flow.state == "failed" && flow.zone.as_deref() == Some("lab"),
            "{flow:?}"
        );
        let reason = flow.reason.unwrap_or_default().to_lowercase();
        for word in ["zone lab", "192.0.2.1", "refused"] {
            ensure!(reason.contains(word), "`{word}` is not in `{reason}`");
        }
    }
    witness.finish(&lab)?.nothing()
}
