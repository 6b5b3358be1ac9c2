//! What an administrator sees when a rule file is wrong.

use std::path::Path;

use adit_rules::Policy;

/// `text` is refused with exactly these diagnostics.
#[track_caller]
fn check(text: &str, expected: &str) {
    let errors = Policy::parse(Path::new("rules.yaml"), text).expect_err("the file is refused");
    assert_eq!(errors.to_string(), expected.trim_matches('\n'));
}

/// `text` is accepted with exactly these warnings.
#[track_caller]
fn check_warnings(text: &str, expected: &str) {
    let checked = Policy::parse(Path::new("rules.yaml"), text)
        .unwrap_or_else(|errors| panic!("the file is accepted, but:\n{errors}"));
    assert_eq!(checked.warnings.to_string(), expected.trim_matches('\n'));
}

/// A file with the zone `finance` and these rules.
fn with_rules(rules: &str) -> String {
    format!("version: 1\nzones: {{finance: {{gateways: [gw]}}}}\ndefault: tunnel\nrules:\n{rules}")
}

#[track_caller]
fn check_rules(rules: &str, expected: &str) {
    check(&with_rules(rules), expected);
}

#[test]
fn an_empty_file() {
    check(
        r#""#,
        r#"
error: the file is empty
 --> rules.yaml:1:1
  |
1 | 
  | ^
  = hint: the least that makes sense: `version: 1` and `default: pass`
"#,
    );
    check(
        r#"# nothing yet
"#,
        r#"
error: the file is empty
 --> rules.yaml:2:1
  |
2 | 
  | ^
  = hint: the least that makes sense: `version: 1` and `default: pass`
"#,
    );
}

#[test]
fn a_file_that_is_no_yaml() {
    check(
        r#"version: 1
rules: [
"#,
        r#"
error: this is not YAML: unclosed bracket '['
 --> rules.yaml:2:8
  |
2 | rules: [
  |        ^
"#,
    );
    check(
        r#"version: 1
default: pass: block
"#,
        r#"
error: this is not YAML: mapping values are not allowed in this context
 --> rules.yaml:2:14
  |
2 | default: pass: block
  |              ^
"#,
    );
    check(
        r#"version: 1
version: 1
"#,
        r#"
error: the key "version" is given twice
 --> rules.yaml:2:1
  |
2 | version: 1
  | ^^^^^^^
  = hint: keep one of them
"#,
    );
    check(
        r#"version: 1
---
version: 1
"#,
        r#"
error: a second document begins
 --> rules.yaml:3:1
  |
3 | version: 1
  | ^
  = hint: a rule file is one document
"#,
    );
}

#[test]
fn a_file_of_another_shape() {
    check(
        r#"- a
- b
"#,
        r#"
error: the file is not a mapping
 --> rules.yaml:1:1
  |
1 | - a
  | ^
  = hint: write `key: value` lines
"#,
    );
    check(
        r#"just text
"#,
        r#"
error: the file is not a mapping
 --> rules.yaml:1:1
  |
1 | just text
  | ^^^^^^^^^
  = hint: write `key: value` lines
"#,
    );
    check(
        r#"version: 1
default: pass
rules: {a: b}
tests: x
zones: [a]
"#,
        r#"
error: `rules` is not a list
 --> rules.yaml:3:8
  |
3 | rules: {a: b}
  |        ^
  = hint: begin each entry with `- `

error: `tests` is not a list
 --> rules.yaml:4:8
  |
4 | tests: x
  |        ^
  = hint: begin each entry with `- `

error: `zones` is not a mapping
 --> rules.yaml:5:8
  |
5 | zones: [a]
  |        ^
  = hint: write `key: value` lines
"#,
    );
    check(
        r#"version: 1
default: pass
rules: [x, [y], ~]
"#,
        r#"
error: rule 1 is not a mapping
 --> rules.yaml:3:9
  |
3 | rules: [x, [y], ~]
  |         ^
  = hint: write `key: value` lines

error: rule 2 is not a mapping
 --> rules.yaml:3:12
  |
3 | rules: [x, [y], ~]
  |            ^
  = hint: write `key: value` lines

error: rule 3 is not a mapping
 --> rules.yaml:3:17
  |
3 | rules: [x, [y], ~]
  |                 ^
  = hint: write `key: value` lines
"#,
    );
}

#[test]
fn a_wrong_version() {
    check(
        r#"version: 2
new: thing
"#,
        r#"
error: version "2" is not known
 --> rules.yaml:1:10
  |
1 | version: 2
  |          ^
  = hint: this program reads `version: 1`
"#,
    );
    check(
        r#"rules: []
"#,
        r#"
error: the file has no `version`
 --> rules.yaml:1:1
  |
1 | rules: []
  | ^
  = hint: this program reads `version: 1`

error: the file has no `default`
 --> rules.yaml:1:1
  |
1 | rules: []
  | ^
  = hint: say what flows get that no rule matches: `default: pass`, `default: block` or `default: tunnel ZONE`
"#,
    );
}

#[test]
fn unknown_keys() {
    check(
        r#"version: 1
defautl: pass
fallback: pass
"#,
        r#"
error: the file has no key "defautl"
 --> rules.yaml:2:1
  |
2 | defautl: pass
  | ^^^^^^^
  = hint: did you mean `default`?

error: the file has no key "fallback"
 --> rules.yaml:3:1
  |
3 | fallback: pass
  | ^^^^^^^^
  = hint: its keys are version, zones, rules, default, tests
"#,
    );
    check(
        r#"version: 1
default: pass
zones:
  finance: {gateways: [gw], on-down: hold, ports: [1]}
tests:
  - {app: /bin/x, to: "a:1", expected: pass}
"#,
        r#"
error: the zone "finance" has no key "on-down"
 --> rules.yaml:4:29
  |
4 |   finance: {gateways: [gw], on-down: hold, ports: [1]}
  |                             ^^^^^^^
  = hint: did you mean `on_down`?

error: the zone "finance" has no key "ports"
 --> rules.yaml:4:44
  |
4 |   finance: {gateways: [gw], on-down: hold, ports: [1]}
  |                                            ^^^^^
  = hint: its keys are gateways, identity, known_hosts, engine, on_down, connect

error: a test has no key "expected"
 --> rules.yaml:6:30
  |
6 |   - {app: /bin/x, to: "a:1", expected: pass}
  |                              ^^^^^^^^
  = hint: did you mean `expect`?
"#,
    );
}

#[test]
fn a_default_of_no_kind() {
    check(
        r#"version: 1
default: allow
"#,
        r#"
error: "allow" is not a default
 --> rules.yaml:2:10
  |
2 | default: allow
  |          ^^^^^
  = hint: write `pass`, `block` or `tunnel ZONE`
"#,
    );
    check(
        r#"version: 1
default: tunnel
"#,
        r#"
error: there is no zone to tunnel through
 --> rules.yaml:2:10
  |
2 | default: tunnel
  |          ^^^^^^
  = hint: define one: `zones: {NAME: {gateways: [USER@HOST:PORT]}}`
"#,
    );
    check(
        r#"version: 1
zones: {a: {gateways: [x]}, b: {gateways: [y]}}
default: tunnel
"#,
        r#"
error: it is not said through which zone
 --> rules.yaml:3:10
  |
3 | default: tunnel
  |          ^^^^^^
  = hint: name one: a, b
"#,
    );
    check(
        r#"version: 1
zones: {a: {gateways: [x]}}
default: tunnel b
"#,
        r#"
error: no zone is called "b"
 --> rules.yaml:3:10
  |
3 | default: tunnel b
  |          ^^^^^^^^
  = hint: the zones are a
"#,
    );
    check(
        r#"version: 1
default: [pass]
"#,
        r#"
error: `default` is one value, not a list
 --> rules.yaml:2:10
  |
2 | default: [pass]
  |          ^
"#,
    );
}

#[test]
fn wrong_zones() {
    check(
        r#"version: 1
default: tunnel finance
zones:
  finance:
    gateways: ["adit@gw:70000", "@gw", "2001:db8::1"]
    identity: id_ed25519
    known_hosts: ./known_hosts
    engine: openssh
    on_down: stop
    connect: earli
"#,
        r#"
error: there is no port 70000
 --> rules.yaml:5:16
  |
5 |     gateways: ["adit@gw:70000", "@gw", "2001:db8::1"]
  |                ^^^^^^^^^^^^^^^
  = hint: ports go from 1 to 65535

error: "" is not the name of a user
 --> rules.yaml:5:33
  |
5 |     gateways: ["adit@gw:70000", "@gw", "2001:db8::1"]
  |                                 ^^^^^
  = hint: a gateway is written USER@HOST or USER@HOST:PORT

error: 2001:db8::1 stands without brackets
 --> rules.yaml:5:40
  |
5 |     gateways: ["adit@gw:70000", "@gw", "2001:db8::1"]
  |                                        ^^^^^^^^^^^^^
  = hint: write [2001:db8::1] or [2001:db8::1]:PORT

error: "id_ed25519" is not an absolute path
 --> rules.yaml:6:15
  |
6 |     identity: id_ed25519
  |               ^^^^^^^^^^
  = hint: begin it with `/`, or with `~/` for the user's home

error: "./known_hosts" is not an absolute path
 --> rules.yaml:7:18
  |
7 |     known_hosts: ./known_hosts
  |                  ^^^^^^^^^^^^^
  = hint: begin it with `/`, or with `~/` for the user's home

error: the engine "openssh" is not available in this version
 --> rules.yaml:8:13
  |
8 |     engine: openssh
  |             ^^^^^^^
  = hint: write `auto` or `embedded`

error: "stop" is not a word for `on_down`
 --> rules.yaml:9:14
  |
9 |     on_down: stop
  |              ^^^^
  = hint: write one of reject, hold, pass

error: "earli" is not a word for `connect`
  --> rules.yaml:10:14
   |
10 |     connect: earli
   |              ^^^^^
   = hint: did you mean `early`?
"#,
    );
    check(
        r#"version: 1
default: pass
zones:
  a b: {gateways: [gw]}
  none: {}
  empty: {gateways: []}
  e: {gateways: [gw], engine: embeded}
"#,
        r#"
error: "a b" cannot be the name of a zone
 --> rules.yaml:4:3
  |
4 |   a b: {gateways: [gw]}
  |   ^^^
  = hint: take 1 to 64 letters, digits, `-`, `_` and `.`

error: the zone "none" has no gateways
 --> rules.yaml:5:3
  |
5 |   none: {}
  |   ^^^^
  = hint: write `gateways: [USER@HOST:PORT]`

error: the list of `gateways` is empty
 --> rules.yaml:6:21
  |
6 |   empty: {gateways: []}
  |                     ^
  = hint: write at least one gateway

error: "embeded" is not an engine
 --> rules.yaml:7:31
  |
7 |   e: {gateways: [gw], engine: embeded}
  |                               ^^^^^^^
  = hint: did you mean `embedded`?
"#,
    );
}

#[test]
fn unknown_keys_of_rules() {
    check_rules(
        r#"  - {name: a, port: [443], action: pass}
  - {nme: b, action: block}
"#,
        r#"
error: rule 1 has no key "port"
 --> rules.yaml:5:15
  |
5 |   - {name: a, port: [443], action: pass}
  |               ^^^^
  = hint: did you mean `ports`?

error: rule 2 has no key "nme"
 --> rules.yaml:6:6
  |
6 |   - {nme: b, action: block}
  |      ^^^
  = hint: did you mean `name`?
"#,
    );
}

#[test]
fn names_that_are_taken() {
    check_rules(
        r#"  - {name: a, ports: [1], action: pass}
  - {name: a, ports: [2], action: pass}
  - {name: default, ports: [3], action: pass}
  - {name: rule 5, ports: [4], action: pass}
  - {ports: [5], action: pass}
"#,
        r#"
error: the name "a" is taken
 --> rules.yaml:6:12
  |
6 |   - {name: a, ports: [2], action: pass}
  |            ^
  = hint: the rule in line 5 is called so

error: the name "default" is taken
 --> rules.yaml:7:12
  |
7 |   - {name: default, ports: [3], action: pass}
  |            ^^^^^^^
  = hint: what decides when no rule matches is called so

error: the name "rule 5" is taken
 --> rules.yaml:8:12
  |
8 |   - {name: rule 5, ports: [4], action: pass}
  |            ^^^^^^
  = hint: the rule in line 9 is called so
"#,
    );
    check_rules(
        r#"  - {name: "", ports: [1], action: pass}
  - {name: "a\nb", ports: [2], action: pass}
"#,
        r#"
error: a name is empty
 --> rules.yaml:5:12
  |
5 |   - {name: "", ports: [1], action: pass}
  |            ^^
  = hint: leave the key out: the rule is then called by its position

error: a name has control characters or several lines
 --> rules.yaml:6:12
  |
6 |   - {name: "a\nb", ports: [2], action: pass}
  |            ^^^^^^
"#,
    );
}

#[test]
fn zones_that_no_one_defined() {
    check_rules(
        r#"  - {name: a, action: tunnel, zone: finanse}
"#,
        r#"
error: no zone is called "finanse"
 --> rules.yaml:5:37
  |
5 |   - {name: a, action: tunnel, zone: finanse}
  |                                     ^^^^^^^
  = hint: did you mean "finance"?
"#,
    );
    check_rules(
        r#"  - {name: a, ports: [1], action: tunnel, zone: warehouse}
  - {name: b, action: tunnel finance}
"#,
        r#"
error: no zone is called "warehouse"
 --> rules.yaml:5:49
  |
5 |   - {name: a, ports: [1], action: tunnel, zone: warehouse}
  |                                                 ^^^^^^^^^
  = hint: the zones are finance

error: "tunnel finance" is not an action
 --> rules.yaml:6:23
  |
6 |   - {name: b, action: tunnel finance}
  |                       ^^^^^^^^^^^^^^
  = hint: write `action: tunnel` and `zone: finance`
"#,
    );
}

#[test]
fn actions() {
    check_rules(
        r#"  - {name: a, ports: [1], action: allow}
  - {name: b, ports: [2], action: blok}
  - {name: c, ports: [3]}
"#,
        r#"
error: "allow" is not an action
 --> rules.yaml:5:35
  |
5 |   - {name: a, ports: [1], action: allow}
  |                                   ^^^^^
  = hint: write one of tunnel, pass, block

error: "blok" is not an action
 --> rules.yaml:6:35
  |
6 |   - {name: b, ports: [2], action: blok}
  |                                   ^^^^
  = hint: did you mean `block`?

error: rule 3 has no `action`
 --> rules.yaml:7:5
  |
7 |   - {name: c, ports: [3]}
  |     ^
  = hint: write `action: tunnel`, `action: pass` or `action: block`
"#,
    );
    check_rules(
        r#"  - {name: a, ports: [1], action: pass, zone: finance}
  - {name: b, ports: [2], action: block, on_down: hold}
  - {name: c, ports: [3], action: tunnel, on_down: wait}
  - {name: d, ports: [4], action: pass, connect: early}
  - {name: e, ports: [5], action: tunnel, connect: never, on_down: wait}
  - {name: f, ports: [6], action: tunnel, connect: [early]}
  - {name: g, ports: [7], action: tunnel, conect: early}
"#,
        r#"
error: `zone` says nothing without `action: tunnel`
 --> rules.yaml:5:47
  |
5 |   - {name: a, ports: [1], action: pass, zone: finance}
  |                                               ^^^^^^^
  = hint: this rule's action is pass

error: `on_down` says nothing without `action: tunnel`
 --> rules.yaml:6:51
  |
6 |   - {name: b, ports: [2], action: block, on_down: hold}
  |                                                   ^^^^
  = hint: this rule's action is block

error: "wait" is not a word for `on_down`
 --> rules.yaml:7:52
  |
7 |   - {name: c, ports: [3], action: tunnel, on_down: wait}
  |                                                    ^^^^
  = hint: write one of reject, hold, pass

error: `connect` says nothing without `action: tunnel`
 --> rules.yaml:8:50
  |
8 |   - {name: d, ports: [4], action: pass, connect: early}
  |                                                  ^^^^^
  = hint: this rule's action is pass

error: "never" is not a word for `connect`
 --> rules.yaml:9:52
  |
9 |   - {name: e, ports: [5], action: tunnel, connect: never, on_down: wait}
  |                                                    ^^^^^
  = hint: write one of honest, early

error: "wait" is not a word for `on_down`
 --> rules.yaml:9:68
  |
9 |   - {name: e, ports: [5], action: tunnel, connect: never, on_down: wait}
  |                                                                    ^^^^
  = hint: write one of reject, hold, pass

error: `connect` is one value, not a list
  --> rules.yaml:10:52
   |
10 |   - {name: f, ports: [6], action: tunnel, connect: [early]}
   |                                                    ^

error: rule 7 has no key "conect"
  --> rules.yaml:11:43
   |
11 |   - {name: g, ports: [7], action: tunnel, conect: early}
   |                                           ^^^^^^
   = hint: did you mean `connect`?
"#,
    );
}

#[test]
fn ports() {
    check_rules(
        r#"  - {name: a, ports: [70000], action: pass}
"#,
        r#"
error: there is no port 70000
 --> rules.yaml:5:23
  |
5 |   - {name: a, ports: [70000], action: pass}
  |                       ^^^^^
  = hint: ports go from 1 to 65535
"#,
    );
    check_rules(
        r#"  - {name: a, ports: [0, https, 90-80], action: pass}
  - {name: b, ports: "80,443", action: pass}
"#,
        r#"
error: there is no port 0
 --> rules.yaml:5:23
  |
5 |   - {name: a, ports: [0, https, 90-80], action: pass}
  |                       ^
  = hint: ports go from 1 to 65535

error: "https" is not a port
 --> rules.yaml:5:26
  |
5 |   - {name: a, ports: [0, https, 90-80], action: pass}
  |                          ^^^^^
  = hint: write a number, or a range such as 8000-8100

error: the range of ports 90-80 is empty
 --> rules.yaml:5:33
  |
5 |   - {name: a, ports: [0, https, 90-80], action: pass}
  |                                 ^^^^^
  = hint: the lower end comes first: 80-90

error: "80,443" is not a port
 --> rules.yaml:6:22
  |
6 |   - {name: b, ports: "80,443", action: pass}
  |                      ^^^^^^^^
  = hint: write a list: [80, 443]
"#,
    );
    check_rules(
        r#"  - {name: a, ports: [], action: pass}
  - {name: b, app: [], action: pass}
  - {name: c, to: [], action: pass}
  - {name: d, to: , action: pass}
"#,
        r#"
error: the list of `ports` is empty
 --> rules.yaml:5:22
  |
5 |   - {name: a, ports: [], action: pass}
  |                      ^
  = hint: leave the key out to mean any

error: the list of `app` is empty
 --> rules.yaml:6:20
  |
6 |   - {name: b, app: [], action: pass}
  |                    ^
  = hint: leave the key out to mean any

error: the list of `to` is empty
 --> rules.yaml:7:19
  |
7 |   - {name: c, to: [], action: pass}
  |                   ^
  = hint: leave the key out to mean any

error: `to` has no value
 --> rules.yaml:8:17
  |
8 |   - {name: d, to: , action: pass}
  |                 ^
"#,
    );
}

#[test]
fn destinations() {
    check_rules(
        r#"  - {name: a, to: 10.20.0.5/16, action: pass}
"#,
        r#"
error: 10.20.0.5/16 has bits set behind the network's length
 --> rules.yaml:5:19
  |
5 |   - {name: a, to: 10.20.0.5/16, action: pass}
  |                   ^^^^^^^^^^^^
  = hint: the network is 10.20.0.0/16; the one address is 10.20.0.5
"#,
    );
    check_rules(
        r#"  - name: a
    to: [10.0.0.300, "10.0.0.1:443", https://erp.corp/, 10.0.0.9-10.0.0.1]
    action: pass
"#,
        r#"
error: "10.0.0.300" is not an address
 --> rules.yaml:6:10
  |
6 |     to: [10.0.0.300, "10.0.0.1:443", https://erp.corp/, 10.0.0.9-10.0.0.1]
  |          ^^^^^^^^^^

error: "10.0.0.1:443" is not an address
 --> rules.yaml:6:22
  |
6 |     to: [10.0.0.300, "10.0.0.1:443", https://erp.corp/, 10.0.0.9-10.0.0.1]
  |                      ^^^^^^^^^^^^^^
  = hint: ports have a list of their own, `ports:`

error: "https://erp.corp/" is not the name of a host
 --> rules.yaml:6:38
  |
6 |     to: [10.0.0.300, "10.0.0.1:443", https://erp.corp/, 10.0.0.9-10.0.0.1]
  |                                      ^^^^^^^^^^^^^^^^^
  = hint: write the host alone, without a scheme and a path

error: a range from 10.0.0.9 to 10.0.0.1 is empty
 --> rules.yaml:6:57
  |
6 |     to: [10.0.0.300, "10.0.0.1:443", https://erp.corp/, 10.0.0.9-10.0.0.1]
  |                                                         ^^^^^^^^^^^^^^^^^
  = hint: the lower end comes first: 10.0.0.1-10.0.0.9
"#,
    );
    check_rules(
        r#"  - {name: a, to: "*", action: pass}
"#,
        r#"
error: "*" is not the name of a host
 --> rules.yaml:5:19
  |
5 |   - {name: a, to: "*", action: pass}
  |                   ^^^
  = hint: everything is `any`
"#,
    );
}

#[test]
fn applications() {
    check_rules(
        r#"  - {name: a, app: bin/firefox, action: pass}
  - {name: b, app: [/opt/erp/, /opt/a**], action: pass}
"#,
        r#"
error: "bin/firefox" can never be the path of a program
 --> rules.yaml:5:20
  |
5 |   - {name: a, app: bin/firefox, action: pass}
  |                    ^^^^^^^^^^^
  = hint: write the absolute path, or the name alone; at any depth: /**/…

error: "/opt/erp/" can never be the path of a program
 --> rules.yaml:6:21
  |
6 |   - {name: b, app: [/opt/erp/, /opt/a**], action: pass}
  |                     ^^^^^^^^^
  = hint: all below a directory is /opt/erp/**

error: `**` is only a part of "a**"
 --> rules.yaml:6:32
  |
6 |   - {name: b, app: [/opt/erp/, /opt/a**], action: pass}
  |                                ^^^^^^^^
  = hint: `**` stands alone between two slashes; within a component write `*`
"#,
    );
}

#[test]
fn expressions() {
    check_rules(
        r#"  - {name: a, to: {regex: "erp["}, action: pass}
  - {name: b, app: {regex: "(x{1000}){1000}"}, action: pass}
  - {name: c, app: {regexp: x}, action: pass}
  - {name: d, app: {}, action: pass}
"#,
        r#"
error: the regular expression is wrong: unclosed character class
 --> rules.yaml:5:27
  |
5 |   - {name: a, to: {regex: "erp["}, action: pass}
  |                           ^^^^^^

error: the regular expression is too big
 --> rules.yaml:6:28
  |
6 |   - {name: b, app: {regex: "(x{1000}){1000}"}, action: pass}
  |                            ^^^^^^^^^^^^^^^^^
  = hint: counted repetitions such as x{1000} multiply; use fewer, or several rules

error: `app` has no key "regexp"
 --> rules.yaml:7:21
  |
7 |   - {name: c, app: {regexp: x}, action: pass}
  |                     ^^^^^^
  = hint: did you mean `regex`?

error: `app` is a mapping without `regex`
 --> rules.yaml:8:20
  |
8 |   - {name: d, app: {}, action: pass}
  |                    ^
  = hint: write a text, or {regex: "…"}
"#,
    );
}

#[test]
fn rules_that_can_never_match() {
    check_rules(
        r#"  - {name: all of ten, to: 10.0.0.0/8, action: tunnel}
  - {name: one, to: 10.1.2.3, ports: [443], app: firefox, action: pass}
"#,
        r#"
error: "one" can never match
 --> rules.yaml:6:12
  |
6 |   - {name: one, to: 10.1.2.3, ports: [443], app: firefox, action: pass}
  |            ^^^
  = hint: "all of ten" (line 5) takes all its flows before it
"#,
    );
    check_rules(
        r#"  - {action: pass}
  - {name: late, to: 10.1.2.3, action: block}
"#,
        r#"
error: "late" can never match
 --> rules.yaml:6:12
  |
6 |   - {name: late, to: 10.1.2.3, action: block}
  |            ^^^^
  = hint: "rule 1" (line 5) takes every flow before it
"#,
    );
    check_rules(
        r#"  - {name: low, ports: [1-1000], action: pass}
  - {name: other, ports: [2000], action: block}
  - {name: high, ports: [1001-1999], action: pass}
  - {name: dead, ports: [500-1500], action: block}
"#,
        r#"
error: "dead" can never match
 --> rules.yaml:8:12
  |
8 |   - {name: dead, ports: [500-1500], action: block}
  |            ^^^^
  = hint: together these take all its flows before it: "low" (line 5), "high" (line 7)
"#,
    );
    check_rules(
        r#"  - {name: left, to: 10.0.0.0/9, action: pass}
  - {name: right, to: 10.128.0.0/9, action: pass}
  - {name: dead, to: 10.0.0.0/8, ports: [22], action: block}
"#,
        r#"
error: "dead" can never match
 --> rules.yaml:7:12
  |
7 |   - {name: dead, to: 10.0.0.0/8, ports: [22], action: block}
  |            ^^^^
  = hint: together these take all its flows before it: "left" (line 5), "right" (line 6)
"#,
    );
}

#[test]
fn tests_that_fail() {
    check_rules(
        r#"  - {name: browser, app: firefox, to: 10.20.0.0/16, ports: [443], action: tunnel}
  - {name: rest, action: pass}
tests:
  - {app: /usr/bin/firefox, to: "10.20.1.1:443", expect: tunnel finance}
  - {app: /usr/bin/curl, to: "10.20.1.1:443", expect: tunnel finance}
  - {app: /usr/bin/firefox, to: "10.20.1.1:443", expect: block}
  - {to: "10.20.1.1:443", expect: tunnel}
"#,
        r#"
error: this flow gets pass, by "rest", and not tunnel finance
 --> rules.yaml:9:55
  |
9 |   - {app: /usr/bin/curl, to: "10.20.1.1:443", expect: tunnel finance}
  |                                                       ^^^^^^^^^^^^^^
  = hint: "browser": the application /usr/bin/curl is not in its `app` (firefox)

error: this flow gets tunnel finance, by "browser", and not block
  --> rules.yaml:10:58
   |
10 |   - {app: /usr/bin/firefox, to: "10.20.1.1:443", expect: block}
   |                                                          ^^^^^
   = hint: no rule before that one does what is expected

error: this flow gets pass, by "rest", and not tunnel
  --> rules.yaml:11:35
   |
11 |   - {to: "10.20.1.1:443", expect: tunnel}
   |                                   ^^^^^^
   = hint: "browser": the application unknown is not in its `app` (firefox)
"#,
    );
    check_rules(
        r#"  - {name: a, to: 10.0.0.0/8, action: pass}
tests:
  - {app: firefox, to: "10.0.0.1", expect: tunnel finanze}
  - {app: unknown, to: "x:1", expect: allow}
  - {app: unknown}
"#,
        r#"
error: "firefox" is not the path of a program
 --> rules.yaml:7:11
  |
7 |   - {app: firefox, to: "10.0.0.1", expect: tunnel finanze}
  |           ^^^^^^^
  = hint: write the absolute path of the binary, or `unknown`

error: "10.0.0.1" has no port
 --> rules.yaml:7:24
  |
7 |   - {app: firefox, to: "10.0.0.1", expect: tunnel finanze}
  |                        ^^^^^^^^^^
  = hint: write HOST:PORT, such as 10.20.1.1:443

error: no zone is called "finanze"
 --> rules.yaml:7:44
  |
7 |   - {app: firefox, to: "10.0.0.1", expect: tunnel finanze}
  |                                            ^^^^^^^^^^^^^^
  = hint: did you mean "finance"?

error: "allow" cannot be expected
 --> rules.yaml:8:39
  |
8 |   - {app: unknown, to: "x:1", expect: allow}
  |                                       ^^^^^
  = hint: write `tunnel ZONE`, `pass` or `block`

error: a test has no `to`
 --> rules.yaml:9:5
  |
9 |   - {app: unknown}
  |     ^
  = hint: write `to: "10.20.1.1:443"`

error: a test has no `expect`
 --> rules.yaml:9:5
  |
9 |   - {app: unknown}
  |     ^
  = hint: write `expect: tunnel ZONE`, `expect: pass` or `expect: block`
"#,
    );
}

#[test]
fn names_match_no_captured_flow() {
    check_warnings(
        &with_rules(
            r#"  - {name: a, to: [10.0.0.1, "*.corp", erp.corp], action: pass}
  - {name: b, to: {regex: "^erp"}, action: block}
"#,
        ),
        r#"
warning: *.corp is a name, and in this version captured flows have none, so only the addresses of this rule match them
 --> rules.yaml:5:30
  |
5 |   - {name: a, to: [10.0.0.1, "*.corp", erp.corp], action: pass}
  |                              ^^^^^^^^
  = hint: give the addresses behind the name

warning: /^erp/ is a name, and in this version captured flows have none, so this rule matches none of them
 --> rules.yaml:6:27
  |
6 |   - {name: b, to: {regex: "^erp"}, action: block}
  |                           ^^^^^^
  = hint: give the addresses behind the name
"#,
    );
}

#[test]
fn zones_that_nothing_uses() {
    check_warnings(
        r#"version: 1
zones: {a: {gateways: [x]}, b: {gateways: [y]}}
default: tunnel a
"#,
        r#"
warning: nothing uses the zone "b"
 --> rules.yaml:2:29
  |
2 | zones: {a: {gateways: [x]}, b: {gateways: [y]}}
  |                             ^
  = hint: name it in a rule or in the default
"#,
    );
}
