//! `explain` of a host as a whole: an answer where all of its ports get the same, and otherwise which rule asks for one.

mod reading;

use std::path::Path;

use adit_rules::{Application, Host, Policy};
use reading::parse_file;

const RULES: &str = "version: 1
zones: {a: {gateways: x}, e: {gateways: y, connect: early}}
rules:
  - {name: web of one, app: firefox, to: 10.0.0.0/16, ports: [443, 8000-8100], action: tunnel, zone: a}
  - {name: no telnet, to: 10.1.0.0/16, ports: 23, action: block}
  - {name: net, to: 10.0.0.0/15, action: tunnel, zone: a}
  - {name: early, app: reporter, to: 10.5.0.0/16, ports: 80, action: tunnel, zone: e}
default: pass
";

fn policy() -> Policy {
    let checked = parse_file(Path::new("rules.yaml"), RULES, &[]);
    checked.unwrap_or_else(|errors| panic!("{errors}")).policy
}

fn said(app: &str, host: &str) -> String {
    let application = Application::parse(app).expect("an application");
    let host = Host::parse(host).expect("a host");
    match policy().explain_host(&host, &application) {
        Ok(explanation) => explanation.to_string(),
        Err(matters) => matters.to_string(),
    }
}

#[test]
fn all_ports_alike() {
    assert_eq!(
        said("/usr/bin/curl", "10.0.0.7"),
        "tunnel through a (connect: honest), by \"net\" (rules.yaml:6)\n  no   \"web of one\", line 4: the application \
         /usr/bin/curl is not in its `app` (firefox)\n  no   \"no telnet\", line 5: 10.0.0.7 is not in its `to` \
         (10.1.0.0/16)\n  yes  \"net\", line 6: it matches"
    );
    assert!(said("unknown", "203.0.113.1").starts_with("pass, by \"default\""));
    assert!(said("unknown", "[2001:db8::1]").starts_with("pass, by \"default\""));
    assert!(said("unknown", "erp.corp").starts_with("pass, by \"default\""));
}

#[test]
fn a_rule_for_some_ports_makes_the_port_matter() {
    assert_eq!(
        said("/usr/bin/firefox", "10.0.0.7"),
        "it depends on the port: \"web of one\" is about ports 443, 8000-8100; ask about 10.0.0.7:PORT"
    );
    assert_eq!(
        said("unknown", "10.1.0.7"),
        "it depends on the port: \"no telnet\" is about port 23; ask about 10.1.0.7:PORT"
    );
}

/// Another application's early rule makes some ports early, and no others.
#[test]
fn early_for_some_ports_makes_the_port_matter() {
    assert_eq!(
        said("/usr/bin/curl", "10.5.0.7"),
        "it depends on the port: \"early\" is about port 80; ask about 10.5.0.7:PORT"
    );
}

#[test]
fn what_is_no_host() {
    for text in [
        "",
        "10.0.0.0/8",
        "2001:db8::1",
        "10.0.0.1:443",
        "[10.0.0.1]",
    ] {
        assert!(Host::parse(text).is_err(), "{text}");
    }
}
