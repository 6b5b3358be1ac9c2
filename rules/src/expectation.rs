//! The `tests:` of a rule file.

use std::collections::HashSet;

use crate::application::Application;
use crate::decision::{Decision, Judgement};
use crate::destination::{self, Destination};
use crate::diagnostics::{Fault, Findings, Place};
use crate::explanation::Step;
use crate::policy::Policy;
use crate::rule::Rule;
use crate::tested_application;
use crate::user::User;
use crate::written::WrittenTest;

/// Rules that a failed test names as those that should have matched.
const MOST_REASONS: usize = 3;
/// Rules that have their say in why tests failed, over all tests: about 30 ms. The first tests always hear why.
const MOST_SAID: usize = 100_000;

/// A test that could be understood.
#[derive(Debug)]
pub(crate) struct Expectation<'a> {
    place: Place,
    application: Application,
    /// `None`: of nobody in particular.
    user: Option<User>,
    destination: Destination,
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
    let expected = Expected::parse(&test.expect.value, zones, findings)
        .map_err(|fault| findings.error(test.expect.place, fault));
    Some(Expectation {
        place: test.expect.place,
        application: application.ok()?,
        user: user.ok()?,
        destination: destination.ok()?,
        expected: expected.ok()?,
    })
}

/// Runs tests; each that fails is an error at its `expect:`.
pub(crate) fn check(policy: &Policy, tests: &[Expectation<'_>], findings: &mut Findings) {
    let mut said: usize = 0;
    for test in tests {
        let of_user = test.user.clone().map(|user| policy.for_user(user));
        let policy = of_user.as_ref().unwrap_or(policy);
        let application = test.application.as_far_as_known();
        let judgement = policy.judge(&test.destination, Some(&application));
        let is_met = match &judgement {
            Judgement::Decided(decision) => test.expected.is(decision),
            Judgement::Needs(_) => false,
        };
        if is_met {
            continue;
        }
        // Each rule has its say in why; of very many rules and tests, nobody reads it all.
        said = said.saturating_add(policy.rules().len());
        let fault = match &judgement {
            Judgement::Decided(decision) if said > MOST_SAID.max(policy.rules().len()) => fault_of(
                decision, test,
            )
            .hint("ask `adit explain` for the reason: too many tests fail to say it of each"),
            Judgement::Decided(_) | Judgement::Needs(_) => failed(policy, test),
        };
        findings.error(test.place, fault);
    }
}

/// What a test expects; `tunnel` without a zone is through any.
#[derive(Debug, PartialEq, Eq)]
struct Expected<'a> {
    action: &'a str,
    zone: Option<&'a str>,
}

impl<'a> Expected<'a> {
    fn parse(
        written: &'a str,
        zones: &HashSet<&str>,
        findings: &mut Findings,
    ) -> Result<Self, Fault> {
        let (action, zone) = match written.split_once(char::is_whitespace) {
            Some((action, zone)) => (action, Some(zone.trim())),
            None => (written, None),
        };
        match (action, zone) {
            ("tunnel", Some(zone)) if !zones.contains(zone) => {
                let fault = Fault::new(format!("no zone is called {zone:?}"));
                Err(match findings.suggest(zone, zones.iter().copied()) {
                    Some(meant) => fault.hint(format!("did you mean {meant:?}?")),
                    None => fault,
                })
            }
            ("tunnel", _) | ("pass" | "block", None) => Ok(Self { action, zone }),
            (_, _) => Err(Fault::new(format!("{written:?} cannot be expected"))
                .hint("write `tunnel ZONE`, `pass` or `block`")),
        }
    }

    fn is(&self, decision: &Decision) -> bool {
        self.action == decision.action() && (self.zone.is_none() || self.zone == decision.zone())
    }
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
    Fault::new(format!(
        "this flow gets {}, by {:?}, and not {}",
        show(decision.action(), decision.zone()),
        decision.rule(),
        show(test.expected.action, test.expected.zone),
    ))
}

fn show(action: &str, zone: Option<&str>) -> String {
    match zone {
        Some(zone) => format!("{action} {zone}"),
        None => action.to_owned(),
    }
}
