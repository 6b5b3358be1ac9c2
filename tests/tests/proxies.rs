//! A gateway behind a proxy: reached through real ones, and what is said when a proxy is in the way.

use std::time::Duration;

use adit_tests::{Broker, Capture, Conversation, Host, Lab, Process, User, address, until, way};
use anyhow::{Result, ensure};

const PATIENCE: Duration = Duration::from_secs(20);
const PASSWORD_FILE: &str = "/run/lab/home/adit-alice/proxy-password";
/// Nobody may find it in a log.
const PASSWORD: &str = "very5ecret";

struct Started {
    lab: Lab,
    broker: Broker,
    _others: [Process; 2],
    _capture: Capture,
}

fn started(proxy: impl Fn(&Lab) -> Result<Process>, lines: &[&str]) -> Result<Started> {
    let lab = Lab::new()?;
    let others = [way::start_gateway_behind(&lab)?, proxy(&lab)?];
    lab.write(User::Alice, PASSWORD_FILE, format!("{PASSWORD}\n"))?;
    let capture = Capture::start(&lab)?;
    let broker = Broker::start(&lab, User::Alice, &way::rules_behind(lines))?;
    Ok(Started {
        lab,
        broker,
        _others: others,
        _capture: capture,
    })
}

impl Started {
    fn works(&self) -> Result<()> {
        let talk = Conversation::new("both 1M; finish; end", "both 1M; end");
        let through = talk.hold(&self.lab, &self.lab.client())?;
        let direct = talk.hold(&self.lab, &self.lab.direct())?;
        ensure!(
            through.client[0].steps == direct.client[0].steps,
            "{through:?}"
        );
        ensure!(
            through.server[0].steps == direct.server[0].steps,
            "{through:?}"
        );
        let log = self.broker.process.stderr();
        ensure!(!log.contains("cret"), "the password is in the log: {log}");
        Ok(())
    }

    /// Why the zone is down; all of `words` are in it.
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
        ensure!(!reason.contains("cret"), "the password is in {reason}");
        Ok(())
    }
}

fn open_http(lab: &Lab) -> Result<Process> {
    way::start_tinyproxy(lab, "")
}

fn closed_http(lab: &Lab) -> Result<Process> {
    way::start_tinyproxy(lab, &format!("BasicAuth alice {PASSWORD}"))
}

fn open_socks(lab: &Lab) -> Result<Process> {
    way::start_microsocks(lab, &[])
}

fn closed_socks(lab: &Lab) -> Result<Process> {
    way::start_microsocks(lab, &["-u", "alice", "-P", PASSWORD])
}

#[test]
fn through_an_http_proxy() -> Result<()> {
    let started = started(open_http, &["proxy: http://192.0.2.1:3128"])?;
    started.works()?;
    let zone = started.broker.status(&started.lab)?["zones"][0].clone();
    ensure!(zone["proxy"] == "http://192.0.2.1:3128", "{zone}");
    Ok(())
}

#[test]
fn through_an_http_proxy_with_a_password_in_the_rules() -> Result<()> {
    started(
        closed_http,
        &["proxy: \"http://alice:very5e%63ret@192.0.2.1:3128\""],
    )?
    .works()
}

#[test]
fn through_an_http_proxy_with_a_password_in_a_file() -> Result<()> {
    let lines = [
        "proxy: http://alice@192.0.2.1:3128",
        "proxy_password_file: ~/proxy-password",
    ];
    started(closed_http, &lines)?.works()
}

#[test]
fn through_a_socks_proxy() -> Result<()> {
    started(open_socks, &["proxy: \"socks5://[2001:db8:1::1]:1080\""])?.works()
}

#[test]
fn through_a_socks_proxy_with_a_password_in_a_file() -> Result<()> {
    let lines = [
        "proxy: socks5://alice@192.0.2.1:1080",
        "proxy_password_file: ~/proxy-password",
    ];
    started(closed_socks, &lines)?.works()
}

#[test]
fn names_are_for_the_proxy_to_resolve() -> Result<()> {
    for (proxy, line) in [
        (
            open_http as fn(&Lab) -> Result<Process>,
            "proxy: http://192.0.2.1:3128",
        ),
        (open_socks, "proxy: socks5://192.0.2.1:1080"),
    ] {
        let lab = Lab::new()?;
        let _others = [way::start_gateway_behind(&lab)?, proxy(&lab)?];
        let key = lab.read("/run/lab/gateway/host_ed25519.pub")?;
        // Only the gateway's host knows this name.
        way::trust(&lab, "[db.finance.test]:443", &key)?;
        let _capture = Capture::start(&lab)?;
        let rules =
            way::rules_behind(&[line]).replace("@198.51.100.10:443", "@db.finance.test:443");
        let broker = Broker::start(&lab, User::Alice, &rules)?;
        until("the zone to be up", PATIENCE, || {
            Ok(broker.status(&lab)?["zones"][0]["state"] == "up")
        })?;
    }
    Ok(())
}

#[test]
fn a_proxy_before_a_jump_host() -> Result<()> {
    let lab = Lab::new()?;
    let _jump = way::start_jump(&lab, Host::Server, "198.51.100.11", 2222, "")?;
    let _others = [way::start_gateway_behind(&lab)?, open_http(&lab)?];
    let _capture = Capture::start(&lab)?;
    let via = format!("via: {}@198.51.100.11:2222", User::Alice.name());
    let rules = way::rules_behind(&[&via, "proxy: http://192.0.2.1:3128"]);
    let broker = Broker::start(&lab, User::Alice, &rules)?;
    until("the zone to be up", PATIENCE, || {
        Ok(broker.status(&lab)?["zones"][0]["state"] == "up")
    })?;
    let text = broker.adit(&lab, &["status"])?.ok()?;
    let way = format!(
        " by way of http://192.0.2.1:3128, {}@198.51.100.11:2222, engine embedded ",
        User::Alice.name()
    );
    ensure!(text.contains(&way), "{text}");
    Ok(())
}

#[test]
fn a_proxy_that_asks_for_a_password_says_what_to_do() -> Result<()> {
    let named = "proxy http://192.0.2.1:3128: it asks for a user and a password";
    let started = started(closed_http, &["proxy: http://192.0.2.1:3128"])?;
    started.is_down(&[named, "proxy_password_file"])
}

#[test]
fn a_socks_proxy_that_asks_for_a_password_says_what_to_do() -> Result<()> {
    let named = "proxy socks5://192.0.2.1:1080: it asks for a user and a password";
    started(closed_socks, &["proxy: socks5://192.0.2.1:1080"])?.is_down(&[named])
}

#[test]
fn a_wrong_password_is_told_without_it() -> Result<()> {
    for (proxy, line) in [
        (
            closed_http as fn(&Lab) -> Result<Process>,
            "proxy: http://alice:sicret@192.0.2.1:3128",
        ),
        (closed_socks, "proxy: socks5://alice:sicret@192.0.2.1:1080"),
    ] {
        started(proxy, &[line])?.is_down(&["it does not take this user and password"])?;
    }
    Ok(())
}

#[test]
fn a_proxy_that_allows_no_such_port_is_told() -> Result<()> {
    let proxy = |lab: &Lab| way::start_tinyproxy(lab, "ConnectPort 563");
    let started = started(proxy, &["proxy: http://192.0.2.1:3128"])?;
    started.is_down(&["proxy http://192.0.2.1:3128: ", "198.51.100.10:443: 403"])
}

#[test]
fn what_is_no_proxy_and_what_is_not_there_is_told() -> Result<()> {
    let sshd = |lab: &Lab| way::start_jump(lab, Host::Gateway, address::GATEWAY, 22, "");
    let line = "proxy: http://192.0.2.1:22";
    started(sshd, &[line])?.is_down(&["proxy http://192.0.2.1:22: "])?;
    let line = "proxy: socks5://192.0.2.1:22";
    started(sshd, &[line])?.is_down(&["does not answer as SOCKS 5 does, but with 0x53"])?;
    let line = "proxy: http://192.0.2.1:9";
    started(sshd, &[line])?.is_down(&["proxy http://192.0.2.1:9: cannot reach 192.0.2.1:9"])?;
    let lines = [
        "proxy: http://alice@192.0.2.1:22",
        "proxy_password_file: ~/not-there",
    ];
    started(sshd, &lines)?.is_down(&["/not-there: No such file"])
}
