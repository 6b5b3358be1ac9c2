//! What is said of a flow, and of a file that is wrong, to people and to programs.

mod reading;

use std::path::Path;

use adit_rules::{Application, Destination, Policy};
use reading::{parse_file, policy};

const FILE: &str = include_str!("example.yaml");

#[test]
fn an_explanation_says_why_to_people() {
    let explain = |app: &str, to: &str| {
        let application = Application::parse(app).expect("valid");
        let destination = Destination::parse(to).expect("valid");
        policy(FILE).explain(&destination, &application).to_string()
    };
    assert_eq!(
        explain("/usr/bin/firefox", "10.20.1.1:443"),
        "tunnel through finance (connect: early, on_down: hold), by \"payroll only from the browser\" (/etc/adit/rules.yaml:11)\n  \
           yes  \"payroll only from the browser\", line 11: it matches"
    );
    assert_eq!(
        explain("/usr/bin/curl", "10.20.1.1:443"),
        "pass, by \"default\" (/etc/adit/rules.yaml:24)\n  \
           no   \"payroll only from the browser\", line 11: the application /usr/bin/curl is not in its `app` \
           (firefox, /usr/bin/chromium, /opt/erp/**, /^/srv/[a-z]+/run$/)\n  \
           no   \"no telnet anywhere\", line 19: port 443 is not in its `ports` (23)\n  \
           no   \"our own\", line 21: 10.20.1.1 is not in its `to` (2001:db8::/32)\n  \
           yes  \"default\", line 24: no rule matches"
    );
    assert_eq!(
        explain("unknown", "x.corp:23"),
        "block, by \"no telnet anywhere\" (/etc/adit/rules.yaml:19)\n  \
           no   \"payroll only from the browser\", line 11: x.corp is not in its `to` \
           (10.20.0.0/16, 10.30.0.1-10.30.0.9, *.finance.corp, /^erp[0-9]+\\.corp$/)\n  \
           yes  \"no telnet anywhere\", line 19: it matches\n  \
           not captured: a captured connection is known by its address, not by a name: this is what one through an entry gets"
    );
}

#[test]
fn an_explanation_is_data_for_programs() {
    let destination = Destination::parse("10.20.1.1:443").expect("valid");
    let firefox = Application::parse("/usr/bin/firefox").expect("valid");
    let explanation = policy(FILE).explain(&destination, &firefox);
    assert_eq!(
        serde_json::to_value(&explanation).expect("valid"),
        serde_json::json!({
            "action": "tunnel",
            "zone": "finance",
            "gateways": null,
            "destination": null,
            "connect": "early",
            "on_down": "hold",
            "with": null,
            "not_captured": null,
            "rule": "payroll only from the browser",
            "file": "/etc/adit/rules.yaml",
            "line": 11,
            "log": false,
            "notify": false,
            "steps": [{
                "rule": "payroll only from the browser",
                "file": "/etc/adit/rules.yaml",
                "line": 11,
                "matched": true,
                "because": "it matches",
            }],
        })
    );
    let zones = "version: 1\nzones: {up: {gateways: [adit@gw]}}\ndefault: tunnel up\n";
    let zone = policy(zones).zone("up").cloned().expect("it is there");
    let up = Policy::for_networks(zone, Vec::new());
    let explanation = up.explain(&destination, &Application::Unknown);
    assert_eq!(
        serde_json::to_value(&explanation).expect("valid"),
        serde_json::json!({
            "action": "pass",
            "zone": null,
            "gateways": null,
            "destination": null,
            "connect": null,
            "on_down": null,
            "with": null,
            "not_captured": null,
            "rule": "default",
            "file": null,
            "line": null,
            "log": false,
            "notify": false,
            "steps": [
                {"rule": "adit up", "file": null, "line": null, "matched": false,
                 "because": "10.20.1.1 is not in its `to` ()"},
                {"rule": "default", "file": null, "line": null, "matched": true, "because": "no rule matches"},
            ],
        })
    );
}

#[test]
fn diagnostics_are_data_for_programs() {
    let errors = parse_file(Path::new("f.yaml"), "version: 1\ndefault: tunnel x\n", &[])
        .expect_err("there is no zone");
    assert_eq!(
        serde_json::to_value(&errors).expect("valid"),
        serde_json::json!([{
            "severity": "error",
            "file": "f.yaml",
            "line": 2,
            "column": 10,
            "message": "no zone is called \"x\"",
            "hint": "define it under `zones:`",
        }])
    );
}

#[test]
fn what_is_said_of_a_flow_tells_each_word_of_its_rule() {
    let text = "version: 1\nzones: {z: {gateways: gw, on_down: hold}}\nrules:\n  - {name: quiet, ports: 25, action: block, with: drop}\n  - {name: no telnet, ports: 23, action: block}\n  - {name: direct, ports: 80, action: pass}\n  - {name: safe, ports: 443, action: tunnel, on_down: reject}\n  - {name: all but them, app: [{path: /b, not: {parent: /c}}, {not: [/a, {unit: u.service}]}], to: {not: [\"*.corp\", 10.0.0.1]}, ports: 81, action: pass}\ndefault: tunnel\n";
    let policy = policy(text);
    let said = |app: &str, to: &str| {
        let application = Application::parse(app).expect("an application");
        let to = Destination::parse(to).expect("a destination");
        let explanation = policy.explain(&to, &application);
        let json = serde_json::to_value(&explanation).expect("a value");
        let words = [&json["on_down"], &json["with"], &json["not_captured"]];
        let words = words.map(|it| it.as_str().unwrap_or("-"));
        let shown = explanation.to_string();
        let first = shown.split(", by").next().unwrap_or_default().to_owned();
        let because = explanation
            .steps()
            .last()
            .expect("one decided")
            .because()
            .to_owned();
        (first, words.join(" "), because)
    };
    let expect = |first: &str, words: &str, because: &str| {
        (first.to_owned(), words.to_owned(), because.to_owned())
    };
    let (unknown, matches) = ("unknown", "it matches");
    let (to, loopback) = ("192.0.2.1", "connections within the host go their own way");
    for (app, to, expected) in [
        (
            unknown,
            format!("{to}:25"),
            expect("block (with: drop)", "- drop -", matches),
        ),
        (
            unknown,
            format!("{to}:23"),
            expect("block", "- reset -", matches),
        ),
        (
            unknown,
            format!("{to}:80"),
            expect("pass", "- - -", matches),
        ),
        (
            unknown,
            format!("{to}:443"),
            expect("tunnel through z (connect: honest)", "reject - -", matches),
        ),
        (
            unknown,
            format!("{to}:1"),
            expect(
                "tunnel through z (connect: honest, on_down: hold)",
                "hold - -",
                "no rule matches",
            ),
        ),
        (
            unknown,
            "127.0.0.1:80".into(),
            expect("pass", &format!("- - {loopback}"), matches),
        ),
        (
            unknown,
            "a.example:81".into(),
            expect(
                "block",
                "- reset a captured connection is known by its address, not by a name: this is what one through an entry gets",
                "its `to` has `not: 10.0.0.1/32`, and the host's address is not known: blocked",
            ),
        ),
        (
            "/a",
            format!("{to}:81"),
            expect(
                "tunnel through z (connect: honest, on_down: hold)",
                "hold - -",
                "no rule matches",
            ),
        ),
        (
            "/x",
            format!("{to}:81"),
            expect(
                "block",
                "- reset -",
                "its `to` has `not: *.corp`, and the host's name is not known: blocked",
            ),
        ),
    ] {
        assert_eq!(said(app, &to), expected, "{app} {to}");
    }
}

#[test]
fn doubt_names_the_entry_and_what_is_not_known() {
    let text = "version: 1\nrules:\n  - {name: a, app: {path: /b, not: {parent: /c}}, action: pass}\n  - {name: b, app: {not: [/a, {unit: u.service}]}, action: pass}\ndefault: block\n";
    let policy = policy(text);
    let to = Destination::parse("192.0.2.1:80").expect("a destination");
    for (app, expected) in [
        (
            "/b",
            "its `app` has `not: {parent: /c}`, and not all its parents are known: blocked",
        ),
        (
            "/x",
            "its `app` has `not: {unit: u.service}`, and its unit is not known: blocked",
        ),
        (
            "unknown",
            "its `app` has `not: /a`, and the application is not known: blocked",
        ),
    ] {
        let application = Application::parse(app).expect("an application");
        let explanation = policy.explain(&to, &application);
        let because = explanation.steps().last().expect("one decided").because();
        assert_eq!(because, expected, "{app}");
    }
}
