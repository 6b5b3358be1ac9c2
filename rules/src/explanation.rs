//! Why a flow gets what it gets.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

use smol_str::SmolStr;

use crate::application::Application;
use crate::decision::{Decision, Refusal};
use crate::destination::{Destination, Host};
use crate::first_few::list;
use crate::policy::LayerEnd;
use crate::port;
use crate::reason::because;
use crate::redirect::Redirect;
use crate::rule::{Answer, Circumstances, Rule};
use crate::telling::Telling;
use crate::uncaptured;
use crate::zone::{Connect, OnDown, Zone};

/// Why a flow gets what it gets.
///
/// `Display` is for people. `Serialize` gives `{"action", "zone", "gateways", "destination", "connect", "on_down", "with",
/// "not_captured", "rule", "file", "line", "log", "notify", "steps"}`; `zone` is null unless the action is `tunnel`, `gateways` are those that `%h` makes of the destination, else null, `destination` is where a tunnel goes instead of where was
/// asked, else null, `connect`, `on_down`, `with` and `not_captured` are as the functions of these names, `file` and `line` are null for a policy without a file, `log` and
/// `notify` are [`Telling`]. Each step is `{"rule", "file", "line", "matched", "because"}`; the last one is the rule that decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    decision: Decision,
    /// Where it is logged in, if that is the destination itself.
    gateways: Option<Vec<String>>,
    file: Option<String>,
    line: Option<u32>,
    has_several_files: bool,
    /// Label of an earlier rule because of which the program hears of success at once.
    made_early_by: Option<SmolStr>,
    /// Why there is no captured connection of which this could be said.
    not_captured: Option<&'static str>,
    steps: Vec<Step>,
}

/// What one rule said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    rule: String,
    file: Option<String>,
    line: Option<u32>,
    matched: bool,
    because: String,
    #[serde(skip)]
    is_in_doubt: bool,
}

impl Step {
    /// Label of the rule.
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// Whether it decided.
    pub fn matched(&self) -> bool {
        self.matched
    }

    /// Whether it decided because something under a `not` could not be answered.
    pub fn is_in_doubt(&self) -> bool {
        self.is_in_doubt
    }

    /// The first matcher that said no, or that it matches.
    pub fn because(&self) -> &str {
        &self.because
    }
}

/// Why nothing can be said of a host as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it depends on the port: {rule:?} is about {ports}; ask about {host}:PORT")]
pub struct PortMatters {
    rule: String,
    ports: String,
    host: String,
}

/// The rules that are asked, and what is the same for all flows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) files: &'a [PathBuf],
    pub(crate) rules: &'a [Rule],
    pub(crate) default: &'a Rule,
    pub(crate) circumstances: &'a Circumstances,
    /// Also those that are not asked.
    pub(crate) layers: &'a [LayerEnd],
}

impl<'a> Asked<'a> {
    /// The rules of the layers before that of the rule at `position`.
    pub(crate) fn before(&self, position: usize) -> &'a [Rule] {
        let ends = self.layers.iter().map(|layer| layer.rules);
        let before = ends.take_while(|end| *end <= position).last();
        &self.rules[..before.unwrap_or(0)]
    }

    fn file_of(&self, rule: &Rule) -> Option<String> {
        let file = self.files.get(usize::from(rule.at?.file))?;
        Some(file.to_string_lossy().into_owned())
    }

    fn step(&self, rule: &Rule, answer: Answer, because: String) -> Step {
        Step {
            rule: rule.label.to_string(),
            file: self.file_of(rule),
            line: rule.at.map(|at| at.line),
            matched: !matches!(answer, Answer::No(_)),
            because,
            is_in_doubt: matches!(answer, Answer::Doubt(_)),
        }
    }
}

impl PortMatters {
    fn of(rule: &Rule, host: &Host) -> Self {
        Self {
            rule: rule.label.to_string(),
            ports: match rule.ports.ranges() {
                [(low, high)] if low == high => format!("port {low}"),
                _ => format!("ports {}", list(port::show(&rule.ports))),
            },
            host: host.to_string(),
        }
    }
}

impl Explanation {
    pub(crate) fn new(
        asked: Asked<'_>,
        destination: &Destination,
        application: &Application,
    ) -> Self {
        Self::asking(asked, |_| destination.clone(), application)
    }

    /// The same of all ports of a host: each rule is asked about a port that it takes.
    pub(crate) fn of_host(
        asked: Asked<'_>,
        host: &Host,
        application: &Application,
    ) -> Result<Self, PortMatters> {
        let at = |rule: &Rule| host.at(port::first(&rule.ports).unwrap_or(0));
        let known = application.as_far_as_known();
        for application in [Some(&known), None] {
            if let Some(rule) = one_of_some_ports(asked, at, application) {
                return Err(PortMatters::of(rule, host));
            }
        }
        if let Some(rule) = one_about_some_ports_elsewhere(asked, at, &known) {
            return Err(PortMatters::of(rule, host));
        }
        Ok(Self::asking(asked, at, application))
    }

    /// `at` is what a rule is asked about.
    fn asking(
        asked: Asked<'_>,
        at: impl Fn(&Rule) -> Destination,
        application: &Application,
    ) -> Self {
        let at = |rule: &Rule| at(rule).normalized();
        let application = &application.as_far_as_known();
        let mut steps = Vec::new();
        let mut decided = None;
        for (position, rule) in asked.rules.iter().enumerate() {
            let destination = at(rule);
            let answer = rule.ask(&destination, Some(application), asked.circumstances);
            let because = because(rule, answer, &destination, application, asked.circumstances);
            steps.push(asked.step(rule, answer, because));
            if matches!(answer, Answer::No(_)) {
                continue;
            }
            let decision = match answer {
                Answer::Yes => rule.decide(destination),
                Answer::No(_) | Answer::Doubt(_) | Answer::Needs(_) => rule.decide_in_doubt(),
            };
            let redirect = Redirect::of(asked, position).filter(|_| answer == Answer::Yes);
            decided = Some(match redirect.and_then(|it| it.closed(at, application)) {
                None => (rule, decision),
                Some(closed) => {
                    steps.push(asked.step(closed.by, closed.answer, closed.because));
                    (closed.by, closed.decision)
                }
            });
            break;
        }
        let (decisive, decision) = decided.unwrap_or_else(|| {
            let default = asked.default;
            steps.push(asked.step(default, Answer::Yes, "no rule matches".to_owned()));
            (default, default.decide(at(default)))
        });
        let first = first_for_kernel(asked, at);
        let is_early =
            matches!(&decision, Decision::Tunnel(permit) if permit.connect() == Connect::Early);
        let first = first.filter(|first| first.is_handed_over() && !is_early);
        Self {
            made_early_by: first.map(|first| first.label.clone()),
            not_captured: uncaptured::why(&at(asked.default)),
            decision,
            gateways: None,
            file: asked.file_of(decisive),
            line: decisive.at.map(|at| at.line),
            has_several_files: asked.files.len() > 1,
            steps,
        }
    }

    /// With the gateways that the zone takes from the destination.
    pub(crate) fn with_gateways(self, zones: &[Zone]) -> Self {
        let Decision::Tunnel(permit) = &self.decision else {
            return self;
        };
        let zone = zones.iter().find(|zone| zone.name == permit.zone());
        let gateways = zone.map_or(&[][..], |zone| &zone.gateways);
        let host = permit.destination().host().unwrap_or_default();
        let taken = gateways.iter().filter(|it| it.is_from_destination());
        let taken: Vec<String> = taken
            .map(|gateway| match gateway.for_host(&host) {
                Ok(gateway) => gateway.to_string(),
                Err(why) => why,
            })
            .collect();
        Self {
            gateways: (!taken.is_empty()).then_some(taken),
            ..self
        }
    }

    /// What the flow gets: the same as [`Policy::judge`](crate::Policy::judge) gives.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// What the program's `connect()` gives. `None`: what it would give without us, as a `pass` or `block` has it that no
    /// earlier rule makes early.
    pub fn connect(&self) -> Option<Connect> {
        match (&self.made_early_by, &self.decision) {
            (Some(_), _) => Some(Connect::Early),
            (None, Decision::Tunnel(permit)) => Some(permit.connect()),
            (None, Decision::Pass(_) | Decision::Block(_)) => None,
        }
    }

    /// Where it is tunnelled to, if that is not where was asked.
    pub fn elsewhere(&self) -> Option<&Destination> {
        match &self.decision {
            Decision::Tunnel(permit) => permit.elsewhere(),
            Decision::Pass(_) | Decision::Block(_) => None,
        }
    }

    /// Where the rule stands that decided.
    pub fn line(&self) -> Option<usize> {
        self.line.and_then(|line| usize::try_from(line).ok())
    }

    /// What it gets while no gateway answers, if it is tunnelled.
    pub fn on_down(&self) -> Option<OnDown> {
        match &self.decision {
            Decision::Tunnel(permit) => Some(permit.on_down()),
            Decision::Pass(_) | Decision::Block(_) => None,
        }
    }

    /// What the program is told, if it is blocked.
    pub fn with(&self) -> Option<Refusal> {
        match &self.decision {
            Decision::Block(block) => Some(block.refusal()),
            Decision::Tunnel(_) | Decision::Pass(_) => None,
        }
    }

    /// Why no captured connection is meant: such a one goes as it would without Adit, whatever the rules say.
    pub fn not_captured(&self) -> Option<&'static str> {
        self.not_captured
    }

    /// What each rule said, in order; the last one decided.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }
}

/// The rule that says how the kernel begins: it knows no names and no applications. `None`: no kernel sees the destination.
fn first_for_kernel<'a>(asked: Asked<'a>, at: impl Fn(&Rule) -> Destination) -> Option<&'a Rule> {
    at(asked.default).address?;
    let could_match = |rule: &&Rule| {
        let seen = as_seen(at(rule));
        !matches!(rule.ask(&seen, None, asked.circumstances), Answer::No(_))
    };
    Some(
        asked
            .rules
            .iter()
            .find(could_match)
            .unwrap_or(asked.default),
    )
}

/// As a kernel sees it.
fn as_seen(destination: Destination) -> Destination {
    Destination {
        name: None,
        ..destination
    }
}

/// The first rule because of which one port of a host gets something else than another. `application: None` is for what a
/// kernel sees, where it matters only which rules are early.
fn one_of_some_ports<'a>(
    asked: Asked<'a>,
    at: impl Fn(&Rule) -> Destination,
    application: Option<&Application>,
) -> Option<&'a Rule> {
    let takes = |rule: &&Rule| {
        let destination = match application {
            Some(_) => at(rule),
            None => as_seen(at(rule)),
        };
        let answer = rule.ask(&destination.normalized(), application, asked.circumstances);
        !rule.ports.is_empty() && !matches!(answer, Answer::No(_))
    };
    let mut of_some_ports = Vec::new();
    let mut rules = asked.rules.iter().filter(takes);
    let of_all_ports = rules.find(|rule| {
        let is_of_all = port::is_all(&rule.ports);
        if !is_of_all {
            of_some_ports.push(*rule);
        }
        is_of_all
    });
    let last_word = of_all_ports.unwrap_or(asked.default).is_early();
    let mut of_some_ports = of_some_ports.into_iter();
    of_some_ports.find(|rule| application.is_some() || rule.is_early() != last_word)
}

/// The first rule because of which one port of a host is closed where a rule of a later layer leads, and another not.
fn one_about_some_ports_elsewhere<'a>(
    asked: Asked<'a>,
    at: impl Fn(&Rule) -> Destination,
    application: &Application,
) -> Option<&'a Rule> {
    let takes = |rule: &Rule| {
        let answer = rule.ask(
            &at(rule).normalized(),
            Some(application),
            asked.circumstances,
        );
        !matches!(answer, Answer::No(_))
    };
    let position = asked.rules.iter().position(takes)?;
    let Redirect {
        elsewhere, earlier, ..
    } = Redirect::of(asked, position).filter(|it| it.elsewhere.port.is_none())?;
    let there = |rule: &Rule| elsewhere.instead_of(at(rule));
    one_of_some_ports(earlier, there, Some(application))
}

impl Serialize for Explanation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Explanation", 14)?;
        object.serialize_field("action", self.decision.action())?;
        object.serialize_field("zone", &self.decision.zone())?;
        object.serialize_field("gateways", &self.gateways)?;
        let elsewhere = self.elsewhere().map(Destination::to_string);
        object.serialize_field("destination", &elsewhere)?;
        object.serialize_field("connect", &self.connect().map(Connect::as_str))?;
        object.serialize_field("on_down", &self.on_down().map(OnDown::as_str))?;
        object.serialize_field("with", &self.with().map(Refusal::as_str))?;
        object.serialize_field("not_captured", &self.not_captured)?;
        object.serialize_field("rule", self.decision.rule())?;
        object.serialize_field("file", &self.file)?;
        object.serialize_field("line", &self.line)?;
        let Telling { log, notify } = self.decision.telling();
        object.serialize_field("log", &log)?;
        object.serialize_field("notify", &notify)?;
        object.serialize_field("steps", &self.steps)?;
        object.end()
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.decision.action())?;
        if let Some(zone) = self.decision.zone() {
            write!(f, " through {zone}")?;
        }
        if let Some(elsewhere) = self.elsewhere() {
            write!(f, " to {elsewhere}")?;
        }
        let connect = self.connect().map(|it| format!("connect: {}", it.as_str()));
        // The usual words are left out.
        let on_down = self.on_down().filter(|it| *it != OnDown::Reject);
        let on_down = on_down.map(|it| format!("on_down: {}", it.as_str()));
        let with = self.with().filter(|it| *it != Refusal::Reset);
        let with = with.map(|it| format!("with: {}", it.as_str()));
        let words: Vec<String> = [connect, on_down, with].into_iter().flatten().collect();
        if !words.is_empty() {
            write!(f, " ({})", words.join(", "))?;
        }
        write!(f, ", by {:?}", self.decision.rule())?;
        if let (Some(file), Some(line)) = (&self.file, self.line) {
            write!(f, " ({file}:{line})")?;
        }
        for step in &self.steps {
            let mark = if step.matched { "yes" } else { "no " };
            write!(f, "\n  {mark}  {:?}", step.rule)?;
            match (&step.file, step.line) {
                (Some(file), Some(line)) if self.has_several_files => write!(f, ", {file}:{line}")?,
                (_, Some(line)) => write!(f, ", line {line}")?,
                (_, None) => {}
            }
            write!(f, ": {}", step.because)?;
        }
        if let Some(rule) = &self.made_early_by {
            write!(
                f,
                "\n  early because of {rule:?}: what it could match by address and port is accepted before more is known"
            )?;
        }
        if let Some(gateways) = &self.gateways {
            let gateways = gateways.join(", then ");
            write!(
                f,
                "\n  by a login at {gateways}, and from there to its loopback"
            )?;
        }
        let Telling { log, notify } = self.decision.telling();
        if log {
            f.write_str("\n  said in the log")?;
        }
        if notify {
            f.write_str("\n  told on the desktop, when it is the first time for an application")?;
        }
        if let Some(why) = self.not_captured {
            write!(f, "\n  not captured: {why}")?;
        }
        Ok(())
    }
}
