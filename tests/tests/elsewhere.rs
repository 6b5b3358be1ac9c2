//! Rules that tunnel to another host or port than the program asked for.

use adit_tests::{Gateway, Lab, RunningAdit, User, rules_with, service};
use anyhow::{Result, ensure};

/// Nobody listens at port 81 of the server, and nobody has 198.51.100.99.
const RULES: &str = r#"  - {name: another port, to: 198.51.100.10, ports: 81, action: tunnel, zone: lab, port: 8080}
  - {name: another host, to: 198.51.100.99, ports: 80, action: tunnel, zone: lab, destination: 198.51.100.10}
  - {name: another family, to: 203.0.113.0/24, action: tunnel, zone: lab, destination: "2001:db8:2::10", port: 80}
  - {name: a name, to: "2001:db8:ffff::/48", ports: 80, action: tunnel, zone: lab, destination: web.finance.test}
"#;

#[test]
fn a_program_that_connects_to_one_reaches_the_other() -> Result<()> {
    let lab = Lab::new()?;
    let _web = service::web(&lab)?;
    let adit = RunningAdit::with(&lab, Gateway::start(&lab)?, &rules_with(User::Alice, RULES))?;
    for (asked, rule, to) in [
        ("198.51.100.10:81", "another port", "198.51.100.10:8080"),
        ("198.51.100.99:80", "another host", "198.51.100.10:80"),
        ("203.0.113.7:4711", "another family", "[2001:db8:2::10]:80"),
        ("[2001:db8:ffff::1]:80", "a name", "web.finance.test:80"),
    ] {
        let line = format!("curl -sS --max-time 20 http://{asked}/hello");
        let said = lab.client().sh(&line)?.ok()?;
        ensure!(said == "hello from the zone\n", "{asked}: {said}");
        let flow = adit
            .broker
            .flow(&lab, rule, |flow| flow.destination == asked)?;
        ensure!(
            flow.rule.as_deref() == Some(rule) && flow.to.as_deref() == Some(to),
            "{flow:?}"
        );
        let words = ["explain", "--app", "/usr/bin/curl", "--to", asked, "--json"];
        let explained = adit.broker.adit(&lab, &words)?.ok()?;
        let explained: serde_json::Value = serde_json::from_str(&explained)?;
        ensure!(explained["destination"] == to, "{explained}");
    }
    Ok(())
}
