//! Why a flow gets what it gets.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

use crate::application::Application;
use crate::decision::Decision;
use crate::destination::Destination;
use crate::policy::DEFAULT;
use crate::port;
use crate::rule::{Answer, Circumstances, Matcher, Rule, Validity};
use crate::truth::OneOf;
use crate::zone::Connect;

/// More patterns of one list than this are only counted.
const MOST_PATTERNS: usize = 5;

/// Why a flow gets what it gets.
///
/// `Display` is for people. `Serialize` gives `{"action", "zone", "destination", "connect", "rule", "file", "line", "steps"}`;
/// `zone` is null unless the action is `tunnel`, `destination` is where a tunnel goes instead of where was asked, else null,
/// `connect` is [`Explanation::connect`], `file` and `line` are null for a policy without a file. Each step is `{"rule", "line", "matched", "because"}`; the last one is the rule that decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    decision: Decision,
    file: Option<PathBuf>,
    line: Option<usize>,
    /// Label of an earlier rule because of which the program hears of success at once.
    made_early_by: Option<Arc<str>>,
    steps: Vec<Step>,
}

/// What one rule said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    rule: String,
    line: Option<usize>,
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

impl Explanation {
    pub(crate) fn new(
        file: Option<&Path>,
        rules: &[Rule],
        default: &Rule,
        circumstances: &Circumstances,
        destination: &Destination,
        application: &Application,
    ) -> Self {
        let destination = destination.normalized();
        let application = &application.as_far_as_known();
        let mut steps = Vec::new();
        let (mut decisive, mut in_doubt) = (default, false);
        for rule in rules {
            let answer = rule.ask(&destination, Some(application), circumstances);
            let matched = !matches!(answer, Answer::No(_));
            steps.push(Step {
                rule: rule.label.as_ref().to_owned(),
                line: rule.line,
                matched,
                because: because(rule, answer, &destination, application, circumstances),
                is_in_doubt: matches!(answer, Answer::Doubt(_)),
            });
            if matched {
                (decisive, in_doubt) = (rule, answer != Answer::Yes);
                break;
            }
        }
        if steps.last().is_none_or(|last| !last.matched) {
            steps.push(Step {
                rule: DEFAULT.to_owned(),
                line: default.line,
                matched: true,
                because: "no rule matches".to_owned(),
                is_in_doubt: false,
            });
        }
        let first = first_for_kernel(rules, default, &destination, circumstances);
        let is_early = decisive.is_early() && !in_doubt;
        let first = first.filter(|first| first.is_early() && !is_early);
        Self {
            made_early_by: first.map(|first| Arc::clone(&first.label)),
            decision: match in_doubt {
                false => decisive.decide(destination),
                true => decisive.decide_in_doubt(),
            },
            file: file.map(Path::to_path_buf),
            line: decisive.line,
            steps,
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

    /// What each rule said, in order; the last one decided.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }
}

/// The rule that says how the kernel begins: it knows no names and no applications. `None`: no kernel sees the destination.
fn first_for_kernel<'a>(
    rules: &'a [Rule],
    default: &'a Rule,
    destination: &Destination,
    circumstances: &Circumstances,
) -> Option<&'a Rule> {
    let seen = Destination {
        address: Some(destination.address?),
        name: None,
        port: destination.port,
    };
    let could_match = |rule: &&Rule| !matches!(rule.ask(&seen, None, circumstances), Answer::No(_));
    Some(rules.iter().find(could_match).unwrap_or(default))
}

/// The one sentence about a rule.
fn because(
    rule: &Rule,
    answer: Answer,
    destination: &Destination,
    application: &Application,
    circumstances: &Circumstances,
) -> String {
    let matcher = match answer {
        Answer::Yes | Answer::Needs(_) => return "it matches".to_owned(),
        Answer::Doubt(matcher) => {
            let unknown = match matcher {
                Matcher::User | Matcher::Group => "user",
                Matcher::Target if destination.address.is_none() => "host",
                Matcher::Target => "host's name",
                Matcher::Application | Matcher::Port | Matcher::Enabled | Matcher::Expires => {
                    "application"
                }
            };
            return format!(
                "the `not` of its `{}` cannot be answered, as too little is known of the {unknown}: blocked",
                matcher.key()
            );
        }
        Answer::No(matcher) => matcher,
    };
    let people = rule.people.as_deref();
    let user = &circumstances.user;
    match matcher {
        Matcher::Enabled => "it is switched off".to_owned(),
        Matcher::Expires => match rule.validity {
            Validity::Until(last) => format!("it expired: {last} was its last day"),
            Validity::Always | Validity::Off => "it expired".to_owned(),
        },
        Matcher::User => {
            let users = people.and_then(|people| people.users.as_ref());
            format!("the user {user} is not in its `user` ({})", one_of(users))
        }
        Matcher::Group => {
            let groups = people.and_then(|people| people.groups.as_ref());
            format!(
                "the user {user} is in none of its `group` ({})",
                one_of(groups)
            )
        }
        Matcher::Target => {
            let targets = rule.targets.as_deref();
            let asks_for_names = targets.is_some_and(|it| !it.any.names.is_empty());
            let host = match (&destination.name, destination.address) {
                (Some(name), Some(address)) => format!("{name} ({address})"),
                (Some(name), None) => name.clone(),
                (None, Some(address)) if asks_for_names => {
                    format!("{address}, of no known name,")
                }
                (None, Some(address)) => address.to_string(),
                (None, None) => "a host that is not known".to_owned(),
            };
            let shown = targets.map_or("any", |targets| targets.shown.as_str());
            format!("{host} is not in its `to` ({shown})")
        }
        Matcher::Port => {
            let ports = list(port::show(&rule.ports));
            format!("port {} is not in its `ports` ({ports})", destination.port)
        }
        Matcher::Application => {
            let patterns = one_of(rule.applications.as_ref());
            format!("the application {application} is not in its `app` ({patterns})")
        }
    }
}

fn one_of<T: fmt::Display>(patterns: Option<&OneOf<T>>) -> String {
    let Some(patterns) = patterns else {
        return "any".to_owned();
    };
    let any = list(patterns.any.iter().map(T::to_string));
    match &patterns.none_of {
        None => any,
        Some(none_of) => {
            let rest = format!("all but {}", list(none_of.iter().map(T::to_string)));
            if any.is_empty() {
                rest
            } else {
                format!("{any}, {rest}")
            }
        }
    }
}

/// The first few of a list, and how many there are beyond.
pub(crate) fn list(items: impl ExactSizeIterator<Item = String>) -> String {
    let more = items.len().saturating_sub(MOST_PATTERNS);
    let mut items: Vec<String> = items.take(MOST_PATTERNS).collect();
    if more > 0 {
        items.push(format!("and {more} more"));
    }
    items.join(", ")
}

impl Serialize for Explanation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Explanation", 8)?;
        object.serialize_field("action", self.decision.action())?;
        object.serialize_field("zone", &self.decision.zone())?;
        let elsewhere = self.elsewhere().map(Destination::to_string);
        object.serialize_field("destination", &elsewhere)?;
        object.serialize_field("connect", &self.connect().map(Connect::as_str))?;
        object.serialize_field("rule", self.decision.rule())?;
        let file = self.file.as_deref().map(Path::to_string_lossy);
        object.serialize_field("file", &file)?;
        object.serialize_field("line", &self.line)?;
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
        if let Some(connect) = self.connect() {
            write!(f, " (connect: {})", connect.as_str())?;
        }
        write!(f, ", by {:?}", self.decision.rule())?;
        if let (Some(file), Some(line)) = (&self.file, self.line) {
            write!(f, " ({}:{line})", file.display())?;
        }
        for step in &self.steps {
            let mark = if step.matched { "yes" } else { "no " };
            write!(f, "\n  {mark}  {:?}", step.rule)?;
            if let Some(line) = step.line {
                write!(f, ", line {line}")?;
            }
            write!(f, ": {}", step.because)?;
        }
        if let Some(rule) = &self.made_early_by {
            write!(
                f,
                "\n  early because of {rule:?}: what it could match by address and port is accepted before more is known"
            )?;
        }
        Ok(())
    }
}
