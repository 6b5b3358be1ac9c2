//! What the configuration of the system's ssh says of a gateway, where the rules say nothing.

use std::time::Duration;

use adit_tests::{
    Broker, Capture, Conversation, Gateway, Host, Lab, Process, User, address, connecting, until,
    way,
};
use anyhow::{Result, ensure};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);
const HOME: &str = "/run/lab/home/adit-alice";

/// A rule file whose zone has `gateways` and these lines, and neither key nor known hosts.
fn rules(gateway: &str, lines: &[&str]) -> String {
    let more: String = lines.iter().map(|line| format!("    {line}\n")).collect();
    format!(
        "version: 1
zones:
  lab:
    gateways: {gateway}
{more}rules:
  - {{to: {}, action: tunnel}}
default: pass
",
        address::ZONE
    )
}

fn configure(lab: &Lab, text: &str) -> Result<()> {
    lab.write(User::Alice, &format!("{HOME}/.ssh/config"), text)
}

struct Started {
    lab: Lab,
    broker: Broker,
    _gateways: Vec<Process>,
    _capture: Capture,
}

/// A gateway at the edge, and one behind a jump host; Alice's ssh is configured so.
fn started(config: &str, rules: &str) -> Result<Started> {
    started_behind(config, rules, &[])
}

fn started_behind(config: &str, rules: &str, before: &[&str]) -> Result<Started> {
    let lab = Lab::new()?;
    let gateways = vec![
        Gateway::start(&lab)?.process,
        way::start_gateway_behind(&lab)?,
        way::start_jump(&lab, Host::Gateway, address::GATEWAY, 22, "")?,
    ];
    let line = format!(
        "mkdir {HOME}/keys && mv {HOME}/.ssh/id_ed25519* {HOME}/keys && mv {HOME}/.ssh/known_hosts {HOME}/keys"
    );
    lab.client().sh(&line)?.ok()?;
    configure(&lab, config)?;
    let capture = Capture::start(&lab)?;
    let rules = connecting("honest", rules);
    let broker = Broker::start_behind(&lab, User::Alice, &rules, before, &[])?;
    Ok(Started {
        lab,
        broker,
        _gateways: gateways,
        _capture: capture,
    })
}

/// The same with these known hosts; KEY is the gateway's host key, and OTHER another one.
fn started_knowing(config: &str, rules: &str, known: &str) -> Result<Started> {
    let lab = Lab::new()?;
    let gateway = Gateway::start(&lab)?.process;
    let other = format!("{HOME}/.ssh/id_ed25519.pub");
    let (key, other) = (
        lab.read("/run/lab/gateway/host_ed25519.pub")?,
        lab.read(&other)?,
    );
    let known = known.replace("KEY", key.trim_end());
    let known = known.replace("OTHER", other.trim_end());
    let line = format!("mkdir {HOME}/keys && mv {HOME}/.ssh/id_ed25519* {HOME}/keys");
    lab.client().sh(&line)?.ok()?;
    lab.write(User::Alice, &format!("{HOME}/keys/known_hosts"), known)?;
    configure(&lab, config)?;
    let capture = Capture::start(&lab)?;
    let broker = Broker::start(&lab, User::Alice, &connecting("honest", rules))?;
    Ok(Started {
        lab,
        broker,
        _gateways: vec![gateway],
        _capture: capture,
    })
}

impl Started {
    /// The zone, once it is up; and that programs get through.
    fn works(&self) -> Result<Value> {
        let mut zone = Value::Null;
        until("the zone to be up", PATIENCE, || {
            zone = self.broker.status(&self.lab)?["zones"][0].clone();
            Ok(zone["state"] == "up")
        })?;
        let talk = Conversation::new("both 100K; finish; end", "both 100K; end");
        let through = talk.hold(&self.lab, &self.lab.client())?;
        let direct = talk.hold(&self.lab, &self.lab.direct())?;
        ensure!(
            through.client[0].steps == direct.client[0].steps,
            "{through:?}"
        );
        Ok(zone)
    }

    fn is_down(&self, words: &[&str]) -> Result<()> {
        let mut reason = String::new();
        until("the zone to be down", PATIENCE, || {
            let zone = self.broker.status(&self.lab)?["zones"][0].clone();
            reason = zone["reason"].as_str().unwrap_or_default().to_owned();
            Ok(zone["state"] == "down")
        })?;
        for word in words {
            ensure!(reason.contains(word), "`{word}` is not in {reason}");
        }
        Ok(())
    }
}

const KEYS: &str = "IdentityFile ~/keys/id_ed25519\nUserKnownHostsFile ~/keys/known_hosts\n";

#[test]
fn an_alias_brings_host_port_key_and_known_hosts() -> Result<()> {
    let config = format!("Host corp\nHostName 192.0.2.1\nPort 443\n{KEYS}");
    let zone = started(&config, &rules("corp", &[]))?.works()?;
    ensure!(
        zone["gateway"] == "corp" && zone["engine"] == "embedded",
        "{zone}"
    );
    ensure!(zone["via"] == serde_json::json!([]), "{zone}");
    Ok(())
}

#[test]
fn jump_hosts_come_with_their_own_lines() -> Result<()> {
    let config = format!(
        "Host corp\nHostName 198.51.100.10\nPort 443\nProxyJump hop\nHost hop\nHostName 192.0.2.1\nHost *\n{KEYS}"
    );
    let zone = started(&config, &rules("corp", &[]))?.works()?;
    ensure!(zone["via"] == serde_json::json!(["192.0.2.1"]), "{zone}");
    Ok(())
}

#[test]
fn a_jump_host_behind_a_jump_host_is_followed() -> Result<()> {
    // The second hop is the gateway's own host, seen from inside.
    let config = format!(
        "Host corp\nHostName 198.51.100.10\nPort 443\nProxyJump inner\nHost inner\nHostName 198.51.100.1\n\
         ProxyJump hop\nHost hop\nHostName 192.0.2.1\nHost *\n{KEYS}"
    );
    let started = started(&config, &rules("corp", &[]))?;
    let known = started.lab.read(&format!("{HOME}/keys/known_hosts"))?;
    let key = known
        .lines()
        .find_map(|line| line.strip_prefix("192.0.2.1 "));
    let line = format!("{known}198.51.100.1 {}\n", key.unwrap_or_default());
    started
        .lab
        .write(User::Alice, &format!("{HOME}/keys/known_hosts"), line)?;
    let zone = started.works()?;
    ensure!(
        zone["via"] == serde_json::json!(["192.0.2.1", "198.51.100.1"]),
        "{zone}"
    );
    Ok(())
}

#[test]
fn what_the_rules_say_goes_before() -> Result<()> {
    let lines = [
        "identity: ~/keys/id_ed25519",
        "known_hosts: ~/keys/known_hosts",
        "via: adit-alice@192.0.2.1:22",
    ];
    let config = "Host *\nPort 9\nUser nobody\nIdentityFile ~/.ssh/none\nUserKnownHostsFile /dev/null\nProxyJump nowhere\n";
    let gateway = format!("\"{}\"", way::gateway_behind());
    let zone = started(config, &rules(&gateway, &lines))?.works()?;
    ensure!(
        zone["via"] == serde_json::json!(["adit-alice@192.0.2.1:22"]),
        "{zone}"
    );
    Ok(())
}

/// Whether the system's own ssh trusts the host key of `corp`, and whether a broker does.
fn both_trust(started: &Started) -> Result<(bool, bool)> {
    let lab = &started.lab;
    let ssh = ["ssh", "-o", "BatchMode=yes", "-s", "corp", "adit-link"];
    let by_ssh = lab.client().argv(&ssh)?;
    let broker = &started.broker;
    let mut trusted = false;
    until("the zone to be up or down", PATIENCE, || {
        let zone = broker.status(lab)?["zones"][0].clone();
        trusted = zone["state"] == "up";
        Ok(trusted || zone["state"] == "down")
    })?;
    let is_refused = by_ssh.stderr.contains("Host key verification failed");
    // The link's greeting.
    ensure!(is_refused == by_ssh.stdout.is_empty(), "{by_ssh}");
    Ok((!is_refused, trusted))
}

#[test]
fn a_host_key_alias_is_the_only_name_that_is_looked_for() -> Result<()> {
    for (alias, known, is_trusted) in [
        ("gate", "gate KEY", true),
        ("Gate", "gate KEY", true),
        ("none", "none KEY", true),
        ("gate", "[gate]:443 KEY", false),
        ("gate", "[192.0.2.1]:443 KEY", false),
        ("gate", "192.0.2.1 KEY", false),
        ("gate", "gate OTHER\n[192.0.2.1]:443 KEY", false),
        ("gate", "[192.0.2.1]:443 OTHER\ngate KEY", true),
        ("gate", "* KEY", true),
    ] {
        let config =
            format!("Host corp\nHostName 192.0.2.1\nPort 443\nHostKeyAlias {alias}\n{KEYS}");
        let started = started_knowing(&config, &rules("corp", &[]), known)?;
        let trusted = both_trust(&started)?;
        let expected = (is_trusted, is_trusted);
        ensure!(trusted == expected, "{alias}, {known}: {trusted:?}");
    }
    Ok(())
}

#[test]
fn a_new_host_key_is_noted_under_its_alias() -> Result<()> {
    let config = format!("Host corp\nHostName 192.0.2.1\nPort 443\nHostKeyAlias gate\n{KEYS}");
    let started = started_knowing(&config, &rules("corp", &["host_keys: accept-new"]), "")?;
    started.works()?;
    let known = started.lab.read(&format!("{HOME}/keys/known_hosts"))?;
    ensure!(known.starts_with("gate ssh-ed25519 "), "{known}");
    ensure!(both_trust(&started)? == (true, true));
    Ok(())
}

#[test]
fn a_jump_host_has_no_part_in_the_alias_of_what_is_behind_it() -> Result<()> {
    let config = format!(
        "Host corp\nHostName 198.51.100.10\nPort 443\nHostKeyAlias behind\nProxyJump hop\nHost hop\nHostName 192.0.2.1\nHost *\n{KEYS}"
    );
    let started = started(&config, &rules("corp", &[]))?;
    let file = format!("{HOME}/keys/known_hosts");
    let known = started.lab.read(&file)?;
    let known = known.replace("[198.51.100.10]:443 ", "behind ");
    started.lab.write(User::Alice, &file, known)?;
    started.works()?;
    Ok(())
}

#[test]
fn switched_off_it_says_nothing() -> Result<()> {
    let config = format!("Host corp\nHostName 192.0.2.1\nPort 443\n{KEYS}");
    started(&config, &rules("corp", &["ssh_config: false"]))?.is_down(&["cannot resolve corp"])
}

#[test]
fn a_key_that_is_locked_is_left_to_the_agent() -> Result<()> {
    let config = format!("Host corp\nHostName 192.0.2.1\nPort 443\n{KEYS}");
    let line = "ssh-add -q ~/keys/id_ed25519 && ssh-keygen -q -p -N secret -f ~/keys/id_ed25519 >&2; exec \"$@\"";
    let before = ["ssh-agent", "sh", "-c", line, "sh"];
    started_behind(&config, &rules("corp", &[]), &before)?.works()?;
    Ok(())
}

/// As a unit of the user finds it, whose environment names none.
#[test]
fn an_agent_at_a_usual_place_holds_a_key_that_is_locked() -> Result<()> {
    let config = format!("Host corp\nHostName 192.0.2.1\nPort 443\n{KEYS}");
    let line = "ssh-add -q ~/keys/id_ed25519 && ssh-keygen -q -p -N secret -f ~/keys/id_ed25519 >&2; unset SSH_AUTH_SOCK; exec \"$@\"";
    let home = "/run/lab/home/adit-alice";
    let (runtime, socket) = (
        format!("XDG_RUNTIME_DIR={home}"),
        format!("{home}/ssh-agent.socket"),
    );
    let before = [
        "env",
        &runtime,
        "ssh-agent",
        "-a",
        &socket,
        "sh",
        "-c",
        line,
        "sh",
    ];
    started_behind(&config, &rules("corp", &[]), &before)?.works()?;
    Ok(())
}

#[test]
fn a_proxy_command_is_for_ssh_itself() -> Result<()> {
    let config = format!("Host corp\nHostName 192.0.2.1\nPort 443\nProxyCommand nc %h %p\n{KEYS}");
    let zone = started(&config, &rules("corp", &[]))?.works()?;
    ensure!(zone["engine"] == "openssh", "{zone}");
    let because = zone["engine_because"].as_str().unwrap_or_default();
    ensure!(because.contains("ProxyCommand"), "{zone}");
    let embedded = rules("corp", &["engine: embedded"]);
    started(&config, &embedded)?.is_down(&["ProxyCommand", "write `engine: openssh`"])
}

#[test]
fn the_engine_openssh_follows_it_too() -> Result<()> {
    let config = format!(
        "Host corp\nHostName 198.51.100.10\nPort 443\nProxyJump hop\nHost hop\nHostName 192.0.2.1\nHost *\n{KEYS}"
    );
    let zone = started(&config, &rules("corp", &["engine: openssh"]))?.works()?;
    ensure!(zone["engine"] == "openssh", "{zone}");
    Ok(())
}

#[test]
fn what_ssh_does_not_understand_is_told() -> Result<()> {
    let words = [
        "the configuration of ssh for corp",
        "Bad configuration option",
        "ssh_config: false",
    ];
    started("Host corp\nHostNaem 192.0.2.1\n", &rules("corp", &[]))?.is_down(&words)
}
