//! What a policy gives to different users, on different days, and which facts it asks for.

mod reading;

use std::path::Path;

use adit_rules::{
    AccountName, Ancestors, Application, Date, Decision, Destination, Fact, Facts, Group,
    Judgement, Learned, Policy, Refusal, User,
};
use reading::parse_file;

fn policy(rules: &str) -> Policy {
    let text = format!(
        "version: 1\nzones: {{a: {{gateways: [x]}}, b: {{gateways: [y]}}}}\ndefault: pass\nrules:\n{rules}"
    );
    let checked = parse_file(Path::new("rules.yaml"), &text, &[]);
    checked.unwrap_or_else(|errors| panic!("{errors}")).policy
}

fn judge(policy: &Policy, to: &str, application: Option<&Application>) -> Judgement {
    policy.judge(&Destination::parse(to).expect("valid"), application)
}

#[track_caller]
fn check(policy: &Policy, to: &str, expected: &str) {
    let unknown = Application::Unknown;
    let Judgement::Decided(decision) = judge(policy, to, Some(&unknown)) else {
        panic!("it is decided");
    };
    let zone = decision
        .zone()
        .map_or(String::new(), |zone| format!(" {zone}"));
    assert_eq!(format!("{}{zone}", decision.action()), expected);
}

fn user(name: &str, uid: u32, group: &str) -> User {
    User {
        name: AccountName::Is(name.to_owned()),
        uid: Some(uid),
        groups: Some(vec![Group {
            name: AccountName::Is(group.to_owned()),
            gid: Some(uid),
        }]),
    }
}

#[test]
fn the_same_destination_goes_through_the_zone_of_its_user() {
    let policy = policy(
        "  - {user: alice, to: 10.0.0.0/8, action: tunnel, zone: a}\n  - {group: [staff], to: 10.0.0.0/8, action: tunnel, zone: b}\n  - {user: 7, action: block}\n",
    );
    check(&policy, "10.0.0.5:443", "pass");
    let alice = policy.for_user(user("alice", 1000, "staff"));
    check(&alice, "10.0.0.5:443", "tunnel a");
    let bob = policy.for_user(user("bob", 1001, "staff"));
    check(&bob, "10.0.0.5:443", "tunnel b");
    let eve = policy.for_user(user("eve", 7, "guests"));
    check(&eve, "10.0.0.5:443", "block");
    // A rule of others is not in the kernel's program either.
    let steps = |policy: &Policy| policy.kernel_program().steps.len();
    assert_eq!(
        (steps(&policy), steps(&alice), steps(&bob), steps(&eve)),
        (0, 1, 1, 0)
    );
    // A second user replaces the first.
    check(
        &alice.for_user(user("bob", 1001, "staff")),
        "10.0.0.5:443",
        "tunnel b",
    );
}

/// Nobody is blocked in doubt because a group that containers left behind has no name.
#[test]
fn whoever_has_no_name_is_known_to_be_no_named_one() {
    let policy = policy(
        "  - {user: {not: root}, group: {not: wheel}, to: 10.0.0.1, action: tunnel, zone: a}\n  - {group: [wheel], to: 10.0.0.2, action: block}\n",
    );
    let nobody_s = |name: AccountName| User {
        groups: Some(vec![Group {
            name: name.clone(),
            gid: Some(7000),
        }]),
        name,
        uid: Some(7000),
    };
    check(
        &policy.for_user(nobody_s(AccountName::Nameless)),
        "10.0.0.1:443",
        "tunnel a",
    );
    check(
        &policy.for_user(nobody_s(AccountName::NotKnown)),
        "10.0.0.1:443",
        "block",
    );
}

#[test]
fn rules_end_with_their_day() {
    let day = |month, day| Date::new(2026, month, day).expect("there is such a day");
    let policy = policy(
        "  - {to: 10.0.0.1, action: block, expires: 2026-06-30}\n  - {to: 10.0.0.1, action: block, expires: 2026-09-30}\n  - {to: 10.0.0.2, action: block, expires: 2026-12-31}\n",
    );
    assert_eq!(policy.last_day(), Some(day(9, 30)));
    check(&policy.on(day(9, 30)), "10.0.0.1:1", "block");
    let later = policy.on(day(10, 1));
    check(&later, "10.0.0.1:1", "pass");
    check(&later, "10.0.0.2:1", "block");
    assert_eq!(later.last_day(), Some(day(12, 31)));
    assert_eq!(later.kernel_program().steps.len(), 1);
    assert_eq!(
        policy.on(Date::new(2027, 1, 1).expect("a day")).last_day(),
        None
    );
}

/// The facts that are asked for, in order, when each is given as `facts` has it.
#[track_caller]
fn check_questions(rules: &str, facts: &Facts, expected: &[Fact]) {
    let policy = policy(rules);
    let (mut asked, mut known) = (Vec::new(), None::<Facts>);
    loop {
        let application = known.clone().map(Application::Known);
        let Judgement::Needs(fact) = judge(&policy, "10.0.0.1:443", application.as_ref()) else {
            break;
        };
        asked.push(fact);
        let mut more = known
            .take()
            .unwrap_or_else(|| Facts::of(facts.path.clone()));
        match fact {
            Fact::Path => {}
            Fact::Cgroup => more.cgroup = facts.cgroup.clone(),
            Fact::Script => more.script = facts.script.clone(),
            Fact::Ancestors => more.ancestors = facts.ancestors.clone(),
            Fact::Sha256 => more.sha256 = facts.sha256.clone(),
        }
        known = Some(more);
    }
    assert_eq!(asked, expected);
}

#[test]
fn only_facts_that_matter_are_asked_for() {
    let python = Facts {
        script: Learned::Is(Some("/opt/x.py".into())),
        cgroup: Learned::Is(Some("/user.slice/a.service".to_owned())),
        sha256: Learned::Is([7; 32]),
        ancestors: Learned::Is(Ancestors {
            binaries: vec!["/bin/sh".into()],
            complete: true,
        }),
        ..Facts::of("/usr/bin/python3")
    };
    check_questions(
        "  - {to: 10.0.0.2, app: curl, action: block}\n",
        &python,
        &[],
    );
    check_questions(
        "  - {app: {script: /x}, ports: 80, action: block}\n",
        &python,
        &[],
    );
    // Another binary: its script does not matter.
    check_questions(
        "  - {app: {path: perl, script: /x}, action: block}\n",
        &python,
        &[Fact::Path],
    );
    // Another unit: its hash does not matter.
    check_questions(
        &format!(
            "  - {{app: {{sha256: {}, unit: b.service}}, action: block}}\n",
            "07".repeat(32)
        ),
        &python,
        &[Fact::Path, Fact::Cgroup],
    );
    check_questions(
        &format!(
            "  - {{app: {{sha256: {}, unit: a.service, not: {{parent: zsh}}}}, action: block}}\n",
            "07".repeat(32)
        ),
        &python,
        &[Fact::Path, Fact::Cgroup, Fact::Ancestors, Fact::Sha256],
    );
    // The cheap entry suffices.
    check_questions(
        "  - {app: [{script: /x}, python3], action: block}\n",
        &python,
        &[Fact::Path],
    );
    // What is behind the rule that decides is not asked for.
    check_questions(
        "  - {app: python3, action: block}\n  - {app: {script: /x}, action: pass}\n",
        &python,
        &[Fact::Path],
    );
}

#[test]
fn what_is_given_up_is_not_asked_for_again() {
    let policy = policy("  - {app: {not: {script: /opt/evil.py}}, action: tunnel, zone: a}\n");
    let mut application = Application::of("/usr/bin/python3");
    assert_eq!(
        judge(&policy, "10.0.0.1:1", Some(&application)),
        Judgement::Needs(Fact::Script)
    );
    application.give_up(Fact::Script);
    let Judgement::Decided(Decision::Block(block)) =
        judge(&policy, "10.0.0.1:1", Some(&application))
    else {
        panic!("nobody knows whether it is the evil one");
    };
    assert_eq!((block.rule(), block.refusal()), ("rule 1", Refusal::Reset));
}

/// What a program gets of which only one fact is known.
fn given_to(app: &str, facts: impl FnOnce(Facts) -> Facts) -> &'static str {
    let policy = policy(&format!("  - {{app: {app}, action: block}}\n"));
    let Application::Known(known) = Application::of("/usr/bin/python3") else {
        panic!("it has a path");
    };
    let application = Application::Known(facts(known));
    match judge(&policy, "192.0.2.1:443", Some(&application)) {
        Judgement::Decided(decision) => decision.action(),
        Judgement::Needs(_) => "needs it",
    }
}

#[test]
fn none_is_what_runs_no_script_and_is_in_no_unit() {
    let script = |script| move |facts| Facts { script, ..facts };
    let (none, some) = (Learned::Is(None), Learned::Is(Some("/opt/none".into())));
    assert_eq!(given_to("{script: none}", script(none.clone())), "block");
    assert_eq!(given_to("{script: none}", script(some.clone())), "pass");
    assert_eq!(
        given_to("{script: none}", script(Learned::Unknowable)),
        "pass"
    );
    assert_eq!(
        given_to("{script: none}", script(Learned::NotAsked)),
        "needs it"
    );
    assert_eq!(
        given_to("{script: [none, /opt/none]}", script(some.clone())),
        "block"
    );
    assert_eq!(given_to("{not: {script: none}}", script(none)), "pass");
    assert_eq!(given_to("{not: {script: none}}", script(some)), "block");
    assert_eq!(
        given_to("{not: {script: none}}", script(Learned::Unknowable)),
        "block"
    );

    let unit = |group: Option<&str>| {
        let cgroup = Learned::Is(group.map(str::to_owned));
        move |facts| Facts { cgroup, ..facts }
    };
    assert_eq!(given_to("{unit: none}", unit(None)), "block");
    // Processes that systemd did not start are in the root of the hierarchy.
    assert_eq!(given_to("{unit: none}", unit(Some("/"))), "block");
    assert_eq!(given_to("{unit: none}", unit(Some("/none"))), "pass");
    assert_eq!(
        given_to("{unit: [none, a.slice]}", unit(Some("/a.slice/b"))),
        "block"
    );
}
