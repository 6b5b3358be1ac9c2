//! The second stage: what is meant by what was written.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use crate::date::Date;
use crate::decision::Refusal;
use crate::diagnostics::{Diagnostics, Fault, Findings, Place};
use crate::document;
use crate::elsewhere::{self, Elsewhere};
use crate::entrances;
use crate::expectation;
use crate::explanation;
use crate::index::Index;
use crate::kernel_room;
use crate::language;
use crate::matchers::Matchers;
use crate::overlap;
use crate::policy::{Checked, DEFAULT, Policy};
use crate::port;
use crate::rule::{Action, Rule, Validity};
use crate::sets::{Files, Sets};
use crate::telling::Telling;
use crate::uncaptured;
use crate::unreachable;
use crate::words;
use crate::written::{self, At, WrittenFile, WrittenRule};
use crate::zone::{Connect, OnDown};

/// Bytes of a rule file.
const LARGEST_FILE: usize = 16 * 1024 * 1024;
const START: Place = Place {
    file: 0,
    line: 1,
    column: 1,
    length: 1,
};

/// See [`Policy::parse`].
pub(crate) fn compile(
    file: &Path,
    text: &str,
    today: Date,
    files: &mut dyn Files,
) -> Result<Checked, Diagnostics> {
    if text.len() > LARGEST_FILE {
        let hint = format!("at most {LARGEST_FILE} are read");
        let fault = Fault::new(format!("the file has {} bytes", text.len()));
        let mut findings = Findings::new(file, "");
        findings.error(START, fault.hint(hint));
        return Err(findings.into_errors());
    }
    let mut findings = Findings::new(file, text);
    match compile_into(file, text, today, files, &mut findings) {
        Some(policy) => Ok(Checked {
            policy,
            warnings: findings.into_warnings(),
        }),
        None => Err(findings.into_errors()),
    }
}

fn compile_into(
    file: &Path,
    text: &str,
    today: Date,
    files: &mut dyn Files,
    findings: &mut Findings,
) -> Option<Policy> {
    let root = match document::read(text) {
        Ok(root) => root,
        Err((place, fault)) => {
            findings.error(place, fault);
            return None;
        }
    };
    let mut written = written::read(root, findings);
    let sets = Sets::read(std::mem::take(&mut written.sets), files, findings);
    let mut compiler = Compiler::new(&written, sets, today, findings);
    let (places, rules) = compiler.rules(&written);
    let default = compiler.default(written.default.as_ref());
    let entrances = compiler.entrances(&written);
    let zones = compiler.zones(&written.zones);
    compiler.matchers.warn_of_unused_sets(compiler.findings);
    let index = Index::new(&rules);
    overlap::note(&rules, &places, findings);
    uncaptured::warn(&rules, &places, findings);
    unreachable::check(&rules, &index, &places, text.len(), findings);
    let names = written.zones.iter().map(|zone| zone.name.value.as_str());
    let tests = expectation::read(&written.tests, &names.collect(), findings);
    let default = default.filter(|_| !findings.failed())?;
    let file = Some(file.to_path_buf());
    let policy = Policy::new(file, zones, entrances, rules, default, index, Some(today));
    expectation::check(&policy, &tests, findings);
    entrances::warn_of_blocked(&policy, &written.tunnels, findings);
    kernel_room::warn(&policy, &places, findings);
    (!findings.failed()).then_some(policy)
}

/// What a zone's name gives to the rules that name it.
#[derive(Debug)]
pub(crate) struct KnownZone {
    name: Arc<str>,
    on_down: OnDown,
    connect: Connect,
    pub(crate) is_used: bool,
}

/// What a rule says instead of its zone, and of the program.
#[derive(Debug, Clone, Default)]
pub(crate) struct OwnWords {
    pub(crate) on_down: Option<OnDown>,
    pub(crate) connect: Option<Connect>,
    pub(crate) elsewhere: Option<(Place, Elsewhere)>,
}

/// Makes of what was written what is meant.
#[derive(Debug)]
pub(crate) struct Compiler<'a> {
    pub(crate) findings: &'a mut Findings,
    pub(crate) zones: Vec<KnownZone>,
    by_name: HashMap<Arc<str>, usize>,
    matchers: Matchers,
    today: Date,
}

impl<'a> Compiler<'a> {
    /// Zones that are wrong in themselves still count as defined: one mistake is one error.
    fn new(written: &WrittenFile, sets: Sets, today: Date, findings: &'a mut Findings) -> Self {
        let has_names = !written.entries.is_empty() || !written.tunnels.is_empty();
        let zones = written.zones.iter().map(|zone| {
            let on_down = zone.on_down.as_ref();
            let connect = zone.connect.as_ref();
            KnownZone {
                name: zone.name.value.as_str().into(),
                on_down: on_down
                    .and_then(|word| words::on_down_of(&word.value).ok())
                    .unwrap_or(OnDown::Reject),
                connect: connect
                    .and_then(|word| words::connect_of(&word.value).ok())
                    .unwrap_or(Connect::Honest),
                is_used: false,
            }
        });
        let zones: Vec<KnownZone> = zones.collect();
        let names = zones.iter().map(|zone| Arc::clone(&zone.name));
        Self {
            by_name: names.zip(0..).collect(),
            zones,
            findings,
            matchers: Matchers::new(sets, has_names),
            today,
        }
    }

    /// The rules that could be understood, and where each stands.
    fn rules(&mut self, written: &WrittenFile) -> (Vec<Place>, Vec<Rule>) {
        self.refuse_duplicate_labels(written);
        let rules = written.rules.iter();
        rules
            .filter_map(|rule| Some((rule.place, self.rule(rule)?)))
            .unzip()
    }

    fn rule(&mut self, written: &WrittenRule) -> Option<Rule> {
        let action = self.action(written);
        let validity = self.validity(written);
        let telling = self.telling(written);
        self.optional(written.protocol.as_ref(), words::protocol);
        let people = self.matchers.people(written, self.findings);
        let app = written.app.as_deref();
        let applications = self.matchers.applications(app, self.findings);
        let targets = self.matchers.targets(written.to.as_deref(), self.findings);
        let ports = self.matchers.ports(written.ports.as_deref(), self.findings);
        Some(Rule {
            label: label(written).into(),
            line: usize::try_from(written.place.line).ok(),
            validity: validity?,
            people: people?,
            applications: applications?,
            targets: targets?,
            ports: ports?,
            is_of_a_file: self.matchers.are_of_a_file(written),
            action: action?,
            telling: telling?,
        })
    }

    fn validity(&mut self, written: &WrittenRule) -> Option<Validity> {
        let enabled = self.optional(written.enabled.as_ref(), words::switch);
        let expires = self.optional(written.expires.as_ref(), Date::parse);
        let (enabled, expires) = (enabled?, expires?);
        if enabled == Some(false) {
            return Some(Validity::Off);
        }
        let Some(last) = expires else {
            return Some(Validity::Always);
        };
        if let Some(At { place, .. }) = written.expires.as_ref().filter(|_| last < self.today) {
            let fault = Fault::new(format!(
                "{:?} expired: it matches nothing any more",
                label(written)
            ));
            let hint = format!("{last} was its last day, and today is {}", self.today);
            self.findings.warning(*place, fault.hint(hint));
        }
        Some(Validity::Until(last))
    }

    fn telling(&mut self, written: &WrittenRule) -> Option<Telling> {
        let log = self.optional(written.log.as_ref(), words::switch);
        let notify = self.optional(written.notify.as_ref(), words::switch);
        Some(Telling {
            log: log?.unwrap_or_default(),
            notify: notify?.unwrap_or_default(),
        })
    }

    fn refuse_duplicate_labels(&mut self, written: &WrittenFile) {
        let WrittenFile { rules, tunnels, .. } = written;
        let mut seen = HashMap::from([(DEFAULT.to_owned(), None)]);
        for rule in rules.iter().filter(|rule| rule.name.is_none()) {
            seen.insert(label(rule), Some(("rule", rule.place.line)));
        }
        let of_rules = rules.iter().filter_map(|rule| rule.name.as_ref());
        let of_tunnels = tunnels.iter().map(|tunnel| &tunnel.name);
        let names = of_rules.map(|name| ("rule", name));
        for (what, name) in names.chain(of_tunnels.map(|name| ("tunnel", name))) {
            let here = Some((what, name.place.line));
            let Some(first) = seen.insert(name.value.clone(), here) else {
                continue;
            };
            let fault = Fault::new(format!("the name {:?} is taken", name.value));
            let hint = match first {
                Some((what, line)) => format!("the {what} in line {line} is called so"),
                None => "what decides when no rule matches is called so".to_owned(),
            };
            self.findings.error(name.place, fault.hint(hint));
        }
    }

    fn action(&mut self, written: &WrittenRule) -> Option<Action> {
        let action = &written.action;
        let on_down = self.optional(written.on_down.as_ref(), words::on_down_of);
        let connect = self.optional(written.connect.as_ref(), words::connect_of);
        let elsewhere = self.elsewhere(written);
        let own = OwnWords {
            on_down: on_down?,
            connect: connect?,
            elsewhere: elsewhere?,
        };
        let refusal = self.optional(written.with.as_ref(), words::refusal_of)?;
        if let (Some(At { place, .. }), "tunnel" | "pass") = (&written.with, action.value.as_str())
        {
            let fault = Fault::new("`with` says nothing without `action: block`");
            let hint = format!("this rule's action is {}", action.value);
            self.findings.error(*place, fault.hint(hint));
        }
        let action = match action.value.as_str() {
            "tunnel" => return self.tunnel(action.place, written.zone.as_ref(), own),
            "pass" => Action::Pass,
            "block" => Action::Block(refusal.unwrap_or(Refusal::Reset)),
            other => {
                let fault = wrong_action(other);
                self.findings.error(action.place, fault);
                return None;
            }
        };
        let only_tunnels = [
            ("zone", &written.zone),
            ("destination", &written.destination),
            ("port", &written.port),
            ("on_down", &written.on_down),
            ("connect", &written.connect),
        ];
        for (key, value) in only_tunnels {
            if let Some(At { place, .. }) = value {
                let fault = Fault::new(format!("`{key}` says nothing without `action: tunnel`"));
                let hint = match (key, &written.ports) {
                    ("port", None) => written::PORTS_ARE_MEANT.to_owned(),
                    (_, _) => format!("this rule's action is {}", action.as_str()),
                };
                self.findings.error(*place, fault.hint(hint));
            }
        }
        Some(action)
    }

    /// `destination:` and `port:`.
    fn elsewhere(&mut self, written: &WrittenRule) -> Option<Option<(Place, Elsewhere)>> {
        let host = self.optional(written.destination.as_ref(), elsewhere::host);
        let port = self.optional(written.port.as_ref(), port::single);
        let (host, port) = (host?, port?);
        let Some(At { place, .. }) = written.destination.as_ref().or(written.port.as_ref()) else {
            return Some(None);
        };
        if let (None, Some(port), None) = (&host, port, &written.ports) {
            let fault = Fault::new(format!(
                "connections to every port are tunnelled to port {port}"
            ));
            self.findings
                .warning(*place, fault.hint(written::PORTS_ARE_MEANT));
        }
        Some(Some((*place, Elsewhere { host, port })))
    }

    /// `zone`: as written; when it is not, and one zone is defined, that is meant.
    pub(crate) fn tunnel(
        &mut self,
        place: Place,
        zone: Option<&At<String>>,
        own: OwnWords,
    ) -> Option<Action> {
        let place = zone.map_or(place, |zone| zone.place);
        let name = zone.map(|zone| zone.value.as_str());
        let found = match name {
            Some(name) => self.by_name.get(name).copied(),
            None if self.zones.len() == 1 => Some(0),
            None => None,
        };
        let Some(zone) = found.and_then(|found| self.zones.get_mut(found)) else {
            let fault = no_zone(&self.zones, name, self.findings);
            self.findings.error(place, fault);
            return None;
        };
        zone.is_used = true;
        let on_down = own.on_down.unwrap_or(zone.on_down);
        if let (Some((place, _)), OnDown::Pass) = (&own.elsewhere, on_down) {
            let fault = no_way_around("another destination", &zone.name, own.on_down.is_none());
            self.findings.error(*place, fault);
        }
        Some(Action::Tunnel {
            zone: Arc::clone(&zone.name),
            on_down,
            connect: own.connect.unwrap_or(zone.connect),
            elsewhere: own.elsewhere.map(|(_, elsewhere)| Box::new(elsewhere)),
        })
    }

    fn default(&mut self, written: Option<&At<String>>) -> Option<Rule> {
        let At { place, value } = written?;
        let (word, zone) = match value.split_once(char::is_whitespace) {
            Some((word, zone)) => (word, Some(zone.trim())),
            None => (value.as_str(), None),
        };
        let action = match (word, zone) {
            ("tunnel", zone) => {
                let zone = zone.map(|zone| At {
                    place: *place,
                    value: zone.to_owned(),
                });
                self.tunnel(*place, zone.as_ref(), OwnWords::default())?
            }
            ("pass", None) => Action::Pass,
            ("block", None) => Action::Block(Refusal::Reset),
            (_, _) => {
                let fault = Fault::new(format!("{value:?} is not a default"));
                let hint = "write `pass`, `block` or `tunnel ZONE`";
                self.findings.error(*place, fault.hint(hint));
                return None;
            }
        };
        let line = usize::try_from(place.line).ok();
        Some(Rule::for_everything(DEFAULT, line, action))
    }

    /// The outer `None`: it was wrong, and noted.
    pub(crate) fn optional<T>(
        &mut self,
        written: Option<&At<String>>,
        read: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<Option<T>> {
        match written {
            None => Some(None),
            Some(at) => self.noted(at.place, read(&at.value)).map(Some),
        }
    }

    /// The value, or a note of what is wrong with it.
    pub(crate) fn noted<T>(&mut self, place: Place, result: Result<T, Fault>) -> Option<T> {
        result
            .map_err(|fault| self.findings.error(place, fault))
            .ok()
    }
}

fn label(rule: &WrittenRule) -> String {
    match &rule.name {
        Some(name) => name.value.clone(),
        None => format!("rule {}", rule.position),
    }
}

/// A direct connection would go where the program asked, which is not what was written.
pub(crate) fn no_way_around(what: &str, zone: &str, by_zone: bool) -> Fault {
    let fault = Fault::new(format!("{what} cannot be passed while no gateway answers"));
    let words = "write `on_down: reject` or `on_down: hold`";
    match by_zone {
        true => fault.hint(format!(
            "the zone {:?} has `on_down: pass`: {words} here",
            zone
        )),
        false => fault.hint(words),
    }
}

fn no_zone(zones: &[KnownZone], name: Option<&str>, findings: &mut Findings) -> Fault {
    let names = zones.iter().map(|zone| &*zone.name);
    let all = explanation::list(names.clone().map(str::to_owned));
    match name {
        None if zones.is_empty() => Fault::new("there is no zone to tunnel through")
            .hint("define one: `zones: {NAME: {gateways: [USER@HOST:PORT]}}`"),
        None => Fault::new("it is not said through which zone").hint(format!("name one: {all}")),
        Some(name) => {
            let fault = Fault::new(format!("no zone is called {name:?}"));
            match findings.suggest(name, names) {
                Some(meant) => fault.hint(format!("did you mean {meant:?}?")),
                None if zones.is_empty() => fault.hint("define it under `zones:`"),
                None => fault.hint(format!("the zones are {all}")),
            }
        }
    }
}

fn wrong_action(word: &str) -> Fault {
    let fault = Fault::new(format!("{word:?} is not an action"));
    if let Some(zone) = word.strip_prefix("tunnel ") {
        return fault.hint(format!(
            "write `action: tunnel` and `zone: {}`",
            zone.trim()
        ));
    }
    if word == "drop" || word == "reset" {
        return fault.hint(format!("write `action: block` and `with: {word}`"));
    }
    words::choose(fault, word, language::ACTIONS)
}
