//! `log` and `notify`: a decision carries them, and the kernel, which tells nobody, does not make it alone.

mod reading;

use std::path::Path;

use adit_rules::{Application, Destination, Judgement, KernelVerdict, Policy, Telling};
use reading::parse_file;

fn policy(keys: &str) -> Policy {
    let text = format!(
        "version: 1\nzones: {{a: {{gateways: x}}}}\ndefault: block\nrules:\n  - {{name: r, to: 10.0.0.0/8, {keys}}}\n"
    );
    let checked = parse_file(Path::new("rules.yaml"), &text, &[]);
    checked.unwrap_or_else(|errors| panic!("{errors}")).policy
}

/// What the rule tells, and what the kernel does with its flows.
#[track_caller]
fn check(keys: &str, log: bool, notify: bool, verdict: KernelVerdict) {
    let policy = policy(keys);
    let to = Destination::parse("10.0.0.1:443").expect("valid");
    let unknown = Application::Unknown;
    let Judgement::Decided(decision) = policy.judge(&to, Some(&unknown)) else {
        panic!("it is decided");
    };
    assert_eq!(decision.telling(), Telling { log, notify }, "{keys}");
    let json = serde_json::to_value(policy.explain(&to, &unknown)).expect("JSON");
    assert_eq!(
        (&json["log"], &json["notify"]),
        (&log.into(), &notify.into())
    );
    let program = policy.kernel_program();
    let first = program
        .steps
        .first()
        .map_or(program.default, |step| step.verdict);
    assert_eq!(first, verdict, "{keys}");
}

#[test]
fn what_is_told_is_not_decided_by_the_kernel_alone() {
    use KernelVerdict::{Ask, Block, HandOver, Pass};
    check("action: pass", false, false, Pass);
    check(
        "action: pass, log: false, notify: false",
        false,
        false,
        Pass,
    );
    check("action: pass, log: true", true, false, Ask);
    check("action: pass, notify: true", false, true, Ask);
    check("action: block", false, false, Block);
    check("action: block, log: true, notify: true", true, true, Ask);
    check("action: tunnel, notify: true", false, true, Ask);
    check(
        "action: tunnel, connect: early, log: true",
        true,
        false,
        HandOver,
    );
}

/// A rule in doubt blocks, and tells of it too.
#[test]
fn doubt_is_told_as_well() {
    check(
        "app: {not: curl}, action: pass, log: true",
        true,
        false,
        KernelVerdict::Ask,
    );
}

#[test]
fn people_are_told_what_is_told() {
    let to = Destination::parse("10.0.0.1:443").expect("valid");
    let said = |keys| policy(keys).explain(&to, &Application::Unknown).to_string();
    assert_eq!(
        said("action: pass, log: true, notify: true"),
        "pass, by \"r\" (rules.yaml:5)\n  yes  \"r\", line 5: it matches\n  said in the log\n  \
         told on the desktop, when it is the first time for an application"
    );
}
