//! The second stage: what is meant by what was written.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::diagnostics::{Diagnostics, Fault, Findings, Place};
use crate::document;
use crate::expectation;
use crate::gateway;
use crate::matchers::Matchers;
use crate::policy::{Checked, DEFAULT, Policy, matches_everything};
use crate::rule::{Action, Rule};
use crate::shadow;
use crate::suggestion;
use crate::written::{self, At, WrittenFile, WrittenRule, WrittenZone};
use crate::zone::{Connect, Engine, Identity, OnDown, Zone};

/// Bytes of a rule file.
const LARGEST_FILE: usize = 16 * 1024 * 1024;
/// Pairs of rules that are compared for whether one shadows the other: about a second.
const PATIENCE: usize = 30_000_000;
/// Characters of a zone's name.
const LONGEST_ZONE: usize = 64;

/// See [`Policy::parse`].
pub(crate) fn compile(file: &Path, text: &str) -> Result<Checked, Diagnostics> {
    let mut findings = Findings::new();
    let Some(policy) = compile_into(file, text, &mut findings) else {
        return Err(findings.into_errors(file, text));
    };
    Ok(Checked {
        policy,
        warnings: findings.into_warnings(file, text),
    })
}

fn compile_into(file: &Path, text: &str, findings: &mut Findings) -> Option<Policy> {
    let start = Place {
        line: 1,
        column: 1,
        length: 1,
    };
    if text.len() > LARGEST_FILE {
        let hint = format!("at most {LARGEST_FILE} are read");
        let fault = Fault::new(format!("the file has {} bytes", text.len()));
        findings.error(start, fault.hint(hint));
        return None;
    }
    let root = match document::read(text) {
        Ok(root) => root,
        Err((place, fault)) => {
            findings.error(place, fault);
            return None;
        }
    };
    let written = written::read(root, findings);
    let mut compiler = Compiler::new(&written, findings);
    let (places, rules) = compiler.rules(&written.rules);
    let default = compiler.default(written.default.as_ref());
    let zones = compiler.zones(&written.zones);
    refuse_shadowed(&rules, &places, findings);
    let names = written.zones.iter().map(|zone| zone.name.value.as_str());
    let tests = expectation::read(&written.tests, &names.collect::<Vec<_>>(), findings);
    let default = default.filter(|_| !findings.failed())?;
    let policy = Policy::new(Some(file.to_path_buf()), zones, rules, default);
    expectation::check(&policy, &tests, findings);
    (!findings.failed()).then_some(policy)
}

/// What a zone's name gives to the rules that name it.
struct KnownZone {
    name: Arc<str>,
    on_down: OnDown,
    connect: Connect,
    is_used: bool,
}

/// What a rule says instead of its zone.
#[derive(Debug, Clone, Copy, Default)]
struct OwnWords {
    on_down: Option<OnDown>,
    connect: Option<Connect>,
}

struct Compiler<'a> {
    findings: &'a mut Findings,
    zones: Vec<KnownZone>,
    matchers: Matchers,
}

impl<'a> Compiler<'a> {
    /// Zones that are wrong in themselves still count as defined: one mistake is one error.
    fn new(written: &WrittenFile, findings: &'a mut Findings) -> Self {
        let zones = written.zones.iter().map(|zone| {
            let on_down = zone.on_down.as_ref();
            let connect = zone.connect.as_ref();
            KnownZone {
                name: zone.name.value.as_str().into(),
                on_down: on_down
                    .and_then(|word| on_down_of(&word.value).ok())
                    .unwrap_or(OnDown::Reject),
                connect: connect
                    .and_then(|word| connect_of(&word.value).ok())
                    .unwrap_or(Connect::Honest),
                is_used: false,
            }
        });
        Self {
            zones: zones.collect(),
            findings,
            matchers: Matchers::default(),
        }
    }

    /// The rules that could be understood, and where each stands.
    fn rules(&mut self, written: &[WrittenRule]) -> (Vec<Place>, Vec<Rule>) {
        self.refuse_duplicate_labels(written);
        written
            .iter()
            .filter_map(|rule| Some((rule.place, self.rule(rule)?)))
            .unzip()
    }

    fn rule(&mut self, written: &WrittenRule) -> Option<Rule> {
        let action = self.action(written);
        let app = written.app.as_deref();
        let applications = self.matchers.applications(app, self.findings);
        let targets = self.matchers.targets(written.to.as_deref(), self.findings);
        let ports = self.matchers.ports(written.ports.as_deref(), self.findings);
        Some(Rule {
            label: label(written).into(),
            line: Some(written.place.line),
            applications: applications?,
            targets: targets?,
            ports: ports?,
            action: action?,
        })
    }

    fn refuse_duplicate_labels(&mut self, written: &[WrittenRule]) {
        let mut seen = HashMap::from([(DEFAULT.to_owned(), None)]);
        for rule in written.iter().filter(|rule| rule.name.is_none()) {
            seen.insert(label(rule), Some(rule.place.line));
        }
        for name in written.iter().filter_map(|rule| rule.name.as_ref()) {
            let Some(first) = seen.insert(name.value.clone(), Some(name.place.line)) else {
                continue;
            };
            let fault = Fault::new(format!("the name {:?} is taken", name.value));
            let hint = match first {
                Some(line) => format!("the rule in line {line} is called so"),
                None => "what decides when no rule matches is called so".to_owned(),
            };
            self.findings.error(name.place, fault.hint(hint));
        }
    }

    fn action(&mut self, written: &WrittenRule) -> Option<Action> {
        let action = &written.action;
        let on_down = self.optional(written.on_down.as_ref(), on_down_of);
        let connect = self.optional(written.connect.as_ref(), connect_of);
        let own = OwnWords {
            on_down: on_down?,
            connect: connect?,
        };
        let action = match action.value.as_str() {
            "tunnel" => return self.tunnel(action.place, written.zone.as_ref(), own),
            "pass" => Action::Pass,
            "block" => Action::Block,
            other => {
                let fault = wrong_action(other);
                self.findings.error(action.place, fault);
                return None;
            }
        };
        let only_tunnels = [
            ("zone", &written.zone),
            ("on_down", &written.on_down),
            ("connect", &written.connect),
        ];
        for (key, value) in only_tunnels {
            if let Some(At { place, .. }) = value {
                let fault = Fault::new(format!("`{key}` says nothing without `action: tunnel`"));
                let hint = format!("this rule's action is {}", action.as_str());
                self.findings.error(*place, fault.hint(hint));
            }
        }
        Some(action)
    }

    /// `zone`: as written; when it is not, and one zone is defined, that is meant.
    fn tunnel(&mut self, place: Place, zone: Option<&At<String>>, own: OwnWords) -> Option<Action> {
        let place = zone.map_or(place, |zone| zone.place);
        let found = find_zone(&mut self.zones, zone.map(|zone| zone.value.as_str()));
        let action = found.map(|zone| Action::Tunnel {
            zone: Arc::clone(&zone.name),
            on_down: own.on_down.unwrap_or(zone.on_down),
            connect: own.connect.unwrap_or(zone.connect),
        });
        self.noted(place, action)
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
            ("block", None) => Action::Block,
            (_, _) => {
                let fault = Fault::new(format!("{value:?} is not a default"));
                let hint = "write `pass`, `block` or `tunnel ZONE`";
                self.findings.error(*place, fault.hint(hint));
                return None;
            }
        };
        Some(Rule::for_everything(DEFAULT, Some(place.line), action))
    }

    fn zones(&mut self, written: &[WrittenZone]) -> Vec<Zone> {
        let zones: Vec<Zone> = written.iter().filter_map(|zone| self.zone(zone)).collect();
        let known = written.iter().zip(&self.zones);
        for (zone, _) in known.filter(|(_, known)| !known.is_used) {
            let fault = Fault::new(format!("nothing uses the zone {:?}", zone.name.value));
            let hint = "name it in a rule or in the default";
            self.findings.warning(zone.name.place, fault.hint(hint));
        }
        zones
    }

    fn zone(&mut self, written: &WrittenZone) -> Option<Zone> {
        let name = self.noted(written.name.place, zone_name(&written.name.value));
        let gateways = written.gateways.iter();
        let gateways: Vec<_> = gateways
            .filter_map(|at| self.noted(at.place, gateway::parse(&at.value)))
            .collect();
        let identity = self.optional(written.identity.as_ref(), |text| match text {
            "agent" => Ok(Identity::Agent),
            path => file(path).map(Identity::File),
        });
        let known_hosts = self.optional(written.known_hosts.as_ref(), file);
        let engine = self.optional(written.engine.as_ref(), engine_of);
        let on_down = self.optional(written.on_down.as_ref(), on_down_of);
        let connect = self.optional(written.connect.as_ref(), connect_of);
        Some(Zone {
            name: name?,
            gateways,
            identity: identity?,
            known_hosts: known_hosts?,
            engine: engine?.unwrap_or(Engine::Auto),
            on_down: on_down?.unwrap_or(OnDown::Reject),
            connect: connect?.unwrap_or(Connect::Honest),
        })
    }

    /// The outer `None`: it was wrong, and noted.
    fn optional<T>(
        &mut self,
        written: Option<&At<String>>,
        read: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<Option<T>> {
        match written {
            None => Some(None),
            Some(at) => self.noted(at.place, read(&at.value)).map(Some),
        }
    }

    fn noted<T>(&mut self, place: Place, result: Result<T, Fault>) -> Option<T> {
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

fn find_zone<'a>(zones: &'a mut [KnownZone], name: Option<&str>) -> Result<&'a KnownZone, Fault> {
    let found = match name {
        Some(name) => zones.iter().position(|zone| &*zone.name == name),
        None if zones.len() == 1 => Some(0),
        None => None,
    };
    let Some(found) = found else {
        return Err(no_zone(zones, name));
    };
    let zone = &mut zones[found];
    zone.is_used = true;
    Ok(zone)
}

fn no_zone(zones: &[KnownZone], name: Option<&str>) -> Fault {
    let names = zones.iter().map(|zone| &*zone.name);
    let all = names.clone().collect::<Vec<_>>().join(", ");
    match name {
        None if zones.is_empty() => Fault::new("there is no zone to tunnel through")
            .hint("define one: `zones: {NAME: {gateways: [USER@HOST:PORT]}}`"),
        None => Fault::new("it is not said through which zone").hint(format!("name one: {all}")),
        Some(name) => {
            let fault = Fault::new(format!("no zone is called {name:?}"));
            match suggestion::nearest(name, names) {
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
    choose(fault, word, &["tunnel", "pass", "block"])
}

fn on_down_of(word: &str) -> Result<OnDown, Fault> {
    match word {
        "reject" => Ok(OnDown::Reject),
        "hold" => Ok(OnDown::Hold),
        "pass" => Ok(OnDown::Pass),
        other => {
            let fault = Fault::new(format!("{other:?} is not a word for `on_down`"));
            Err(choose(fault, other, &["reject", "hold", "pass"]))
        }
    }
}

fn connect_of(word: &str) -> Result<Connect, Fault> {
    match word {
        "honest" => Ok(Connect::Honest),
        "early" => Ok(Connect::Early),
        other => {
            let fault = Fault::new(format!("{other:?} is not a word for `connect`"));
            Err(choose(fault, other, &["honest", "early"]))
        }
    }
}

fn engine_of(word: &str) -> Result<Engine, Fault> {
    match word {
        "auto" => Ok(Engine::Auto),
        "embedded" => Ok(Engine::Embedded),
        "openssh" => Err(
            Fault::new("the engine \"openssh\" is not available in this version")
                .hint("write `auto` or `embedded`"),
        ),
        other => {
            let fault = Fault::new(format!("{other:?} is not an engine"));
            Err(choose(fault, other, &["auto", "embedded"]))
        }
    }
}

fn choose(fault: Fault, written: &str, known: &[&str]) -> Fault {
    match suggestion::nearest(written, known.iter().copied()) {
        Some(meant) => fault.hint(format!("did you mean `{meant}`?")),
        None => fault.hint(format!("write one of {}", known.join(", "))),
    }
}

/// It is a word of its own in `default: tunnel ZONE` and on command lines.
fn zone_name(text: &str) -> Result<String, Fault> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_name = (1..=LONGEST_ZONE).contains(&text.len())
        && !text.starts_with('-')
        && text.bytes().all(is_plain);
    if is_name {
        return Ok(text.to_owned());
    }
    Err(
        Fault::new(format!("{text:?} cannot be the name of a zone")).hint(format!(
            "take 1 to {LONGEST_ZONE} letters, digits, `-`, `_` and `.`"
        )),
    )
}

/// Relative to nothing: a file is read by programs that run in different directories.
fn file(path: &str) -> Result<PathBuf, Fault> {
    if path.starts_with('/') || path.starts_with("~/") {
        return Ok(PathBuf::from(path));
    }
    Err(Fault::new(format!("{path:?} is not an absolute path"))
        .hint("begin it with `/`, or with `~/` for the user's home"))
}

fn refuse_shadowed(rules: &[Rule], places: &[Place], findings: &mut Findings) {
    let mut search = shadow::Search::new(rules, PATIENCE);
    for position in 0..rules.len() {
        let Ok(shadows) = search.shadows_of(position) else {
            let fault = Fault::new("from here on, rules that can never match are not found");
            let hint = "too many rules before this one are about the same hosts";
            findings.warning(places[position], fault.hint(hint));
            return;
        };
        let names: Vec<String> = shadows
            .iter()
            .map(|&it| format!("{:?} (line {})", rules[it].label, places[it].line))
            .collect();
        let fault = Fault::new(format!("{:?} can never match", rules[position].label));
        let fault = match names.as_slice() {
            [] => continue,
            [one] if matches_everything(&rules[shadows[0]]) => {
                fault.hint(format!("{one} takes every flow before it"))
            }
            [one] => fault.hint(format!("{one} takes all its flows before it")),
            several => {
                let several = several.join(", ");
                fault.hint(format!(
                    "together these take all its flows before it: {several}"
                ))
            }
        };
        findings.error(places[position], fault);
    }
}
