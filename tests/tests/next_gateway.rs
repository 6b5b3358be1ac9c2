//! A zone with two gateways: which of them is used, and when.

use std::time::Duration;

use adit_tests::{
    AsDirect, Broker, Capture, Conversation, Gateway, Host, Lab, Process, User, address,
    rules_for_networks, sights, until, way,
};
use anyhow::{Result, ensure};

const PATIENCE: Duration = Duration::from_secs(20);

struct Zone {
    lab: Lab,
    broker: Broker,
    /// At port 443, and named first.
    first: Gateway,
    /// A stock sshd at port 22 beside it.
    second: Process,
    _capture: Capture,
}

/// `change` comes before the broker starts.
fn zone(change: impl Fn(&Lab, &mut Gateway) -> Result<()>) -> Result<Zone> {
    let lab = Lab::new()?;
    let mut first = Gateway::start(&lab)?;
    let second = way::start_jump(&lab, Host::Gateway, address::GATEWAY, 22, "")?;
    change(&lab, &mut first)?;
    let capture = Capture::start(&lab)?;
    let one = Gateway::for_user(User::Alice);
    let another = one.replace(":443", ":22");
    let rules = rules_for_networks(User::Alice, &[address::ZONE])
        .replace(&format!("\"{one}\""), &format!("\"{one}\", \"{another}\""));
    let broker = Broker::start(&lab, User::Alice, &rules)?;
    Ok(Zone {
        lab,
        broker,
        first,
        second,
        _capture: capture,
    })
}

impl Zone {
    /// Waits until its flows go through the gateway at that port, and shows that they do.
    fn leads_through(&self, port: u16) -> Result<()> {
        // As ssh writes it: 22 needs no word.
        let host = format!("{}@{}", User::Alice.name(), address::GATEWAY);
        let names = [format!("{host}:{port}"), host];
        let mut seen = String::new();
        let names = match port {
            22 => &names[..],
            _ => &names[..1],
        };
        until(&format!("the gateway at {port}"), PATIENCE, || {
            let zone = self.broker.status(&self.lab)?["zones"][0].clone();
            seen = zone.to_string();
            let gateway = zone["gateway"].as_str().unwrap_or_default();
            Ok(zone["state"] == "up" && names.iter().any(|name| name == gateway))
        })
        .map_err(|error| error.context(seen.clone()))?;
        let through = AsDirect {
            lab: &self.lab,
            broker: &self.broker,
        };
        through.sees(&Conversation::new(
            "both 300K; finish; end",
            "both 300K; end",
        ))
    }
}

#[test]
fn the_next_one_takes_over_from_one_that_is_down() -> Result<()> {
    let mut zone = zone(|_, _| Ok(()))?;
    zone.leads_through(443)?;

    let cut = Conversation::new("expect 10; end", "send 10; pause 60000");
    let (_listener, to) = cut.listen(&zone.lab)?;
    let mut cut = cut.dial(&zone.lab.client(), to)?;
    let to = to.to_string();
    zone.broker.flow(&zone.lab, "an open flow", |flow| {
        flow.destination == to && flow.down == 10
    })?;
    zone.first.process.kill()?;
    cut.end(PATIENCE)?;
    let steps = sights(&cut.stdout())?.remove(0).steps;
    let last = steps.last().map(String::as_str);
    ensure!(last == Some("End: connection reset"), "{steps:?}");
    zone.leads_through(22)?;

    // The one in use is kept, though the first is back: nothing is cut off for a preference.
    zone.first.restart(&zone.lab)?;
    zone.leads_through(22)?;
    // All of its connections, as the listener has none.
    zone.second.kill()?;
    let line = format!("pkill -KILL -u {} -x sshd", User::Alice.name());
    zone.lab.gateway().sh(&line)?.ok()?;
    zone.leads_through(443)
}

#[test]
fn one_that_is_not_there_is_passed_over() -> Result<()> {
    let zone = zone(|_, first| first.process.kill())?;
    zone.leads_through(22)
}

/// Its own door is shut; that says nothing against the other, whose key is known.
#[test]
fn one_whose_host_key_changed_is_passed_over_and_told_of() -> Result<()> {
    let zone = zone(|lab, _| {
        let file = format!("{}/.ssh/known_hosts", User::Alice.home());
        let known = lab.read(&file)?;
        let own = lab.read(&format!("{}/.ssh/id_ed25519.pub", User::Alice.home()))?;
        let host = format!("[{}]:443", address::GATEWAY);
        let others = known.lines().filter(|line| !line.starts_with(&host));
        let others: Vec<&str> = others.collect();
        ensure!(others.len() < known.lines().count(), "{known}");
        lab.write(
            User::Alice,
            &file,
            format!("{host} {own}\n{}\n", others.join("\n")),
        )
    })?;
    zone.leads_through(22)?;
    let log = zone.broker.process.stderr();
    let told = log
        .lines()
        .any(|line| line.contains("ERROR") && line.contains(":443"));
    ensure!(told, "{log}");
    Ok(())
}
