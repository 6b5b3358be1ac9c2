//! The `tests:` of a rule file.

use std::collections::HashSet;

use crate::application::Application;
use crate::date::Date;
use crate::decision::{Decision, Judgement};
use crate::destination::{self, Destination};
use crate::diagnostics::{Fault, Place};
use crate::explanation::Step;
use crate::findings::Findings;
use crate::language;
use crate::policy::Policy;
use crate::rule::Rule;
use crate::tested_application;
use crate::user::User;
use crate::written::WrittenTest;

/// Rules that a failed test names as those that should have matched.
const MOST_REASONS: usize = 3;
/// Rules that have their say in why tests failed, over all tests: about 10 ms. The first tests always hear why.
const MOST_SAID: usize = 40_000;
/// Rules that are asked, over all tests, about 100 ms, …
const MOST_ASKED: usize = 2_000_000;
/// … or so many tests of any file.
const ALWAYS_RUN: usize = 100;
/// Days on which a failing test is tried whose rule may have expired.
const MOST_DAYS: usize = 8;

/// A test that could be understood.
#[derive(Debug)]
pub(crate) struct Expectation<'a> {
    place: Place,
    application: Application,
    /// `None`: of nobody in particular.
    user: Option<User>,
    destination: Destination,
    /// `None`: whenever the file is read.
    on: Option<Date>,
    expected: Expected<'a>,
}

/// Reads tests; what is wrong with one is noted.
pub(crate) fn read<'a>(
    tests: &'a [WrittenTest],
    zones: &HashSet<&str>,
    findings: &mut Findings,
) -> Vec<Expectation<'a>> {
    let tests = tests.iter();
    tests
        .filter_map(|test| read_one(test, zones, findings))
        .collect()
}

fn read_one<'a>(
    test: &'a WrittenTest,
    zones: &HashSet<&str>,
    findings: &mut Findings,
) -> Option<Expectation<'a>> {
    let mut noted = |place, fault| findings.error(place, fault);
    let application = match &test.app {
        None => Ok(Application::Unknown),
        Some(written) => {
            tested_application::read(written).map_err(|(place, fault)| noted(place, fault))
        }
    };
    let user = tested_application::user(test.user.as_ref(), test.group.as_deref())
        .map_err(|(place, fault)| noted(place, fault));
    let destination =
        destination::parse(&test.to.value).map_err(|fault| noted(test.to.place, fault));
    let on = test
        .on
        .as_ref()
        .map(|on| Date::parse(&on.value).map_err(|fault| findings.error(on.place, fault)));
    let expected = Expected::parse(&test.expect.value, zones, findings)
        .map_err(|fault| findings.error(test.expect.place, fault));
    Some(Expectation {
        place: test.expect.place,
        application: application.ok()?,
        user: user.ok()?,
        destination: destination.ok()?,
        on: on.transpose().ok()?,
        expected: expected.ok()?,
    })
}

/// Runs tests; each that fails is an error at its `expect:`.
pub(crate) fn check(policy: &Policy, tests: &[Expectation<'_>], findings: &mut Findings) {
    let rules = policy.rules().len();
    let most_asked = MOST_ASKED.max(rules.saturating_mul(ALWAYS_RUN));
    let (mut asked, mut said): (usize, usize) = (0, 0);
    let expired = policy.expired();
    for test in tests {
        asked = asked.saturating_add(test.cost(policy));
        if asked > most_asked {
            let fault = Fault::new("the tests up to here ask more rules than is bearable");
            let hint =
                format!("at most {most_asked}: take out tests, or globs, expressions and `not`");
            findings.error(test.place, fault.hint(hint));
            return;
        }
        let policy = &test.circumstances(policy);
        let judgement = test.judge(policy);
        if test.is_met(&judgement) {
            note_of_doubt(policy, test, &judgement, findings);
            continue;
        }
        if let Some(last) = last_day_met(policy, test, &expired, &mut asked) {
            let fault = Fault::new(format!(
                "this test was met until {last}, the last day of a rule"
            ));
            let hint = format!("`on: {last}` in the test judges it on that day");
            findings.warning(test.place, fault.hint(hint));
            continue;
        }
        // Each rule has its say in why; of very many rules and tests, nobody reads it all.
        said = said.saturating_add(rules);
        findings.error_of(test.place, |_| match &judgement {
            Judgement::Decided(decision) if said > MOST_SAID.max(rules) => fault_of(decision, test)
                .hint("ask `adit explain` for the reason: too many tests fail to say it of each"),
            Judgement::Decided(_) | Judgement::Needs(_) => failed(policy, test),
        });
    }
}

impl Expectation<'_> {
    fn circumstances(&self, policy: &Policy) -> Policy {
        let policy = match &self.user {
            Some(user) => policy.for_user(user.clone()),
            None => policy.clone(),
        };
        match self.on {
            Some(day) => policy.on(day),
            None => policy,
        }
    }

    fn judge(&self, policy: &Policy) -> Judgement {
        let application = self.application.as_far_as_known();
        policy.judge(&self.destination, Some(&application))
    }

    fn is_met(&self, judgement: &Judgement) -> bool {
        match judgement {
            Judgement::Decided(decision) => self.expected.is(decision),
            Judgement::Needs(_) => false,
        }
    }

    /// How many rules may be asked.
    fn cost(&self, policy: &Policy) -> usize {
        let application = self.application.as_far_as_known();
        1 + policy.most_asked(&self.destination, Some(&application))
    }
}

/// The last day on which `test`, which fails today, was met because a rule had not expired yet.
fn last_day_met(
    policy: &Policy,
    test: &Expectation<'_>,
    expired: &[Date],
    asked: &mut usize,
) -> Option<Date> {
    if test.on.is_some() {
        return None;
    }
    expired.iter().copied().take(MOST_DAYS).find(|day| {
        *asked = asked.saturating_add(test.cost(policy));
        test.is_met(&test.judge(&policy.on(*day)))
    })
}

/// A flow of which too little is said is blocked: that is no rule's meaning, and may not be what the test is about.
fn note_of_doubt(
    policy: &Policy,
    test: &Expectation<'_>,
    judgement: &Judgement,
    findings: &mut Findings,
) {
    let Judgement::Decided(Decision::Block(block)) = judgement else {
        return;
    };
    let application = test.application.as_far_as_known();
    if policy.is_in_doubt(&test.destination, Some(&application)) {
        let fault = Fault::new(format!(
            "this test is met only because too little is said of the flow: {:?} blocks in doubt",
            block.rule()
        ));
        findings.note(test.place, fault.hint("say in the test what is known"));
    }
}

/// What a test expects; `tunnel` without a zone is through any, without `to` to anywhere, and `block` is with either word.
#[derive(Debug, PartialEq, Eq)]
struct Expected<'a> {
    action: &'a str,
    zone: Option<&'a str>,
    with: Option<&'a str>,
    to: Option<Destination>,
}

impl<'a> Expected<'a> {
    fn parse(
        written: &'a str,
        zones: &HashSet<&str>,
        findings: &mut Findings,
    ) -> Result<Self, Fault> {
        let words: Vec<&str> = written.split_whitespace().collect();
        let (action, zone, with, to) = match *words.as_slice() {
            [action] => (action, None, None, None),
            [action @ "block", with] => (action, None, Some(with), None),
            [action, zone] => (action, Some(zone), None, None),
            [action, "to", to] => (action, None, None, Some(to)),
            [action, zone, "to", to] => (action, Some(zone), None, Some(to)),
            _ => ("", None, None, None),
        };
        let expected = |to| Self {
            action,
            zone,
            with,
            to,
        };
        let to = to.map(destination::parse).transpose()?;
        match (action, zone) {
            ("tunnel", Some(zone)) if !zones.contains(zone) => {
                let fault = Fault::new(format!("no zone is called {zone:?}"));
                Err(match findings.suggest(zone, zones.iter().copied()) {
                    Some(meant) => fault.hint(format!("did you mean {meant:?}?")),
                    None => fault,
                })
            }
            ("block", None) if with.is_some_and(|it| !language::REFUSALS.contains(&it)) => {
                let fault = Fault::new(format!("{written:?} cannot be expected"));
                Err(fault.hint("write `block`, `block reset` or `block drop`"))
            }
            ("pass" | "block", None) if to.is_none() => Ok(expected(to)),
            ("tunnel", _) => Ok(expected(to)),
            (_, _) => Err(Fault::new(format!("{written:?} cannot be expected")).hint(
                "write `tunnel ZONE`, `tunnel ZONE to HOST:PORT`, `pass`, `block` or `block drop`",
            )),
        }
    }

    fn is(&self, decision: &Decision) -> bool {
        let is_there = match (&self.to, decision) {
            (None, _) => true,
            (Some(to), Decision::Tunnel(permit)) => is_same(to, permit.destination()),
            (Some(_), Decision::Pass(_) | Decision::Block(_)) => false,
        };
        self.action == decision.action()
            && (self.zone.is_none() || self.zone == decision.zone())
            && (self.with.is_none() || self.with == with_of(decision))
            && is_there
    }
}

/// What a program is told that is blocked.
fn with_of(decision: &Decision) -> Option<&'static str> {
    match decision {
        Decision::Block(block) => Some(block.refusal().as_str()),
        Decision::Tunnel(_) | Decision::Pass(_) => None,
    }
}

/// Whether what is dialled is what a test names, which gives a name or an address.
fn is_same(expected: &Destination, dialled: &Destination) -> bool {
    let is_host = match (&expected.name, expected.address) {
        (Some(name), _) => dialled.name.as_ref() == Some(name),
        (None, address) => dialled.address == address && address.is_some(),
    };
    is_host && expected.port == dialled.port
}

fn failed(policy: &Policy, test: &Expectation<'_>) -> Fault {
    let explanation = policy.explain(&test.destination, &test.application);
    let fault = fault_of(explanation.decision(), test);
    let would_do = |(step, rule): &(&Step, &Rule)| {
        !step.matched() && test.expected.is(&rule.decide(test.destination.clone()))
    };
    let steps = explanation.steps().iter().zip(policy.rules());
    let reasons: Vec<String> = steps
        .filter(would_do)
        .take(MOST_REASONS)
        .map(|(step, _)| format!("{:?}: {}", step.rule(), step.because()))
        .collect();
    let decisive = explanation.steps().last().filter(|step| step.is_in_doubt());
    match reasons.as_slice() {
        _ if decisive.is_some() => {
            let because = decisive.map(Step::because).unwrap_or_default();
            fault.hint(format!("{because}; say in the test what is known"))
        }
        [] => fault.hint("no rule before that one does what is expected"),
        reasons => fault.hint(reasons.join("; ")),
    }
}

fn fault_of(decision: &Decision, test: &Expectation<'_>) -> Fault {
    let expected = &test.expected;
    let with = with_of(decision).filter(|_| expected.with.is_some());
    let given = decision.zone().or(with);
    Fault::new(format!(
        "this flow gets {}, by {:?}, and not {}",
        show(decision.action(), given, dialled(decision, test)),
        decision.rule(),
        show(
            expected.action,
            expected.zone.or(expected.with),
            expected.to.as_ref()
        ),
    ))
}

/// Where it goes, when the test or the rule says something about it.
fn dialled<'a>(decision: &'a Decision, test: &Expectation<'_>) -> Option<&'a Destination> {
    match decision {
        Decision::Tunnel(permit) if test.expected.to.is_some() => Some(permit.destination()),
        Decision::Tunnel(permit) => permit.elsewhere(),
        Decision::Pass(_) | Decision::Block(_) => None,
    }
}

/// `word`: the zone, or what a program is told.
fn show(action: &str, word: Option<&str>, to: Option<&Destination>) -> String {
    let mut shown = action.to_owned();
    if let Some(word) = word {
        shown += &format!(" {word}");
    }
    if let Some(to) = to {
        shown += &format!(" to {to}");
    }
    shown
}
