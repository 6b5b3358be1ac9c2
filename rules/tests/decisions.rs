//! What a policy gives for a flow, and what can be read from the decision.

mod reading;
mod steps;

use adit_rules::{
    Application, Connect, Decision, Destination, Engine, HostKeys, Identity, Judgement, Method,
    OnDown, Policy, Reach, Zone,
};
use reading::policy;
use steps::check_program;

const FILE: &str = include_str!("example.yaml");

fn zone(name: &str, on_down: OnDown) -> Zone {
    Zone {
        name: name.to_owned(),
        gateways: vec!["adit@gw".parse().expect("valid")],
        identity: None,
        certificate: None,
        methods: vec![Method::PublicKey],
        known_hosts: Vec::new(),
        host_keys: HostKeys::Strict,
        reach: Reach::default(),
        engine: Engine::Auto,
        hands_over: false,
        on_down,
        connect: Connect::Honest,
    }
}

fn decide(policy: &Policy, app: &str, to: &str) -> Decision {
    let destination = Destination::parse(to).expect("valid");
    let application = Application::parse(app).expect("valid");
    match policy.judge(&destination, Some(&application)) {
        Judgement::Decided(decision) => decision,
        Judgement::Needs(_) => panic!("the application was given"),
    }
}

#[track_caller]
fn check(app: &str, to: &str, action: &str, rule: &str) {
    let decision = decide(&policy(FILE), app, to);
    assert_eq!((decision.action(), decision.rule()), (action, rule));
}

#[test]
fn the_first_rule_that_matches_wins() {
    let payroll = "payroll only from the browser";
    check("/usr/bin/firefox", "10.20.1.1:443", "tunnel", payroll);
    check("/usr/bin/chromium", "10.20.1.1:8050", "tunnel", payroll);
    check("/snap/chromium", "10.20.1.1:443", "pass", "default");
    check("/opt/erp/bin/x", "10.30.0.9:443", "tunnel", payroll);
    check("/opt/erp/bin/x", "10.30.0.10:443", "pass", "default");
    check("/srv/pay/run", "erp7.corp:443", "tunnel", payroll);
    check("/srv/pay/run", "a.b.finance.corp:443", "tunnel", payroll);
    check("/srv/pay/run", "finance.corp:443", "pass", "default");
    check("unknown", "10.20.1.1:443", "pass", "default");
    check(
        "/usr/bin/firefox",
        "10.20.1.1:23",
        "block",
        "no telnet anywhere",
    );
    check("unknown", "[2001:db8::9]:80", "pass", "our own");
}

#[track_caller]
fn check_question(to: &str, expected: Option<&str>) {
    let destination = Destination::parse(to).expect("valid");
    let rule = match policy(FILE).judge(&destination, None) {
        Judgement::Needs(_) => None,
        Judgement::Decided(decision) => Some(decision.rule().to_owned()),
    };
    assert_eq!(rule.as_deref(), expected, "{to}");
}

#[test]
fn the_application_is_asked_for_only_when_it_matters() {
    check_question("10.20.1.1:443", None);
    check_question("erp7.corp:443", None);
    check_question("10.20.1.1:80", Some("default"));
    check_question("10.20.1.1:23", Some("no telnet anywhere"));
    check_question("192.0.2.1:443", Some("default"));
}

#[test]
fn a_permit_carries_the_one_destination_normalized() {
    let policy = policy("version: 1\nzones: {z: {gateways: [gw]}}\ndefault: tunnel\n");
    let destination = Destination {
        address: "::ffff:10.0.0.1".parse().ok(),
        name: Some("ERP.Corp.".to_owned()),
        port: 443,
    };
    let Judgement::Decided(Decision::Tunnel(permit)) = policy.judge(&destination, None) else {
        panic!("the default tunnels");
    };
    let expected = Destination {
        address: "10.0.0.1".parse().ok(),
        name: Some("erp.corp".to_owned()),
        port: 443,
    };
    assert_eq!(permit.destination(), &expected);
    assert_eq!((permit.zone(), permit.rule()), ("z", "default"));
}

#[track_caller]
fn check_elsewhere(keys: &str, asked: &str, expected: &str) {
    let text = format!(
        "version: 1\nzones: {{z: {{gateways: [gw]}}}}\ndefault: block\nrules:\n  - {{ports: [1-9], action: tunnel, {keys}}}\n"
    );
    let Decision::Tunnel(permit) = decide(&policy(&text), "unknown", asked) else {
        panic!("the rule tunnels");
    };
    let expected = Destination::parse(expected).expect("valid");
    assert_eq!(permit.destination(), &expected);
    assert_eq!(permit.elsewhere(), Some(&expected));
}

#[test]
fn a_rule_tunnels_to_another_host_or_port() {
    check_elsewhere("destination: 10.9.9.9", "10.0.0.1:1", "10.9.9.9:1");
    check_elsewhere(
        "destination: db.corp, port: 5432",
        "10.0.0.1:1",
        "db.corp:5432",
    );
    check_elsewhere("port: 5432", "a.corp:9", "a.corp:5432");
    check_elsewhere(
        "destination: '2001:db8::1'",
        "10.0.0.1:1",
        "[2001:db8::1]:1",
    );
    let plain = policy("version: 1\nzones: {z: {gateways: [gw]}}\ndefault: tunnel\n");
    let Decision::Tunnel(permit) = decide(&plain, "unknown", "10.0.0.1:1") else {
        panic!("the default tunnels");
    };
    assert_eq!(permit.elsewhere(), None);
}

const ENTRANCES: &str = r#"version: 1
zones: {z: {gateways: [gw]}}
entries: {socks5: 1080, http: ["127.0.0.1:3128"]}
tunnels:
  - {name: db, listen: "127.0.0.1:5433", to: "db.corp:5432"}
  - {name: mail, listen: 2525, to: "10.0.0.25:25", on_down: hold}
rules:
  - {app: /usr/bin/nc, to: db.corp, action: block}
  - {to: db.corp, action: pass}
default: block
"#;

#[track_caller]
fn check_static(tunnel: &str, app: Option<&str>, expected: &str) {
    let application = app.map(|app| Application::parse(app).expect("valid"));
    let said = match policy(ENTRANCES).judge_static(tunnel, application.as_ref()) {
        Judgement::Needs(fact) => format!("needs {fact:?}"),
        Judgement::Decided(Decision::Tunnel(permit)) => format!(
            "{} through {} by {}, {}",
            permit.destination(),
            permit.zone(),
            permit.rule(),
            permit.on_down().as_str()
        ),
        Judgement::Decided(decision) => format!("{} by {}", decision.action(), decision.rule()),
    };
    assert_eq!(said, expected);
}

#[test]
fn a_static_tunnel_leads_through_its_zone_unless_a_rule_blocks() {
    check_static("db", None, "needs Path");
    let tunnelled = "db.corp:5432 through z by db, reject";
    check_static("db", Some("/usr/bin/psql"), tunnelled);
    check_static("db", Some("/usr/bin/nc"), "block by rule 1");
    // Whatever the default is.
    check_static("mail", None, "10.0.0.25:25 through z by mail, hold");
    check_static("none", None, "block by none");
}

#[test]
fn a_policy_says_where_to_listen() {
    let policy = policy(ENTRANCES);
    let entries = policy.entries().iter();
    let entries: Vec<_> = entries
        .map(|entry| format!("{} {}", entry.protocol.as_str(), entry.listen))
        .collect();
    assert_eq!(entries, ["socks5 1080", "http 127.0.0.1:3128"]);
    let tunnels = policy.static_tunnels().iter();
    let tunnels: Vec<_> = tunnels
        .map(|it| format!("{} {} {}", it.name(), it.listen(), it.to()))
        .collect();
    assert_eq!(
        tunnels,
        ["db 127.0.0.1:5433 db.corp:5432", "mail 2525 10.0.0.25:25"]
    );
}

#[track_caller]
fn check_on_down(zone_says: &str, rule_says: &str, expected: OnDown) {
    let text = format!(
        "version: 1\nzones: {{z: {{gateways: [gw]{zone_says}}}}}\ndefault: block\nrules:\n  - {{action: tunnel{rule_says}}}\n"
    );
    let Decision::Tunnel(permit) = decide(&policy(&text), "unknown", "10.0.0.1:1") else {
        panic!("the rule tunnels");
    };
    assert_eq!(permit.on_down(), expected);
    let way_out = permit.when_down();
    assert_eq!(way_out.is_some(), expected == OnDown::Pass);
    if let Some(pass) = way_out {
        assert_eq!(pass.destination(), permit.destination());
        assert_eq!(pass.rule(), "rule 1");
    }
}

#[test]
fn the_rules_word_goes_before_the_zones() {
    check_on_down("", "", OnDown::Reject);
    check_on_down(", on_down: hold", "", OnDown::Hold);
    check_on_down(", on_down: pass", "", OnDown::Pass);
    check_on_down(", on_down: pass", ", on_down: reject", OnDown::Reject);
    check_on_down("", ", on_down: pass", OnDown::Pass);
}

#[track_caller]
fn check_connect(zone_says: &str, rule_says: &str, expected: Connect) {
    let text = format!(
        "version: 1\nzones: {{z: {{gateways: [gw]{zone_says}}}}}\ndefault: tunnel\nrules:\n  - {{ports: [1], action: tunnel{rule_says}}}\n"
    );
    let policy = policy(&text);
    let connect = |to| {
        let Decision::Tunnel(permit) = decide(&policy, "unknown", to) else {
            panic!("all is tunnelled");
        };
        permit.connect()
    };
    assert_eq!(connect("10.0.0.1:1"), expected);
    let of_zone = policy.zone("z").map(|zone| zone.connect);
    assert_eq!(
        Some(connect("10.0.0.1:2")),
        of_zone,
        "the default has no word of its own"
    );
}

#[test]
fn the_rules_word_for_connect_goes_before_the_zones() {
    check_connect("", "", Connect::Honest);
    check_connect(", connect: early", "", Connect::Early);
    check_connect(", connect: honest", "", Connect::Honest);
    check_connect(", connect: early", ", connect: honest", Connect::Honest);
    check_connect("", ", connect: early", Connect::Early);
}

#[test]
fn a_zone_is_read_as_written() {
    let policy = policy(FILE);
    let gateways = ["adit@gw1.finance.example:443", "adit@[2001:db8::2]:443"];
    let expected = Zone {
        gateways: gateways.map(|text| text.parse().expect("valid")).to_vec(),
        identity: Some(Identity::File("~/.ssh/id_ed25519".into())),
        known_hosts: vec!["~/.ssh/known_hosts".into()],
        ..zone("finance", OnDown::Reject)
    };
    assert_eq!(policy.zones(), std::slice::from_ref(&expected));
    assert_eq!(policy.zone("finance"), Some(&expected));
    assert_eq!(policy.zone("none"), None);
}

#[test]
fn networks_alone_make_a_policy() {
    let networks = ["10.1.2.3/8", "2001:db8::/32", "::ffff:192.0.2.0/120"];
    let networks = networks.map(|text| text.parse().expect("valid")).to_vec();
    let policy = Policy::for_networks(zone("up", OnDown::Hold), networks);
    for (to, action, rule) in [
        ("10.255.0.1:443", "tunnel", "adit up"),
        ("[2001:db8::1]:22", "tunnel", "adit up"),
        ("192.0.2.9:1", "tunnel", "adit up"),
        ("11.0.0.1:443", "pass", "default"),
        ("erp.corp:443", "pass", "default"),
    ] {
        let decision = decide(&policy, "unknown", to);
        assert_eq!((decision.action(), decision.rule()), (action, rule), "{to}");
    }
    check_program(
        &policy.kernel_program(),
        "ask 10.0.0.0/8 192.0.2.0/24 2001:db8::/32 all\nelse pass",
    );
}

#[test]
fn networks_alone_may_be_early() {
    let early = Zone {
        connect: Connect::Early,
        ..zone("up", OnDown::Reject)
    };
    let policy = Policy::for_networks(early, vec!["10.0.0.0/8".parse().expect("valid")]);
    check_program(
        &policy.kernel_program(),
        "hand over 10.0.0.0/8 all\nelse pass",
    );
}
