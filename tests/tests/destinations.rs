//! Gateways that are taken from the destination: each host that a program connects to is logged in at itself, and its service is
//! reached at its loopback. One rule serves all of them.

use std::time::Duration;

use adit_tests::{
    Broker, Capture, Flow, Gateway, GatewayKind, Host, Lab, Order, Process, Routing, User, address,
    control_socket, rules_for_networks, sights, until, way,
};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);
const LOOPBACK: &[&str] = &["127.0.0.0/8:7000-7009", "[::1]:7000-7009"];
const KNOWN: &str = "/run/lab/home/adit-alice/.ssh/known_hosts";
const RULES: &str = "/run/lab/home/adit-alice/rules.yaml";

/// Alice's rules, whose zone is entered at the destination.
fn rules(gateway: &str) -> String {
    let networks = [address::GATEWAY, address::ZONE, address::ZONE6];
    let rules = rules_for_networks(User::Alice, &networks);
    let entries = "\nentries: {socks5: 1080}\n";
    rules.replace(&Gateway::for_user(User::Alice), gateway) + entries
}

/// Two hosts with an `adit-server` on each, which allows their own loopback.
struct Hosts {
    lab: Lab,
    broker: Broker,
    first: Gateway,
    _second: Process,
    _capture: Capture,
}

/// `change` comes before the broker starts.
fn hosts(change: impl Fn(&Lab) -> Result<()>) -> Result<Hosts> {
    hosts_where(&rules("adit-alice@%h:443"), change)
}

/// The same with these rules.
fn hosts_where(rules: &str, change: impl Fn(&Lab) -> Result<()>) -> Result<Hosts> {
    let lab = Lab::with(Routing::Open)?;
    let first = Gateway::allowing(&lab, GatewayKind::AditServer, LOOPBACK)?;
    let second = way::start_gateway_behind_allowing(&lab, LOOPBACK, "")?;
    change(&lab)?;
    let capture = Capture::start(&lab)?;
    let broker = Broker::start(&lab, User::Alice, rules)?;
    Ok(Hosts {
        lab,
        broker,
        first,
        _second: second,
        _capture: capture,
    })
}

/// A service at a port of the loopback of `host`, for one connection.
fn service(lab: &Lab, host: Host, address: &str, port: u16) -> Result<Process> {
    let port = port.to_string();
    let words = ["adit-peer", "serve", address, "echo", "--port", &port];
    let mut service = lab.on(host).start("service", &words)?;
    service.line_with("port", PATIENCE)?;
    Ok(service)
}

/// What a program of Alice's sees that connects to `to`.
fn seen(lab: &Lab, to: &str) -> Result<Vec<String>> {
    let words = ["adit-peer", "dial", to, "ping 3; finish; end"];
    let told = lab.client().timeout(PATIENCE).argv(&words)?.ok()?;
    Ok(sights(&told)?.remove(0).steps)
}

/// A program reaches the service, which sees its own loopback.
fn is_served(lab: &Lab, host: Host, to: &str, at: &str) -> Result<()> {
    let port = to.rsplit_once(':').context("a port")?.1.parse()?;
    let mut service = service(lab, host, at, port)?;
    let steps = seen(lab, to)?;
    ensure!(
        steps.last().is_some_and(|last| last == "end"),
        "{to}: {steps:?}"
    );
    service.end(PATIENCE)?;
    let sight = sights(&service.stdout())?.remove(0);
    ensure!(sight.peer == at, "{sight:?}");
    Ok(())
}

/// A program is told `told`.
fn is_told(lab: &Lab, to: &str, told: &str) -> Result<()> {
    let steps = seen(lab, to)?;
    let expected = match Order::of_this_run() {
        Order::Honest => format!("connect: {told}"),
        Order::Early => "connection reset".to_owned(),
    };
    let last = steps.last().cloned().unwrap_or_default();
    ensure!(last.ends_with(&expected), "{to}: {steps:?}");
    Ok(())
}

impl Hosts {
    /// The link to each host, as `adit status` shows it.
    fn link(&self, host: &str) -> Result<Option<Value>> {
        let zones = self.broker.status(&self.lab)?["zones"].take();
        let mut links = zones.as_array().cloned().unwrap_or_default().into_iter();
        Ok(links.find(|link| link["host"] == host))
    }

    fn is(&self, host: &str, state: &str) -> Result<Value> {
        let mut last = None;
        until(
            &format!("the link to {host} to be {state}"),
            PATIENCE,
            || {
                last = self.link(host)?;
                Ok(last.as_ref().is_some_and(|link| link["state"] == state))
            },
        )?;
        last.context("a link")
    }

    fn serves_first(&self, port: u16) -> Result<()> {
        let to = format!("{}:{port}", address::GATEWAY);
        is_served(&self.lab, Host::Gateway, &to, "127.0.0.1")
    }

    fn serves_second(&self, port: u16) -> Result<()> {
        let to = format!("{}:{port}", address::SERVER);
        is_served(&self.lab, Host::Server, &to, "127.0.0.1")
    }
}

#[test]
fn one_rule_serves_every_host() -> Result<()> {
    let hosts = hosts(|lab| {
        let key = lab.read("/run/lab/gateway/host_ed25519.pub")?;
        way::trust(lab, &format!("[{}]:443", address::SERVER6), &key)?;
        way::trust(lab, "[near.test]:443", &key)
    })?;
    let before = hosts.broker.status(&hosts.lab)?["zones"].take();
    ensure!(before[0]["state"] == "idle", "{before}");
    hosts.serves_first(7000)?;
    hosts.serves_second(7000)?;
    hosts.serves_second(7001)?;
    // A service that listens at the other loopback address only.
    let six = format!("[{}]:7002", address::SERVER6);
    is_served(&hosts.lab, Host::Server, &six, "::1")?;
    for (host, gateway) in [
        (
            address::GATEWAY,
            format!("adit-alice@{}:443", address::GATEWAY),
        ),
        (
            address::SERVER,
            format!("adit-alice@{}:443", address::SERVER),
        ),
        (
            address::SERVER6,
            format!("adit-alice@[{}]:443", address::SERVER6),
        ),
    ] {
        let link = hosts.is(host, "up")?;
        ensure!(link["gateway"] == gateway.as_str(), "{link}");
        let shown = hosts.broker.adit(&hosts.lab, &["status"])?.ok()?;
        let line = format!("zone     lab ({host}): up through {gateway}");
        ensure!(shown.contains(&line), "{shown}");
    }
    let words = [
        "explain",
        "--app",
        "/usr/bin/psql",
        "--to",
        "198.51.100.77:5432",
    ];
    let explained = hosts.broker.adit(&hosts.lab, &words)?.ok()?;
    let login = "by a login at adit-alice@198.51.100.77:443, and from there to its loopback";
    ensure!(explained.contains(login), "{explained}");
    Ok(())
}

#[test]
fn a_name_is_logged_in_at_by_its_name() -> Result<()> {
    let hosts = hosts(|lab| {
        let key = lab.read("/run/lab/gateway/host_ed25519.pub")?;
        way::trust(lab, "[near.test]:443", &key)
    })?;
    let rules = rules("adit-alice@%h:443").replace("to: [", "to: [near.test, ");
    hosts.lab.write(User::Alice, RULES, rules)?;
    hosts.broker.adit(&hosts.lab, &["reload"])?.ok()?;
    let line = "mkdir -p /run/lab/www && echo hello >/run/lab/www/hello";
    hosts.lab.server().sh(line)?.ok()?;
    let words = [
        "python3",
        "-m",
        "http.server",
        "--bind",
        "127.0.0.1",
        "--directory",
        "/run/lab/www",
        "7003",
    ];
    let _web = hosts.lab.server().start("web", &words)?;
    hosts.lab.wait_listening(Host::Server, 7003)?;
    let line = "curl -sS --max-time 20 -x socks5h://127.0.0.1:1080 http://near.test:7003/hello";
    let said = hosts.lab.client().sh(line)?.ok()?;
    ensure!(said == "hello\n", "{said}");
    let link = hosts.is("near.test", "up")?;
    ensure!(link["gateway"] == "adit-alice@near.test:443", "{link}");
    Ok(())
}

#[test]
fn what_a_host_refuses_is_told() -> Result<()> {
    let hosts = hosts(|_| Ok(()))?;
    let at = |port: u16| format!("{}:{port}", address::SERVER);
    is_told(&hosts.lab, &at(7000), "connection refused")?;
    // Beyond what its policy allows of its loopback.
    is_told(&hosts.lab, &at(7100), "host unreachable")?;
    let flow = hosts.broker.flow(&hosts.lab, "the denied flow", |flow| {
        flow.destination == at(7100)
    })?;
    ensure!(
        flow.to.as_deref() == Some("localhost:7100 at 198.51.100.10"),
        "{flow:?}"
    );
    let reason = flow.reason.unwrap_or_default();
    ensure!(
        reason.contains("denied by policy of the gateway"),
        "{reason}"
    );
    hosts.serves_second(7001)
}

#[test]
fn a_host_that_is_down_stops_no_other() -> Result<()> {
    let mut hosts = hosts(|_| Ok(()))?;
    hosts.serves_first(7000)?;
    hosts.first.process.kill()?;
    hosts.is(address::GATEWAY, "down")?;
    let to = format!("{}:7000", address::GATEWAY);
    is_told(&hosts.lab, &to, "host unreachable")?;
    hosts.serves_second(7000)?;
    hosts.first.restart(&hosts.lab)?;
    hosts.is(address::GATEWAY, "up")?;
    hosts.serves_first(7001)
}

#[test]
fn a_program_waits_for_its_own_host() -> Result<()> {
    let mut hosts = hosts(|_| Ok(()))?;
    let rules = rules("adit-alice@%h:443").replace("\nrules:", "\n    on_down: hold\nrules:");
    hosts.lab.write(User::Alice, RULES, rules)?;
    hosts.broker.adit(&hosts.lab, &["reload"])?.ok()?;
    hosts.serves_first(7000)?;
    hosts.first.process.kill()?;
    hosts.is(address::GATEWAY, "down")?;
    let mut service = service(&hosts.lab, Host::Gateway, "127.0.0.1", 7001)?;
    let to = format!("{}:7001", address::GATEWAY);
    let dial = ["adit-peer", "dial", &to, "ping 3; finish; end"];
    let mut waits = hosts.lab.client().start("waits", &dial)?;
    hosts.broker.flow(&hosts.lab, "a flow that waits", |flow| {
        flow.destination == to && flow.state == "opening"
    })?;
    hosts.serves_second(7001)?;
    hosts.first.restart(&hosts.lab)?;
    waits.end(PATIENCE)?;
    service.end(PATIENCE)?;
    let steps = sights(&waits.stdout())?.remove(0).steps;
    ensure!(steps.last().is_some_and(|last| last == "end"), "{steps:?}");
    Ok(())
}

/// Nothing goes there in clear either, though it could.
#[test]
fn a_host_key_that_changed_stops_that_host_alone() -> Result<()> {
    let rules = rules("adit-alice@%h:443").replace("\nrules:", "\n    on_down: pass\nrules:");
    let hosts = hosts_where(&rules, |lab| {
        let line = "ssh-keygen -q -t ed25519 -N '' -f /run/lab/home/another";
        lab.gateway().sh(line)?.ok()?;
        let other = lab.read("/run/lab/home/another.pub")?;
        let known = lab.read(KNOWN)?;
        let second = format!("[{}]:443 ", address::SERVER);
        let lines = known.lines().map(|line| match line.starts_with(&second) {
            true => format!("{second}{}", other.trim_end()),
            false => line.to_owned(),
        });
        let lines: Vec<String> = lines.collect();
        lab.write(User::Alice, KNOWN, lines.join("\n") + "\n")
    })?;
    let to = format!("{}:7000", address::SERVER);
    let _in_clear = service(&hosts.lab, Host::Server, address::SERVER, 7000)?;
    is_told(&hosts.lab, &to, "host unreachable")?;
    let link = hosts.is(address::SERVER, "down")?;
    let reason = link["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("HAS CHANGED"), "{link}");
    hosts.serves_first(7000)
}

#[test]
fn a_passphrase_that_was_given_for_one_host_is_good_for_all() -> Result<()> {
    let mut hosts = hosts(|lab| {
        let line = "ssh-keygen -q -p -f ~/.ssh/id_ed25519 -P '' -N sesame";
        lab.client().sh(line)?.ok()?;
        Ok(())
    })?;
    let at = [address::GATEWAY, address::SERVER];
    for host in at {
        is_told(&hosts.lab, &format!("{host}:7000"), "host unreachable")?;
        hosts.is(host, "down")?;
    }
    let control = control_socket(User::Alice);
    let line = format!("echo sesame | adit unlock lab --stdin --control {control}");
    hosts.lab.client().sh(&line)?.ok()?;
    for host in at {
        hosts.is(host, "up")?;
    }
    // A host that is down has nothing to unlock, and is not waited for.
    hosts.first.process.kill()?;
    hosts.is(address::GATEWAY, "down")?;
    hosts.lab.client().sh(&line)?.ok()?;
    Ok(())
}

#[test]
fn other_gateways_close_what_goes_through_these() -> Result<()> {
    let hosts = hosts(|_| Ok(()))?;
    let reload = |rules: &str| -> Result<()> {
        hosts.lab.write(User::Alice, RULES, rules)?;
        hosts.broker.adit(&hosts.lab, &["reload"])?.ok()?;
        Ok(())
    };
    let service = service(&hosts.lab, Host::Server, "127.0.0.1", 7000)?;
    let to = format!("{}:7000", address::SERVER);
    let words = ["adit-peer", "dial", &to, "ping 1; end"];
    let mut talk = hosts.lab.client().start("talk", &words)?;
    let is_open = |flow: &Flow| flow.destination == to && flow.down == 1 && flow.state == "open";
    let flow = hosts.broker.flow(&hosts.lab, "an open flow", is_open)?;
    let usual = rules("adit-alice@%h:443");
    reload(&usual.replace("name: the zone", "name: all hosts"))?;
    let still = hosts.broker.flow(&hosts.lab, "that flow", is_open)?;
    ensure!(still.id == flow.id, "{still:?}");
    // The same gateway, and from there the destination itself instead of its loopback.
    let fixed = format!("adit-alice@{}:443", address::SERVER);
    reload(&usual.replace("adit-alice@%h:443", &fixed))?;
    talk.end(PATIENCE)?;
    let ended = hosts
        .broker
        .flow(&hosts.lab, "its end", |it| it.id == flow.id)?;
    let reason = ended.reason.unwrap_or_default();
    ensure!(reason.starts_with("closed by a reload"), "{reason}");
    drop(service);
    until("the zone's one link", PATIENCE, || {
        let zones = hosts.broker.status(&hosts.lab)?["zones"].take();
        Ok(zones.as_array().is_some_and(|zones| {
            zones.len() == 1 && zones[0]["host"].is_null() && zones[0]["state"] == "up"
        }))
    })?;
    // Its policy allows the loopback only.
    is_told(&hosts.lab, &to, "host unreachable")?;
    reload(&usual)?;
    hosts.serves_second(7000)
}

#[test]
fn the_systems_ssh_logs_in_at_each_host() -> Result<()> {
    let hosts = hosts(|_| Ok(()))?;
    let rules = rules("adit-alice@%h:443").replace("\nrules:", "\n    engine: openssh\nrules:");
    hosts.lab.write(User::Alice, RULES, rules)?;
    hosts.broker.adit(&hosts.lab, &["reload"])?.ok()?;
    hosts.serves_first(7000)?;
    hosts.serves_second(7000)?;
    let link = hosts.is(address::SERVER, "up")?;
    ensure!(link["engine"] == "openssh", "{link}");
    Ok(())
}

#[test]
fn a_host_behind_a_jump_host_is_logged_in_at() -> Result<()> {
    let lab = Lab::new()?;
    let _jump = way::start_jump(&lab, Host::Gateway, address::GATEWAY, 22, "")?;
    let _host = way::start_gateway_behind_allowing(&lab, LOOPBACK, "")?;
    let _capture = Capture::start(&lab)?;
    let via = format!("\n    via: adit-alice@{}\nrules:", address::GATEWAY);
    let rules = rules("adit-alice@%h:443").replace("\nrules:", &via);
    let _broker = Broker::start(&lab, User::Alice, &rules)?;
    let to = format!("{}:7000", address::SERVER);
    is_served(&lab, Host::Server, &to, "127.0.0.1")
}

#[test]
fn a_stock_sshd_on_each_host_is_enough() -> Result<()> {
    let lab = Lab::with(Routing::Open)?;
    let permit = "PermitOpen localhost:7000 localhost:7001";
    let (first, second) = (address::GATEWAY, address::SERVER);
    let _first = way::start_jump(&lab, Host::Gateway, first, 22, permit)?;
    let _second = way::start_jump(&lab, Host::Server, second, 22, permit)?;
    let _capture = Capture::start(&lab)?;
    let _broker = Broker::start(&lab, User::Alice, &rules("adit-alice@%h"))?;
    is_served(&lab, Host::Gateway, &format!("{first}:7000"), "127.0.0.1")?;
    is_served(&lab, Host::Server, &format!("{second}:7000"), "127.0.0.1")?;
    is_told(&lab, &format!("{second}:7001"), "connection refused")?;
    is_told(&lab, &format!("{second}:7002"), "host unreachable")
}
