//! Several files and several layers: which rule decides, what a later layer may say, and what is told when something is wrong.

use std::path::{Path, PathBuf};

use adit_rules::{
    Application, Author, Checked, Date, Decision, Destination, Diagnostics, Host, Judgement, Layer,
    OnDown, Policy,
};

/// Files by their names.
type Files<'a> = &'a [(&'a str, &'a str)];

fn read(layers: &[(Author, &[&str])], files: Files<'_>) -> Result<Checked, Diagnostics> {
    let layers: Vec<Layer> = layers
        .iter()
        .map(|(author, names)| Layer {
            author: *author,
            files: names.iter().map(PathBuf::from).collect(),
        })
        .collect();
    let today = Date::new(2026, 7, 1).expect("there is such a day");
    let mut on_disk = |path: &Path, _: usize| {
        let found = files.iter().find(|(name, _)| Path::new(name) == path);
        let found = found.ok_or_else(|| "there is no such file".to_owned())?;
        Ok(found.1.to_owned())
    };
    Policy::read(&layers, today, &mut on_disk)
}

/// The administrator's `a.yaml`, and `u.yaml` of the user.
fn read_both(administrators: &str, users: &str) -> Result<Checked, Diagnostics> {
    read(
        &[
            (Author::Administrator, &["a.yaml"]),
            (Author::User, &["u.yaml"]),
        ],
        &[("a.yaml", administrators), ("u.yaml", users)],
    )
}

fn judge(policy: &Policy, destination: &Destination, application: &Application) -> Decision {
    match policy.judge(destination, Some(application)) {
        Judgement::Decided(decision) => decision,
        Judgement::Needs(fact) => panic!("{fact:?} was given"),
    }
}

/// `ACTION [ZONE] by RULE` for a connection to `to` of curl.
fn given(policy: &Policy, to: &str) -> String {
    let destination = Destination::parse(to).expect("a destination");
    let decision = judge(policy, &destination, &Application::of("/usr/bin/curl"));
    let zone = decision
        .zone()
        .map_or(String::new(), |zone| format!(" {zone}"));
    format!("{}{zone} by {}", decision.action(), decision.rule())
}

#[track_caller]
fn refused(read: Result<Checked, Diagnostics>, expected: &str) {
    match read {
        Err(errors) => assert_eq!(errors.to_string(), expected),
        Ok(checked) => panic!("it is accepted: {}", checked.warnings),
    }
}

const ADMINISTRATORS: &str = "version: 1
zones: {corp: {gateways: adit@gw.corp.example}}
rules:
  - {name: no telnet, ports: 23, action: block}
  - {name: the office, to: 10.0.0.0/8, action: tunnel}
";

fn with_default(default: &str) -> String {
    format!("{ADMINISTRATORS}default: {default}\n")
}

#[test]
fn what_the_administrator_decides_is_decided() {
    let users = "version: 1
zones: {home: {gateways: gw.home.example}}
rules:
  - {name: telnet for me, to: 192.0.2.7, ports: 23, action: pass}
  - {name: the office for me, to: 10.1.0.0/16, action: pass}
  - {name: my own, to: 192.0.2.0/24, action: tunnel, zone: home}
  - {name: not there, to: 198.51.100.0/24, action: block}
  - {name: by the office, to: 203.0.113.0/24, action: tunnel, zone: corp}
default: pass
tests:
  - {to: \"192.0.2.7:443\", expect: tunnel home}
";
    let checked = read_both(&with_default("pass"), users).expect("it is right");
    let policy = &checked.policy;
    assert_eq!(given(policy, "192.0.2.7:23"), "block by no telnet");
    assert_eq!(given(policy, "10.1.0.1:443"), "tunnel corp by the office");
    assert_eq!(given(policy, "192.0.2.7:443"), "tunnel home by my own");
    assert_eq!(given(policy, "198.51.100.7:443"), "block by not there");
    assert_eq!(
        given(policy, "203.0.113.7:443"),
        "tunnel corp by by the office"
    );
    assert_eq!(given(policy, "192.88.99.1:443"), "pass by default");
    // Who wrote the later layer cannot know what the earlier one will say tomorrow.
    let warnings = checked.warnings.to_string();
    assert!(
        warnings.contains("\"telnet for me\" can never match"),
        "{warnings}"
    );
    assert!(
        warnings.contains("(a.yaml:4) takes all its flows"),
        "{warnings}"
    );
}

#[test]
fn a_later_layer_is_never_less_strict_than_the_default_before_it() {
    let users = "version: 1
zones: {home: {gateways: gw.home.example}}
rules:
  - {name: out, to: 192.0.2.1, action: pass}
  - {name: mine, to: 192.0.2.2, action: tunnel, zone: home}
  - {name: theirs, to: 192.0.2.3, action: tunnel, zone: corp}
  - {name: theirs or out, to: 192.0.2.4, action: tunnel, zone: corp, on_down: pass}
  - {name: not there, to: 192.0.2.5, action: block}
";
    let check = |default: &str, expected: [&str; 6]| {
        let checked = read_both(&with_default(default), users).expect("it is right");
        for (last, expected) in (1..).zip(expected) {
            let to = format!("192.0.2.{last}:443");
            assert_eq!(given(&checked.policy, &to), expected, "{to}, {default}");
        }
        checked
    };
    check(
        "pass",
        [
            "pass by out",
            "tunnel home by mine",
            "tunnel corp by theirs",
            "tunnel corp by theirs or out",
            "block by not there",
            "pass by default",
        ],
    );
    let checked = check(
        "tunnel corp",
        [
            "tunnel corp by out",
            "tunnel corp by mine",
            "tunnel corp by theirs",
            "tunnel corp by theirs or out",
            "block by not there",
            "tunnel corp by default",
        ],
    );
    let there = Destination::parse("192.0.2.4:443").expect("a destination");
    match judge(&checked.policy, &there, &Application::Unknown) {
        Decision::Tunnel(permit) => assert_eq!(permit.on_down(), OnDown::Reject),
        Decision::Pass(_) | Decision::Block(_) => panic!("it is tunnelled"),
    }
    let checked = check(
        "block",
        [
            "block by out",
            "block by mine",
            "block by theirs",
            "block by theirs or out",
            "block by not there",
            "block by default",
        ],
    );
    let first = checked.warnings.to_string();
    let expected = "warning: \"out\" would weaken the default of the administrator, and gives that instead: block
 --> u.yaml:4:40
  |
4 |   - {name: out, to: 192.0.2.1, action: pass}
  |                                        ^^^^
  = hint: a later layer can be stricter than those before it, never less strict";
    assert!(first.contains(expected), "{first}");
}

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

#[test]
fn a_zone_of_an_earlier_layer_is_not_loosened() {
    let users = "version: 1
rules:
  - {name: theirs or out, to: 192.0.2.4, action: tunnel, zone: corp, on_down: pass}
";
    let checked = read_both(&with_default("pass"), users).expect("it is right");
    assert_eq!(
        checked.warnings.to_string(),
        "warning: `on_down: pass` would weaken the zone \"corp\" of an earlier layer, and is `reject` instead
 --> u.yaml:3:79
  |
3 |   - {name: theirs or out, to: 192.0.2.4, action: tunnel, zone: corp, on_down: pass}
  |                                                                               ^^^^
  = hint: a later layer can be stricter than those before it, never less strict"
    );
    let there = Destination::parse("192.0.2.4:443").expect("a destination");
    match judge(&checked.policy, &there, &Application::Unknown) {
        Decision::Tunnel(permit) => assert_eq!(permit.on_down(), OnDown::Reject),
        Decision::Pass(_) | Decision::Block(_) => panic!("it is tunnelled"),
    }
}

#[test]
fn an_earlier_layer_knows_nothing_of_a_later_one() {
    let users =
        "version: 1\nzones: {home: {gateways: gw.home.example}}\nsets: {mine: [192.0.2.1]}\n";
    // With one zone of its own, the administrator need not name it, whatever zones a user has.
    assert!(read_both(&with_default("tunnel"), users).is_ok());
    let naming = |rule: &str| format!("version: 1\nrules:\n  - {rule}\ndefault: pass\n");
    refused(
        read_both(&naming("{to: \"@mine\", action: pass}"), users),
        "error: no set is called \"mine\"
 --> a.yaml:3:10
  |
3 |   - {to: \"@mine\", action: pass}
  |          ^^^^^^^
  = hint: define it under `sets:`; names of users and groups have no `@`",
    );
    refused(
        read_both(&naming("{action: tunnel, zone: home}"), users),
        "error: no zone is called \"home\"
 --> a.yaml:3:28
  |
3 |   - {action: tunnel, zone: home}
  |                            ^^^^
  = hint: define it under `zones:`",
    );
}

#[test]
fn a_layers_tests_are_about_the_layers_up_to_it() {
    let administrators = with_default("pass") + "tests: [{to: \"192.0.2.1:443\", expect: pass}]\n";
    let users = "version: 1\nrules: [{name: not there, to: 192.0.2.1, action: block}]\n";
    let test =
        |expect: &str| format!("{users}tests: [{{to: \"192.0.2.1:443\", expect: {expect}}}]\n");
    assert!(read_both(&administrators, &test("block")).is_ok());
    refused(
        read_both(&administrators, &test("pass")),
        "error: this flow gets block, by \"not there\", and not pass
 --> u.yaml:3:39
  |
3 | tests: [{to: \"192.0.2.1:443\", expect: pass}]
  |                                       ^^^^
  = hint: no rule before that one does what is expected",
    );
}

#[test]
fn names_are_unique_over_all_files() {
    let users = "version: 1
zones: {corp: {gateways: gw.evil.example}}
rules: [{name: the office, to: 192.0.2.1, action: block}]
";
    refused(
        read_both(&with_default("pass"), users),
        "error: the zone \"corp\" is defined already
 --> u.yaml:2:9
  |
2 | zones: {corp: {gateways: gw.evil.example}}
  |         ^^^^
  = hint: it stands at a.yaml:2

error: the name \"the office\" is taken
 --> u.yaml:3:16
  |
3 | rules: [{name: the office, to: 192.0.2.1, action: block}]
  |                ^^^^^^^^^^
  = hint: the rule in a.yaml:5 is called so",
    );
    let set = |text: &str| {
        format!("version: 1\nsets: {{web: [{text}]}}\nrules: [{{to: \"@web\", action: block}}]\n")
    };
    refused(
        read_both(&(set("192.0.2.1") + "default: pass\n"), &set("192.0.2.2")),
        "error: the set \"web\" is defined already
 --> u.yaml:2:8
  |
2 | sets: {web: [192.0.2.2]}
  |        ^^^
  = hint: it stands at a.yaml:2",
    );
}

#[test]
fn rules_without_a_name_are_called_after_their_file() {
    let rules = "version: 1\nrules: [{to: 192.0.2.1, action: block}]\n";
    let layers: &[(Author, &[&str])] = &[(Author::Administrator, &["d/10.yaml", "d/20.yaml"])];
    let other = "version: 1\nrules: [{to: 192.0.2.2, action: block}]\ndefault: pass\n";
    let policy = read(layers, &[("d/10.yaml", rules), ("d/20.yaml", other)])
        .expect("they are right")
        .policy;
    assert_eq!(given(&policy, "192.0.2.1:1"), "block by rule 1 of 10.yaml");
    assert_eq!(given(&policy, "192.0.2.2:1"), "block by rule 1 of 20.yaml");
    let there = Destination::parse("192.0.2.2:1").expect("a destination");
    assert_eq!(
        policy.explain(&there, &Application::Unknown).to_string(),
        "block, by \"rule 1 of 20.yaml\" (d/20.yaml:2)
  no   \"rule 1 of 10.yaml\", d/10.yaml:2: 192.0.2.2 is not in its `to` (192.0.2.1)
  yes  \"rule 1 of 20.yaml\", d/20.yaml:2: it matches"
    );
    let called_so = |name: &str| {
        let rule = format!(
            "version: 1\nrules: [{{name: {name}, to: 192.0.2.2, action: block}}]\ndefault: pass\n"
        );
        read(layers, &[("d/10.yaml", rules), ("d/20.yaml", &rule)])
    };
    refused(
        called_so("rule 1 of 10.yaml"),
        "error: the name \"rule 1 of 10.yaml\" is taken
 --> d/20.yaml:2:16
  |
2 | rules: [{name: rule 1 of 10.yaml, to: 192.0.2.2, action: block}]
  |                ^^^^^^^^^^^^^^^^^
  = hint: the rule in d/10.yaml:2 is called so",
    );
    for free in [
        "rule 01 of 10.yaml",
        "rule 1 of 20.yaml",
        "rule 1",
        "rule 2 of 10.yaml",
    ] {
        assert!(called_so(free).is_ok(), "{free}");
    }
}

#[test]
fn a_layer_has_one_default() {
    let layers: &[(Author, &[&str])] = &[(Author::Administrator, &["1.yaml", "2.yaml"])];
    let one = "version: 1\ndefault: pass\n";
    refused(
        read(layers, &[("1.yaml", one), ("2.yaml", one)]),
        "error: `default` is given already
 --> 2.yaml:2:10
  |
2 | default: pass
  |          ^^^^
  = hint: it stands at 1.yaml:2",
    );
    refused(
        read(layers, &[("1.yaml", "version: 1\n"), ("2.yaml", "version: 1\n")]),
        "error: none of the files has a `default`
 --> 1.yaml:1:1
  |
1 | version: 1
  | ^
  = hint: say what flows get that no rule matches: `default: pass`, `default: block` or `default: tunnel ZONE`",
    );
}

const MAIN: (Author, &[&str]) = (Author::Administrator, &["etc/main.yaml"]);

#[test]
fn included_files_stand_before_the_one_that_includes_them() {
    let files = [
        (
            "etc/main.yaml",
            "version: 1\ninclude: [zones.yaml, more/telnet.yaml]\nrules: [{name: all, to: 10.0.0.0/8, action: tunnel}]\ndefault: pass\n",
        ),
        (
            "etc/zones.yaml",
            "version: 1\nzones: {corp: {gateways: gw.example}}\n",
        ),
        // A path is one from the file that names it.
        (
            "etc/more/telnet.yaml",
            "version: 1\ninclude: ../deep.yaml\nsets: {old: {file: old.txt}}\nrules: [{name: old, to: \"@old\", action: block}]\n",
        ),
        ("etc/more/old.txt", "10.0.0.23\n"),
        (
            "etc/more/../deep.yaml",
            "version: 1\nrules: [{name: deep, to: 10.0.0.1, action: pass}]\n",
        ),
    ];
    let policy = read(&[MAIN], &files).expect("they are right").policy;
    assert_eq!(given(&policy, "10.0.0.1:1"), "pass by deep");
    assert_eq!(given(&policy, "10.0.0.23:1"), "block by old");
    assert_eq!(given(&policy, "10.0.0.2:1"), "tunnel corp by all");
}

#[test]
fn what_is_wrong_with_an_include_is_said_where_it_stands() {
    let main = "version: 1\ninclude: other.yaml\ndefault: pass\n";
    refused(
        read(&[MAIN], &[("etc/main.yaml", main)]),
        "error: etc/other.yaml cannot be read: there is no such file
 --> etc/main.yaml:2:10
  |
2 | include: other.yaml
  |          ^^^^^^^^^^",
    );
    let own = "version: 1\ninclude: main.yaml\n";
    refused(
        read(&[MAIN], &[("etc/main.yaml", main), ("etc/other.yaml", own)]),
        "error: etc/main.yaml is read already
 --> etc/other.yaml:2:10
  |
2 | include: main.yaml
  |          ^^^^^^^^^
  = hint: a file is read once, and does not include itself",
    );
    let wrong = "version: 1\nrules:\n  - {ports: 70000, action: block}\n";
    refused(
        read(
            &[MAIN],
            &[("etc/main.yaml", main), ("etc/other.yaml", wrong)],
        ),
        "error: there is no port 70000
 --> etc/other.yaml:3:13
  |
3 |   - {ports: 70000, action: block}
  |             ^^^^^
  = hint: ports go from 1 to 65535",
    );
    refused(
        read(&[MAIN], &[]),
        "error: etc/main.yaml cannot be read: there is no such file
 --> etc/main.yaml:1:1
  |
1 | \n  | ^",
    );
}

#[test]
fn includes_are_bounded() {
    let message = |names: &dyn Fn(usize) -> String| {
        let mut asked = 0;
        let mut endless = |_: &Path, at_most: usize| {
            asked += 1;
            let text = names(asked);
            if text.len() > at_most {
                return Ok(text[..=at_most].to_owned());
            }
            Ok(text)
        };
        let layer = Layer {
            author: Author::Administrator,
            files: vec!["main.yaml".into()],
        };
        let today = Date::new(2026, 7, 1).expect("there is such a day");
        let errors = Policy::read(&[layer], today, &mut endless).expect_err("it is bounded");
        errors.iter().next().expect("an error").message().to_owned()
    };
    assert_eq!(
        message(&|asked| format!("version: 1\ninclude: {asked}.yaml\n")),
        "too many files include one another"
    );
    let many: Vec<String> = (0..300).map(|number| format!("f{number}")).collect();
    assert_eq!(
        message(&|asked| match asked {
            1 => format!("version: 1\ninclude: [{}]\n", many.join(", ")),
            _ => "version: 1\n".to_owned(),
        }),
        "there are more than 256 rule files"
    );
    assert_eq!(
        message(&|asked| match asked {
            1 => "version: 1\ninclude: [a, b, c]\n".to_owned(),
            _ => format!("version: 1\n{}", "#".repeat(9 << 20)),
        }),
        "the rule files are too large together"
    );
    let list = "a,".repeat(30_000);
    assert_eq!(
        message(&|asked| match asked {
            1 => "version: 1\ninclude: [a, b, c, d]\n".to_owned(),
            _ => format!("version: 1\nsets: {{a{asked}: &a [{list}], b{asked}: *a}}\n"),
        }),
        "the file is too deep, or has too many values"
    );
}
