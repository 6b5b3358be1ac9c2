//! Who is tunnelled, passed and blocked: by application, port and network, by the kernel alone or not.

use std::time::Duration;

use adit_tests::{
    Gateway, Lab, Process, Routing, RunningAdit, Shared, User, address, rules_with, service,
};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// `/whoami` of nginx tells whether a flow came through the gateway or directly.
const RULES: &str = r#"  - {name: no telnet, ports: [23], action: block}
  - {name: a vendor's own, to: "@vendor", action: pass}
  - {name: apart, to: [198.51.100.12], action: pass}
  - {name: curl, app: [curl], to: [198.51.100.0/24, "2001:db8:2::/64"], ports: [80, 443, 8000-8100], action: tunnel, zone: lab}
  - {name: by path, app: ["/run/lab/home/adit-alice/opt/**"], to: [198.51.100.13], action: tunnel, zone: lab}
  - {name: only curl, to: [198.51.100.11], action: block}
"#;

/// As vendors publish what is to go around a tunnel: the addresses stand anywhere in the document.
const VENDOR: &str = r#"[{"id": 1, "serviceArea": "Exchange", "urls": ["mail.vendor.example", "*.vendor.example"],
  "ips": ["198.51.100.14/32", "2001:db8:2::14/128"], "tcpPorts": "80,443", "required": true}]"#;

struct Zone {
    lab: Lab,
    adit: RunningAdit,
    _web: Process,
}

/// A lab in which what is passed arrives.
fn zone() -> Result<&'static Zone> {
    static ZONE: Shared<Zone> = Shared::new();
    ZONE.get(|| {
        let lab = Lab::with(Routing::Open)?;
        let web = service::web(&lab)?;
        let gateway = Gateway::start(&lab)?;
        let list = format!("{}/vendor.json", User::Alice.home());
        lab.write(User::Alice, &list, VENDOR)?;
        let rules = rules_with(User::Alice, RULES) + "sets: {vendor: {file: vendor.json}}\n";
        let adit = RunningAdit::with(&lab, gateway, &rules)?;
        lab.client()
            .sh("mkdir -p opt/tools && cp /usr/bin/curl opt/tools/fetch && cp /usr/bin/curl other")?
            .ok()?;
        Ok(Zone {
            lab,
            adit,
            _web: web,
        })
    })
}

/// What `program` gets from a URL: the address that nginx sees, or why not.
fn seen(user: User, program: &str, url: &str) -> Result<Result<String, String>> {
    let line = format!("{program} -sS --max-time 10 {url}/whoami");
    let ended = zone()?.lab.client().user(user).sh(&line)?;
    Ok(if ended.success() {
        Ok(ended.stdout.trim().to_owned())
    } else {
        Err(ended.stderr)
    })
}

fn check(program: &str, url: &str, expected: &str) -> Result<()> {
    let seen = seen(User::Alice, program, url)?;
    ensure!(
        seen.as_deref() == Ok(expected),
        "{program} {url}: {seen:?} instead of {expected}"
    );
    Ok(())
}

#[test]
fn one_application_is_tunnelled_and_another_to_the_same_destination_is_not() -> Result<()> {
    check("curl", "http://198.51.100.10", address::GATEWAY_INSIDE)?;
    check("./other", "http://198.51.100.10", address::CLIENT)?;
    check("curl", "http://[2001:db8:2::10]", address::GATEWAY6_INSIDE)?;
    check("./other", "http://[2001:db8:2::10]", address::CLIENT6)
}

#[test]
fn what_a_vendors_list_names_goes_around_the_tunnel() -> Result<()> {
    check("curl", "http://198.51.100.14", address::CLIENT)?;
    check("curl", "http://198.51.100.15", address::GATEWAY_INSIDE)
}

#[test]
fn one_application_is_tunnelled_and_another_is_blocked() -> Result<()> {
    check("curl", "http://198.51.100.11", address::GATEWAY_INSIDE)?;
    let seen = seen(User::Alice, "./other", "http://198.51.100.11")?;
    ensure!(
        seen.is_err(),
        "it should be blocked, but nginx saw {seen:?}"
    );
    let zone = zone()?;
    let flow = zone
        .adit
        .broker
        .flow(&zone.lab, "the blocked flow", |flow| {
            flow.destination == "198.51.100.11:80" && flow.action.as_deref() == Some("block")
        })?;
    ensure!(
        flow.rule.as_deref() == Some("only curl") && flow.state == "refused",
        "{flow:?}"
    );
    let application = flow.application.unwrap_or_default();
    ensure!(
        application == "/run/lab/home/adit-alice/other",
        "application {application}"
    );
    Ok(())
}

#[test]
fn an_application_by_its_path() -> Result<()> {
    check(
        "opt/tools/fetch",
        "http://198.51.100.13",
        address::GATEWAY_INSIDE,
    )?;
    check("./other", "http://198.51.100.13", address::CLIENT)
}

#[test]
fn a_link_to_a_binary_is_that_binary() -> Result<()> {
    zone()?
        .lab
        .client()
        .sh("ln -sf /usr/bin/curl disguised && ln -sf ~/other curl")?
        .ok()?;
    check(
        "./disguised",
        "http://198.51.100.10",
        address::GATEWAY_INSIDE,
    )?;
    check("./curl", "http://198.51.100.10", address::CLIENT)
}

#[test]
fn ports_in_and_out_of_a_range() -> Result<()> {
    check("curl", "http://198.51.100.10:8080", address::GATEWAY_INSIDE)?;
    let zone = zone()?;
    let words = [
        "adit-peer",
        "serve",
        address::SERVER,
        "send 5",
        "--port",
        "8101",
    ];
    let mut outside = zone.lab.server().start("outside", &words)?;
    outside.line_with("port", Duration::from_secs(5))?;
    zone.lab
        .client()
        .sh("curl -sS --http0.9 http://198.51.100.10:8101/ >/dev/null")?;
    outside.end(Duration::from_secs(5))?;
    let sight = adit_tests::sights(&outside.stdout())?.remove(0);
    ensure!(
        sight.peer == address::CLIENT,
        "port 8101 is passed, but the server saw {}",
        sight.peer
    );
    Ok(())
}

#[test]
fn what_the_kernel_can_decide_alone_never_reaches_the_broker() -> Result<()> {
    check("curl", "http://198.51.100.12", address::CLIENT)?;
    let refused = zone()?
        .lab
        .client()
        .sh("exec 3<>/dev/tcp/198.51.100.10/23")?;
    ensure!(!refused.success());
    let bash = zone()?
        .lab
        .client()
        .argv(&["bash", "-c", "exec 3<>/dev/tcp/198.51.100.10/23"])?;
    let said = bash.failed()?;
    ensure!(said.contains("Connection refused"), "port 23: {said}");
    let zone = zone()?;
    let flows = zone.adit.broker.flows(&zone.lab)?;
    let told = |to: &str| flows.iter().any(|flow| flow.destination == to);
    ensure!(
        !told("198.51.100.12:80") && !told("198.51.100.10:23"),
        "{flows:#?}"
    );
    Ok(())
}

#[test]
fn root_and_users_without_a_broker_pass() -> Result<()> {
    for user in [User::Root, User::Bob, User::Service] {
        let seen = seen(user, "curl", "http://198.51.100.10")?;
        ensure!(seen.as_deref() == Ok(address::CLIENT), "{user:?}: {seen:?}");
    }
    Ok(())
}

#[test]
fn explain_says_what_happens() -> Result<()> {
    let zone = zone()?;
    for (app, to, action, rule) in [
        ("/usr/bin/curl", "198.51.100.10:80", "tunnel", Some("curl")),
        ("/usr/bin/curl", "198.51.100.12:80", "pass", Some("apart")),
        (
            "/usr/bin/wget",
            "198.51.100.11:80",
            "block",
            Some("only curl"),
        ),
        (
            "/usr/bin/wget",
            "198.51.100.10:23",
            "block",
            Some("no telnet"),
        ),
        ("/usr/bin/wget", "203.0.113.1:80", "pass", None),
    ] {
        let words = ["explain", "--app", app, "--to", to, "--json"];
        let text = zone.adit.broker.adit(&zone.lab, &words)?.ok()?;
        let said: Value = serde_json::from_str(&text).context(text)?;
        ensure!(said["action"] == action, "{app} to {to}: {said}");
        ensure!(
            rule.is_none_or(|rule| said["rule"] == rule),
            "{app} to {to}: {said}"
        );
    }
    Ok(())
}
