//! What a policy gives for a flow, and what can be read from the decision, the kernel's program and the explanation.

mod reading;

use std::path::Path;

use adit_rules::{
    Application, Connect, Decision, Destination, Engine, HostKeys, Identity, Judgement,
    KernelProgram, KernelVerdict, Method, OnDown, Policy, Reach, Zone,
};
use reading::parse_file;

const FILE: &str = include_str!("example.yaml");

fn policy(text: &str) -> Policy {
    parse_file(Path::new("/etc/adit/rules.yaml"), text, &[])
        .unwrap_or_else(|errors| panic!("{errors}"))
        .policy
}

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

/// A step a line.
#[track_caller]
fn check_program(program: &KernelProgram, expected: &str) {
    let word = |verdict| match verdict {
        KernelVerdict::Ask => "ask",
        KernelVerdict::HandOver => "hand over",
        KernelVerdict::Pass => "pass",
        KernelVerdict::Block => "block",
    };
    let mut lines: Vec<String> = Vec::new();
    for step in &program.steps {
        let to: Vec<String> = step.to.iter().map(ToString::to_string).collect();
        let ports: Vec<String> = step
            .ports
            .iter()
            .map(|range| format!("{}-{}", range.start(), range.end()))
            .collect();
        let ports = if ports.is_empty() {
            "all".to_owned()
        } else {
            ports.join(",")
        };
        lines.push(format!("{} {} {ports}", word(step.verdict), to.join(" ")));
    }
    lines.push(format!("else {}", word(program.default)));
    assert_eq!(lines.join("\n"), expected);
}

#[track_caller]
fn check_kernel(rules: &str, expected: &str) {
    let text =
        format!("version: 1\nzones: {{z: {{gateways: [gw]}}}}\ndefault: pass\nrules:\n{rules}");
    check_program(&policy(&text).kernel_program(), expected);
}

#[test]
fn the_kernel_gets_its_share() {
    check_program(
        &policy(FILE).kernel_program(),
        "ask 10.20.0.0/16 10.30.0.1/32 10.30.0.2/31 10.30.0.4/30 10.30.0.8/31 443-443,8000-8100\n\
         block 0.0.0.0/0 ::/0 23-23\n\
         else pass",
    );
    // Neighbours that say the same are one step, and their networks are joined.
    check_kernel(
        "  - {to: 10.0.0.0/9, action: tunnel}\n  - {to: 10.128.0.0/9, app: curl, action: block}\n  - {to: erp.corp, action: block}\n  - {to: 11.0.0.0/8, action: tunnel}\n",
        "ask 10.0.0.0/7 all\nelse pass",
    );
    // Other ports: two steps.
    check_kernel(
        "  - {to: 10.0.0.0/9, ports: [80], action: block}\n  - {to: 10.128.0.0/9, ports: [81], action: block}\n",
        "block 10.0.0.0/9 80-80\nblock 10.128.0.0/9 81-81\nelse pass",
    );
    // Order is kept where verdicts differ.
    check_kernel(
        "  - {to: 10.1.0.0/16, action: pass}\n  - {to: 10.0.0.0/8, action: tunnel}\n",
        "pass 10.1.0.0/16 all\nask 10.0.0.0/8 all\nelse pass",
    );
    // What matches everything is the default; nothing behind it counts.
    check_kernel(
        "  - {to: 10.1.0.0/16, action: pass}\n  - {app: curl, action: block}\n  - {to: 10.0.0.0/8, action: block}\n",
        "pass 10.1.0.0/16 all\nelse ask",
    );
    check_kernel(
        "  - {to: 10.1.0.0/16, action: pass}\n  - {to: [0.0.0.0/0, \"::/0\"], action: block}\n",
        "pass 10.1.0.0/16 all\nelse block",
    );
    // The last step says what the default says.
    check_kernel("  - {to: 10.1.0.0/16, action: pass}\n", "else pass");
    check_kernel("  - {to: \"*.corp\", action: tunnel}\n", "else pass");
}

#[test]
fn steps_that_say_the_same_are_one_where_order_allows() {
    // Rules about other addresses in between do not matter.
    check_kernel(
        "  - {to: 10.1.0.0/16, action: block}\n  - {to: 11.1.0.0/16, action: tunnel}\n  - {to: 10.3.0.0/16, action: block}\n  - {to: 11.3.0.0/16, action: tunnel}\n",
        "block 10.1.0.0/16 10.3.0.0/16 all\nask 11.1.0.0/16 11.3.0.0/16 all\nelse pass",
    );
    // What is about the same addresses and says something else stays before what comes behind it.
    check_kernel(
        "  - {to: 10.1.0.0/16, action: block}\n  - {to: 10.2.3.0/24, action: tunnel}\n  - {to: 10.2.0.0/16, action: block}\n",
        "block 10.1.0.0/16 all\nask 10.2.3.0/24 all\nblock 10.2.0.0/16 all\nelse pass",
    );
    // What the default says needs no step, unless it is an exception to a later one.
    check_kernel(
        "  - {to: 10.1.0.0/16, action: pass}\n  - {to: 12.1.2.3, action: pass}\n  - {to: [11.1.0.0/16, 12.0.0.0/8], action: block}\n",
        "pass 12.1.2.3/32 all\nblock 11.1.0.0/16 12.0.0.0/8 all\nelse pass",
    );
}

#[test]
fn a_large_file_takes_few_steps() {
    let mut rules = String::new();
    for rule in 0..20_000 {
        let network = format!("10.{}.{}.0/24", rule / 256, rule % 256);
        let action = ["block", "pass", "tunnel"][rule % 3];
        let ports = 80 + rule % 2;
        rules += &format!("  - {{to: {network}, ports: {ports}, action: {action}}}\n");
    }
    let text =
        format!("version: 1\nzones: {{z: {{gateways: [gw]}}}}\ndefault: pass\nrules:\n{rules}");
    let program = policy(&text).kernel_program();
    let networks: usize = program.steps.iter().map(|step| step.to.len()).sum();
    assert_eq!((program.steps.len(), networks), (4, 13_333));
    assert!(program.is_whole);
}

#[test]
fn the_kernel_asks_as_the_first_rule_that_could_match_says() {
    // Of one destination the first word counts, whatever the later rules say.
    check_kernel(
        "  - {app: curl, to: 10.1.0.0/16, action: tunnel}\n  - {to: 10.0.0.0/8, action: tunnel, connect: early}\n",
        "ask 10.1.0.0/16 all\nhand over 10.0.0.0/8 all\nelse pass",
    );
    check_kernel(
        "  - {app: curl, to: 10.1.0.0/16, action: tunnel, connect: early}\n  - {to: 10.0.0.0/8, action: tunnel}\n",
        "ask 10.0.0.0/8 all\nelse pass",
    );
    // Whose an early connection is, is asked before it is accepted.
    check_kernel(
        "  - {app: curl, to: 10.1.0.0/16, action: tunnel, connect: early}\n  - {to: 10.1.0.0/16, action: tunnel, connect: early}\n",
        "ask 10.1.0.0/16 all\nhand over 10.1.0.0/16 all\nelse pass",
    );
    // Neighbours with the same networks and ports stay apart when their words differ.
    check_kernel(
        "  - {app: curl, to: 10.0.0.0/8, action: tunnel}\n  - {to: 10.0.0.0/8, action: tunnel, connect: early}\n",
        "ask 10.0.0.0/8 all\nhand over 10.0.0.0/8 all\nelse pass",
    );
    // To pass or to block by the application is a verdict.
    check_kernel(
        "  - {app: curl, to: 10.1.0.0/16, action: pass}\n  - {app: curl, to: 10.2.0.0/16, action: block}\n",
        "ask 10.1.0.0/16 10.2.0.0/16 all\nelse pass",
    );
    // What matches everything is the default, with its word.
    check_kernel(
        "  - {to: 10.1.0.0/16, action: tunnel}\n  - {to: any, action: tunnel, connect: early}\n",
        "ask 10.1.0.0/16 all\nelse hand over",
    );
}

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
    let up = Policy::for_networks(zone("up", OnDown::Reject), Vec::new());
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
