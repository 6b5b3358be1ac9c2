//! Several files and several layers: which rule decides, what a later layer may say, and what is told when something is wrong.

mod includes;
mod leading;

use std::path::{Path, PathBuf};

use adit_rules::{
    Application, Author, Checked, Date, Decision, Destination, Diagnostics, Judgement, Layer,
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
