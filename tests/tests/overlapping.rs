//! Two zones with the same addresses: which of them a program reaches depends on where it was started.

use adit_tests::{
    Gateway, Host, Lab, OtherZone, Process, RunningAdit, Shared, User, address, rules_with,
};
use anyhow::{Result, ensure};

const HOME: &str = "/run/lab/home/adit-alice";

struct Zones {
    lab: Lab,
    adit: RunningAdit,
    _other: OtherZone,
    _servers: [Process; 2],
}

fn zones() -> Result<&'static Zones> {
    static ZONES: Shared<Zones> = Shared::new();
    ZONES.get(|| {
        let lab = Lab::new()?;
        let gateway = Gateway::start(&lab)?;
        let other = OtherZone::start(&lab)?;
        let servers = [
            serve(&lab, Host::Server, "the first")?,
            serve(&lab, Host::OtherServer, "the other")?,
        ];
        lab.client()
            .sh("cp /bin/bash terminal-a && cp /bin/bash terminal-b")?
            .ok()?;
        let rules = rules_with(
            User::Alice,
            &format!(
                "  - {{name: terminal a, app: {{parent: {HOME}/terminal-a}}, to: 198.51.100.0/24, action: tunnel, zone: lab}}
  - {{name: terminal b, app: {{parent: {HOME}/terminal-b}}, to: 198.51.100.0/24, action: tunnel, zone: other}}
  - {{name: desktop a, app: {{unit: desktop-a.scope}}, to: 198.51.100.0/24, action: tunnel, zone: lab}}
  - {{name: desktop b, app: {{unit: \"desktop-b*.scope\"}}, to: 198.51.100.0/24, action: tunnel, zone: other}}
  - {{name: nobody else, to: 198.51.100.0/24, action: block}}
"
            ),
        );
        let rules = rules.replacen("\nrules:", &format!("\n{}rules:", OtherZone::rule_lines()), 1);
        let adit = RunningAdit::with(&lab, gateway, &rules)?;
        Ok(Zones {
            lab,
            adit,
            _other: other,
            _servers: servers,
        })
    })
}

/// A server at the same address in each zone, which says in which it is.
fn serve(lab: &Lab, host: Host, name: &str) -> Result<Process> {
    let directory = format!("/run/lab/{name}").replace(' ', "-");
    lab.write(User::Root, &format!("{directory}/zone"), name)?;
    let words = [
        "python3",
        "-m",
        "http.server",
        "80",
        "--bind",
        address::SERVER,
        "--directory",
        &directory,
    ];
    let server = lab.on(host).start(name, &words)?;
    lab.wait_listening(host, 80)?;
    Ok(server)
}

const FETCH: &str = "curl -sS http://198.51.100.10/zone";

fn check(terminal: &str, expected: &str, zone: &str) -> Result<()> {
    let line = format!("./terminal-{terminal} -c '{FETCH}; :'");
    let zones = zones()?;
    let seen = zones.lab.client().sh(&line)?.ok()?;
    ensure!(seen == expected, "{line}: {seen:?}, not {expected:?}");
    let rule = format!("terminal {terminal}");
    let flow = zones.adit.broker.flow(&zones.lab, "its flow", |flow| {
        flow.rule.as_deref() == Some(&rule)
    })?;
    ensure!(flow.zone.as_deref() == Some(zone), "{flow:?}");
    Ok(())
}

#[test]
fn terminals_reach_the_same_address_in_different_zones() -> Result<()> {
    for _ in 0..3 {
        check("a", "the first", "lab")?;
        check("b", "the other", "other")?;
    }
    let zones = zones()?;
    let at_once = format!(
        "./terminal-a -c 'for i in $(seq 20); do {FETCH} >>a; echo >>a; done' &
        ./terminal-b -c 'for i in $(seq 20); do {FETCH} >>b; echo >>b; done' & wait
        sort a | uniq -c; sort b | uniq -c"
    );
    let seen = zones.lab.client().sh(&at_once)?.ok()?;
    let counted: Vec<&str> = seen.lines().map(str::trim).collect();
    ensure!(counted == ["20 the first", "20 the other"], "{seen}");
    let elsewhere = zones.lab.client().sh(FETCH)?;
    ensure!(!elsewhere.success(), "{elsewhere}");
    Ok(())
}

#[test]
fn desktops_reach_the_same_address_in_different_zones() -> Result<()> {
    let zones = zones()?;
    for (unit, expected) in [
        ("desktop-a.scope", "the first"),
        ("desktop-b7.scope", "the other"),
    ] {
        let group = adit_tests::ControlGroup::make(&zones.lab, unit)?;
        let seen = group.sh(User::Alice, FETCH)?.ok()?;
        ensure!(seen == expected, "{unit}: {seen}");
    }
    Ok(())
}
