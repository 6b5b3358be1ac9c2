//! Many hosts, each of them its own gateway, that programs connect to at the same time.

use std::time::Duration;

use adit_tests::{
    Broker, Capture, Gateway, Lab, Process, Routing, User, address, rules_for_networks, sights,
    until, way,
};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(40);
/// 198.51.100.100 and the next ones.
const HOSTS: u8 = 40;
const LOOPBACK: &[&str] = &["127.0.0.0/8:7000"];
const HOME: &str = "/run/lab/home/adit-alice";
/// Says what ssh would, slowly, and how many of it run.
const SSH: &str = r#"#!/bin/sh
for host; do :; done
touch ~/asking/$$
ls ~/asking | wc -l >>~/asked
sleep 0.1
rm ~/asking/$$
echo "user adit-alice
hostname $host
port 443"
"#;

struct Fleet {
    lab: Lab,
    broker: Broker,
    service: Process,
    _server: Process,
    _capture: Capture,
}

/// All hosts are one, which has all their addresses; `before` runs the broker.
fn fleet(lines: &str, before: &[&str]) -> Result<Fleet> {
    let lab = Lab::with(Routing::Open)?;
    let limits = "max_connections_per_user: 100\n";
    let server = way::start_gateway_behind_allowing(&lab, LOOPBACK, limits)?;
    let line = format!(
        "for n in $(seq 100 {}); do ip addr add 198.51.100.$n/24 dev zone; done",
        100 + HOSTS - 1
    );
    lab.server().sh(&line)?.ok()?;
    let key = lab.read("/run/lab/gateway/host_ed25519.pub")?;
    way::trust(&lab, "[198.51.100.*]:443", &key)?;
    let words = ["adit-peer", "serve", "127.0.0.1", "echo", "--port", "7000"];
    let many = ["--connections", &HOSTS.to_string()];
    let mut service = lab
        .server()
        .start("service", &[&words[..], &many].concat())?;
    service.line_with("port", PATIENCE)?;
    lab.write(User::Alice, &format!("{HOME}/fake/ssh"), SSH)?;
    lab.client()
        .sh("chmod 755 ~/fake/ssh && mkdir ~/asking")?
        .ok()?;
    let capture = Capture::start(&lab)?;
    let rules = rules_for_networks(User::Alice, &[address::ZONE])
        .replace(&Gateway::for_user(User::Alice), "adit-alice@%h:443")
        .replace("\nrules:", &format!("{lines}\nrules:"));
    let broker = Broker::start_behind(&lab, User::Alice, &rules, before, &[])?;
    Ok(Fleet {
        lab,
        broker,
        service,
        _server: server,
        _capture: capture,
    })
}

impl Fleet {
    /// A program for each host, all at once.
    fn is_served(&mut self) -> Result<()> {
        let dials = (100..100 + HOSTS).map(|last| {
            let to = format!("198.51.100.{last}:7000");
            let words = ["adit-peer", "dial", &to, "ping 3; finish; end"];
            self.lab.client().start("dial", &words)
        });
        for mut dial in dials.collect::<Result<Vec<_>>>()? {
            dial.end(PATIENCE)?;
            let told = dial.stdout();
            let steps = sights(&told)?.pop().with_context(|| dial.tale())?.steps;
            ensure!(steps.last().is_some_and(|last| last == "end"), "{steps:?}");
        }
        self.service.end(PATIENCE)?;
        Ok(())
    }

    fn links(&self) -> Result<Vec<Value>> {
        let zones = self.broker.status(&self.lab)?["zones"].take();
        Ok(zones.as_array().cloned().unwrap_or_default())
    }
}

#[test]
fn all_are_logged_in_at_at_once() -> Result<()> {
    let mut fleet = fleet("", &[])?;
    fleet.is_served()?;
    let links = fleet.links()?;
    let are_up = links.iter().all(|link| link["state"] == "up");
    ensure!(links.len() == usize::from(HOSTS) && are_up, "{links:#?}");
    Ok(())
}

#[test]
fn the_configuration_of_ssh_is_not_asked_for_all_at_once() -> Result<()> {
    let path = format!("PATH={HOME}/fake:/run/lab/bin:/usr/bin:/bin:/usr/sbin:/sbin");
    let mut fleet = fleet("", &["env", &path])?;
    fleet.is_served()?;
    let asked = fleet.lab.read(&format!("{HOME}/asked"))?;
    let most = asked
        .lines()
        .filter_map(|line| line.trim().parse::<u32>().ok());
    let most = most.max().context("nobody was asked")?;
    ensure!((2..=8).contains(&most), "{most} at once");
    Ok(())
}

/// One word is enough for a key that many hosts have.
#[test]
fn a_host_key_is_trusted_wherever_it_was_shown() -> Result<()> {
    let fleet = fleet("\n    host_keys: ask", &[])?;
    let nothing_known = fleet.lab.read(&format!("{HOME}/.ssh/known_hosts"))?;
    let nothing_known = nothing_known.replace("[198.51.100.*]:443", "[192.0.2.99]:443");
    fleet.lab.write(
        User::Alice,
        &format!("{HOME}/.ssh/known_hosts"),
        nothing_known,
    )?;
    for last in 100..103 {
        let to = format!("198.51.100.{last}:7000");
        fleet
            .lab
            .client()
            .argv(&["adit-peer", "dial", &to, "end"])?
            .ok()?;
    }
    let asks = |link: &Value| link["questions"][0]["about"] == "host-key";
    let links = fleet.links()?;
    ensure!(links.len() == 3 && links.iter().all(asks), "{links:#?}");
    let fingerprint = links[0]["questions"][0]["fingerprint"].as_str();
    let words = [
        "trust",
        "lab",
        "--fingerprint",
        fingerprint.context("a fingerprint")?,
    ];
    fleet.broker.adit(&fleet.lab, &words)?.ok()?;
    until("all of them to be up", PATIENCE, || {
        Ok(fleet.links()?.iter().all(|link| link["state"] == "up"))
    })
}
