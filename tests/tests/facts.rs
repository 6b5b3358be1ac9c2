//! Rules that ask for more than the path of a binary: script, parent, unit, hash.

use adit_tests::{
    ControlGroup, Gateway, Lab, Process, Routing, RunningAdit, Shared, User, address, rules_with,
    service,
};
use anyhow::{Context, Result, ensure};

const HOME: &str = "/run/lab/home/adit-alice";
/// What nginx saw: one whose rule matched came through the gateway.
const FETCH: &str = "#!/usr/bin/env python3
import socket, sys
s = socket.create_connection((sys.argv[1], 80), 10)
s.sendall(b'GET /whoami HTTP/1.0\\r\\n\\r\\n')
print(s.makefile().read().split()[-1])
";

struct Zone {
    lab: Lab,
    adit: RunningAdit,
    _web: Process,
}

fn zone() -> Result<&'static Zone> {
    static ZONE: Shared<Zone> = Shared::new();
    ZONE.get(|| {
        let lab = Lab::with(Routing::Open)?;
        let web = service::web(&lab)?;
        let gateway = Gateway::start(&lab)?;
        for name in ["sync.py", "other.py"] {
            lab.write(User::Alice, &format!("{HOME}/{name}"), FETCH)?;
        }
        let line = "chmod 755 *.py && cp /bin/bash terminal && cp /usr/bin/curl fetch
            sha256sum fetch | cut -d' ' -f1";
        let hash = lab.client().sh(line)?.ok()?;
        let rules = format!(
            "  - {{name: script, app: {{path: \"python3*\", script: {HOME}/sync.py}}, to: 198.51.100.10, action: tunnel, zone: lab}}
  - {{name: parent, app: {{parent: {HOME}/terminal}}, to: 198.51.100.11, action: tunnel, zone: lab}}
  - {{name: hash, app: {{sha256: {}}}, to: 198.51.100.12, action: tunnel, zone: lab}}
  - {{name: unit, app: {{unit: adit-test.scope}}, to: 198.51.100.13, action: tunnel, zone: lab}}
",
            hash.trim()
        );
        let adit = RunningAdit::with(&lab, gateway, &rules_with(User::Alice, &rules))?;
        Ok(Zone {
            lab,
            adit,
            _web: web,
        })
    })
}

fn check(line: &str, is_tunnelled: bool) -> Result<()> {
    let seen = zone()?.lab.client().sh(line)?.ok()?;
    let expected = if is_tunnelled {
        address::GATEWAY_INSIDE
    } else {
        address::CLIENT
    };
    ensure!(seen.trim() == expected, "{line}: {seen}, not {expected}");
    Ok(())
}

#[test]
fn one_script_of_an_interpreter_and_not_another() -> Result<()> {
    check("~/sync.py 198.51.100.10", true)?;
    check("python3 -u ~/sync.py 198.51.100.10", true)?;
    check("~/other.py 198.51.100.10", false)?;
    check("python3 -c \"$(cat sync.py)\" 198.51.100.10", false)?;
    check("curl -sS http://198.51.100.10/whoami", false)?;
    let zone = zone()?;
    let script = Some(format!("{HOME}/sync.py"));
    let flow = zone
        .adit
        .broker
        .flow(&zone.lab, "the script's", |flow| flow.script == script)?;
    ensure!(flow.rule.as_deref() == Some("script"), "{flow:?}");
    let table = zone.adit.broker.adit(&zone.lab, &["flows"])?.ok()?;
    let line = table.lines().find(|line| line.contains("sync.py"));
    let line = line.with_context(|| table.clone())?;
    ensure!(
        line.contains("python3") && line.contains("script"),
        "{line}"
    );
    Ok(())
}

#[test]
fn what_a_program_starts_and_not_what_another_starts() -> Result<()> {
    let fetch = "curl -sS http://198.51.100.11/whoami; :";
    check(&format!("./terminal -c '{fetch}'"), true)?;
    check(&format!("./terminal -c 'sh -c \"{fetch}\"; :'"), true)?;
    check(&format!("bash -c '{fetch}'"), false)?;
    check("curl -sS http://198.51.100.11/whoami", false)
}

#[test]
fn one_binary_by_its_hash_wherever_it_is() -> Result<()> {
    check("./fetch -sS http://198.51.100.12/whoami", true)?;
    check("curl -sS http://198.51.100.12/whoami", true)?;
    check(
        "cp fetch elsewhere && ./elsewhere -sS http://198.51.100.12/whoami",
        true,
    )?;
    check(
        "cp fetch longer && echo >>longer && ./longer -sS http://198.51.100.12/whoami",
        false,
    )
}

#[test]
fn what_is_in_a_control_group_and_not_what_is_not() -> Result<()> {
    let lab = &zone()?.lab;
    let group = ControlGroup::make(lab, "adit-test.scope")?;
    let seen = group
        .sh(User::Alice, "curl -sS http://198.51.100.13/whoami")?
        .ok()?;
    ensure!(seen.trim() == address::GATEWAY_INSIDE, "{seen}");
    check("curl -sS http://198.51.100.13/whoami", false)
}
