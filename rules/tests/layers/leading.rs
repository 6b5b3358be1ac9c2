//! Where a rule or a static tunnel of a later layer may lead.

use adit_rules::{Application, Decision, Destination, Host, Judgement};

use super::{judge, read_both};

/// What a connection to the user's static tunnel to 10.1.0.1:443 gets.
fn through_a_tunnel(administrators: &str, tunnel: &str) -> String {
    let users = format!(
        "version: 1\nzones: {{own: {{gateways: [gw3]}}}}\ntunnels:\n  - {{name: mine, listen: 7000, to: \"10.1.0.1:443\", \
         {tunnel}}}\nrules:\n  - {{name: own rule, to: 10.1.0.0/16, ports: 443, action: tunnel, zone: own}}\n"
    );
    let administrators = format!(
        "version: 1\nzones:\n  a: {{gateways: [gw1]}}\n  b: {{gateways: [gw2]}}\nrules:\n  - {{name: r, to: 10.1.0.0/16, \
         {administrators}}}\ndefault: pass\n"
    );
    let policy = read_both(&administrators, &users).expect("good").policy;
    match policy.judge_static("mine", Some(&Application::of("/usr/bin/curl"))) {
        Judgement::Decided(decision) => {
            let zone = decision.zone().unwrap_or_default();
            format!("{} {zone} by {}", decision.action(), decision.rule())
        }
        Judgement::Needs(fact) => panic!("{fact:?} was given"),
    }
}

#[test]
fn a_static_tunnel_of_a_later_layer_never_weakens_a_rule_before_it() {
    let by_r = "block  by r";
    assert_eq!(
        through_a_tunnel("action: tunnel, zone: a", "zone: own"),
        by_r
    );
    assert_eq!(through_a_tunnel("action: tunnel, zone: a", "zone: b"), by_r);
    assert_eq!(through_a_tunnel("action: block", "zone: own"), by_r);
    let same = through_a_tunnel("action: tunnel, zone: a", "zone: a");
    assert_eq!(same, "tunnel a by mine");
    let passed = through_a_tunnel("action: pass", "zone: own");
    assert_eq!(passed, "tunnel own by mine");
    // Another port: only the user's own rule is about it.
    let other = through_a_tunnel("ports: 80, action: tunnel, zone: a", "zone: b");
    assert_eq!(other, "tunnel b by mine");
}

const BLOCKED_AND_TUNNELLED: &str = "version: 1
zones: {a: {gateways: [gw1]}, b: {gateways: [gw2]}}
rules:
  - {name: never, to: 10.0.0.5, action: block, with: drop}
  - {name: way, to: 10.0.0.0/8, ports: 443, action: tunnel, zone: a}
  - {name: free, to: 10.0.0.0/8, action: pass}
  - {name: only known, to: 172.16.0.0/12, app: {not: /usr/bin/nc}, action: tunnel, zone: a}
default: pass
";

/// What a connection to 192.0.2.1:443 gets that the user's rule leads elsewhere.
fn led(words: &str, application: &Application) -> String {
    led_behind(BLOCKED_AND_TUNNELLED, words, application)
}

fn led_behind(administrators: &str, words: &str, application: &Application) -> String {
    let users =
        format!("version: 1\nrules: [{{name: u, to: 192.0.2.1, action: tunnel, {words}}}]\n");
    let policy = read_both(administrators, &users)
        .expect("it is right")
        .policy;
    let there = Destination::parse("192.0.2.1:443").expect("a destination");
    let decision = judge(&policy, &there, application);
    let explanation = policy.explain(&there, application);
    assert_eq!(explanation.decision(), &decision, "{words}");
    assert_eq!(
        explanation.steps().last().map(|step| step.rule()),
        Some(decision.rule())
    );
    match decision {
        Decision::Tunnel(permit) => format!("tunnel {} to {}", permit.zone(), permit.destination()),
        Decision::Block(block) => format!("block {} by {}", block.refusal().as_str(), block.rule()),
        Decision::Pass(_) => "pass".to_owned(),
    }
}

/// Only the gateway knows what is behind it, and its policy has to deny that.
#[test]
fn a_name_that_a_later_layer_leads_to_is_judged_by_rules_for_names() {
    let by_name = "  - {name: no vault, to: \"*.vault.corp\", action: block}\n";
    let administrators = BLOCKED_AND_TUNNELLED.replace("rules:\n", &format!("rules:\n{by_name}"));
    let curl = Application::of("/usr/bin/curl");
    let check = |words: &str, expected: &str| {
        assert_eq!(
            led_behind(&administrators, words, &curl),
            expected,
            "{words}"
        );
    };
    check(
        "zone: a, destination: a.vault.corp",
        "block reset by no vault",
    );
    check("zone: a, destination: a.corp", "tunnel a to a.corp:443");
}

#[test]
fn a_rule_of_a_later_layer_leads_nowhere_where_an_earlier_one_would_not() {
    let curl = Application::of("/usr/bin/curl");
    let check = |words: &str, expected: &str| assert_eq!(led(words, &curl), expected, "{words}");
    check("zone: a, destination: 10.0.0.5", "block drop by never");
    check("zone: b, destination: 10.0.0.6", "block reset by way");
    check("zone: a, destination: 10.0.0.6", "tunnel a to 10.0.0.6:443");
    // What may pass may be tunnelled.
    check(
        "zone: b, destination: 10.0.0.6, port: 80",
        "tunnel b to 10.0.0.6:80",
    );
    check(
        "zone: b, destination: 198.51.100.1",
        "tunnel b to 198.51.100.1:443",
    );
    check(
        "zone: b, destination: 172.16.0.1",
        "block reset by only known",
    );
    let unknown = led("zone: a, destination: 172.16.0.1", &Application::Unknown);
    assert_eq!(unknown, "block reset by only known");
    let nc = led(
        "zone: b, destination: 172.16.0.1",
        &Application::of("/usr/bin/nc"),
    );
    assert_eq!(nc, "tunnel b to 172.16.0.1:443");
}

#[test]
fn an_earlier_layer_asks_for_the_application_of_what_is_led_elsewhere() {
    let users =
        "version: 1\nrules: [{to: 192.0.2.1, action: tunnel, zone: b, destination: 172.16.0.1}]\n";
    let policy = read_both(BLOCKED_AND_TUNNELLED, users)
        .expect("it is right")
        .policy;
    let there = Destination::parse("192.0.2.1:443").expect("a destination");
    assert!(matches!(policy.judge(&there, None), Judgement::Needs(_)));
    let other = users.replace("172.16.0.1", "198.51.100.1");
    let policy = read_both(BLOCKED_AND_TUNNELLED, &other)
        .expect("it is right")
        .policy;
    assert!(matches!(policy.judge(&there, None), Judgement::Decided(_)));
}

#[test]
fn it_is_explained_that_a_rule_leads_nowhere() {
    let users = "version: 1\nrules: [{name: u, to: 192.0.2.1, action: tunnel, zone: b, destination: 10.0.0.6}]\n";
    let policy = read_both(BLOCKED_AND_TUNNELLED, users)
        .expect("it is right")
        .policy;
    let there = Destination::parse("192.0.2.1:443").expect("a destination");
    let curl = Application::of("/usr/bin/curl");
    let text = policy.explain(&there, &curl).to_string();
    let expected = "block, by \"way\" (a.yaml:5)
  no   \"never\", a.yaml:4: 192.0.2.1 is not in its `to` (10.0.0.5)
  no   \"way\", a.yaml:5: 192.0.2.1 is not in its `to` (10.0.0.0/8)
  no   \"free\", a.yaml:6: 192.0.2.1 is not in its `to` (10.0.0.0/8)
  no   \"only known\", a.yaml:7: 192.0.2.1 is not in its `to` (172.16.0.0/12)
  yes  \"u\", u.yaml:2: it matches
  yes  \"way\", a.yaml:5: it tunnels otherwise 10.0.0.6:443, where \"u\" of a later layer leads: blocked";
    assert_eq!(text, expected);
    // Of the host as a whole: port 443 is closed there, and the others are not.
    let host = Host::parse("192.0.2.1").expect("a host");
    let matters = policy
        .explain_host(&host, &curl)
        .expect_err("it depends on the port");
    assert!(
        matters.to_string().contains("\"way\" is about port 443"),
        "{matters}"
    );
}
