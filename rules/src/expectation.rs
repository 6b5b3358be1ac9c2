//! The `tests:` of a rule file.

use crate::application::{self, Application};
use crate::destination;
use crate::diagnostics::{Fault, Findings};
use crate::explanation::{Explanation, Step};
use crate::policy::Policy;
use crate::suggestion;
use crate::written::{At, WrittenTest};

/// Rules that a failed test names as those that should have matched.
const MOST_REASONS: usize = 3;

/// Runs the tests; each that fails is an error at its `expect:`.
pub(crate) fn check(policy: &Policy, tests: &[WrittenTest], findings: &mut Findings) {
    for test in tests {
        check_one(policy, test, findings);
    }
}

fn check_one(policy: &Policy, test: &WrittenTest, findings: &mut Findings) {
    let mut noted = |place, fault| findings.error(place, fault);
    let application = match &test.app {
        None => Ok(Application::Unknown),
        Some(At { place, value }) => {
            application::parse(value).map_err(|fault| noted(*place, fault))
        }
    };
    let destination =
        destination::parse(&test.to.value).map_err(|fault| noted(test.to.place, fault));
    let expected =
        Expected::parse(policy, &test.expect).map_err(|fault| noted(test.expect.place, fault));
    if let (Ok(application), Ok(destination), Ok(expected)) = (application, destination, expected) {
        let explanation = policy.explain(&destination, &application);
        if !expected.is(&explanation) {
            noted(test.expect.place, failed(policy, &expected, &explanation));
        }
    }
}

/// What a test expects; `tunnel` without a zone is through any.
#[derive(Debug, PartialEq, Eq)]
struct Expected<'a> {
    action: &'a str,
    zone: Option<&'a str>,
}

impl<'a> Expected<'a> {
    fn parse(policy: &Policy, written: &'a At<String>) -> Result<Self, Fault> {
        let (action, zone) = match written.value.split_once(char::is_whitespace) {
            Some((action, zone)) => (action, Some(zone.trim())),
            None => (written.value.as_str(), None),
        };
        let zones = || policy.zones().iter().map(|zone| zone.name.as_str());
        match (action, zone) {
            ("tunnel", Some(zone)) if zones().all(|known| known != zone) => {
                let fault = Fault::new(format!("no zone is called {zone:?}"));
                Err(match suggestion::nearest(zone, zones()) {
                    Some(meant) => fault.hint(format!("did you mean {meant:?}?")),
                    None => fault,
                })
            }
            ("tunnel", _) | ("pass" | "block", None) => Ok(Self { action, zone }),
            (_, _) => Err(
                Fault::new(format!("{:?} cannot be expected", written.value))
                    .hint("write `tunnel ZONE`, `pass` or `block`"),
            ),
        }
    }

    fn is(&self, explanation: &Explanation) -> bool {
        let decision = explanation.decision();
        self.action == decision.action() && (self.zone.is_none() || self.zone == decision.zone())
    }
}

fn failed(policy: &Policy, expected: &Expected<'_>, explanation: &Explanation) -> Fault {
    let decision = explanation.decision();
    let got = match decision.zone() {
        Some(zone) => format!("tunnel {zone}"),
        None => decision.action().to_owned(),
    };
    let expected_words = match expected.zone {
        Some(zone) => format!("tunnel {zone}"),
        None => expected.action.to_owned(),
    };
    let fault = Fault::new(format!(
        "this flow gets {got}, by {:?}, and not {expected_words}",
        decision.rule()
    ));
    let would_do = |step: &&Step| {
        let rules = policy.rules().iter();
        let mut rules = rules.filter(|rule| *rule.label == *step.rule());
        !step.matched() && rules.any(|rule| rule.action.show().starts_with(&expected_words))
    };
    let reasons: Vec<String> = explanation
        .steps()
        .iter()
        .filter(would_do)
        .take(MOST_REASONS)
        .map(|step| format!("{:?}: {}", step.rule(), step.because()))
        .collect();
    match reasons.as_slice() {
        [] => fault.hint("no rule before that one does what is expected"),
        reasons => fault.hint(reasons.join("; ")),
    }
}
