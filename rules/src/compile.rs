//! The second stage: what is meant by what was written.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use smol_str::SmolStr;

use crate::date::Date;
use crate::diagnostics::{Diagnostics, Fault, Place};
use crate::entrance::Entrances;
use crate::entrances;
use crate::expectation;
use crate::findings::Findings;
use crate::index::Index;
use crate::kernel_room;
use crate::labels::Labels;
use crate::layer::{Floor, Layer};
use crate::matchers::Matchers;
use crate::overlap;
use crate::policy::{Checked, Compiled, LayerEnd, Policy};
use crate::rule::{Rule, Validity};
use crate::rule_files::{self, WrittenLayer};
use crate::sets::Files;
use crate::telling::Telling;
use crate::uncaptured;
use crate::unreachable;
use crate::words;
use crate::written::{At, WrittenRule, WrittenZone};
use crate::zone::{Connect, OnDown, Zone};

/// See [`Policy::read`]. `first`: the text of the very first file, if it is at hand.
pub(crate) fn compile(
    layers: &[Layer],
    first: Option<&str>,
    today: Date,
    files: &mut dyn Files,
) -> Result<Checked, Diagnostics> {
    let mut findings = Findings::new();
    match compile_into(layers, first, today, files, &mut findings) {
        Some(policy) => Ok(Checked {
            policy,
            warnings: findings.into_warnings(),
        }),
        None => Err(findings.into_errors()),
    }
}

fn compile_into(
    layers: &[Layer],
    first: Option<&str>,
    today: Date,
    files: &mut dyn Files,
    findings: &mut Findings,
) -> Option<Policy> {
    let mut read = rule_files::read(layers, first, files, findings)?;
    // Those of sets are read later, and no rule stands in them.
    let rule_files = findings.files();
    let mut compiler = Compiler::new(&rule_files, today, findings);
    compiler.matchers.expect_names(read.listens());
    for layer in &mut read.layers {
        compiler.add(layer, files);
    }
    compiler.warn_of_what_is_unused();
    compiler.matchers.warn_of_programs(files, compiler.findings);
    let Compiler {
        known_zones,
        zones,
        rules,
        places,
        ends,
        entrances,
        ..
    } = compiler;
    overlap::note(&rules, &places, findings);
    uncaptured::warn(&rules, &places, findings);
    let mut tests = Vec::new();
    for (number, layer) in read.layers.iter().enumerate() {
        if layer.files.iter().all(|file| file.tests.is_empty()) {
            continue;
        }
        let known = known_zones.iter().filter(|zone| zone.layer <= number);
        let names: HashSet<&str> = known.map(|zone| &*zone.name).collect();
        for file in &layer.files {
            let own = expectation::read(&file.tests, &names, findings);
            tests.push((number + 1, own));
        }
    }
    let counts: Vec<usize> = ends.iter().map(|(rules, _)| *rules).collect();
    let index = unreachable::are_found(&rules, &places, findings).then(|| Index::new(&rules));
    if let Some(index) = &index {
        unreachable::check(&rules, index, &counts, &places, read.bytes, findings);
    }
    let ends: Option<Vec<LayerEnd>> = ends
        .into_iter()
        .map(|(rules, default)| default.map(|default| LayerEnd { rules, default }))
        .collect();
    let layers = ends.filter(|ends| !ends.is_empty() && !findings.failed())?;
    let compiled = Compiled {
        files: rule_files,
        zones,
        entrances,
        rules,
        layers,
        index: index?,
    };
    let policy = Policy::new(compiled, Some(today));
    for (layers, tests) in &tests {
        expectation::check(&policy.of_layers(*layers), tests, findings);
    }
    for file in read.layers.iter().flat_map(|layer| &layer.files) {
        entrances::warn_of_blocked(&policy, &file.tunnels, findings);
    }
    kernel_room::warn(&policy, &places, findings);
    (!findings.failed()).then_some(policy)
}

/// What a zone's name gives to the rules that name it.
#[derive(Debug)]
pub(crate) struct KnownZone {
    pub(crate) name: Arc<str>,
    pub(crate) place: Place,
    /// Which layer defines it.
    pub(crate) layer: usize,
    pub(crate) on_down: OnDown,
    pub(crate) connect: Connect,
    pub(crate) is_used: bool,
}

/// Makes of what was written what is meant, one layer after another.
#[derive(Debug)]
pub(crate) struct Compiler<'a> {
    pub(crate) findings: &'a mut Findings,
    pub(crate) known_zones: Vec<KnownZone>,
    pub(crate) by_name: HashMap<Arc<str>, usize>,
    labels: Labels,
    matchers: Matchers,
    today: Date,
    pub(crate) zones: Vec<Zone>,
    pub(crate) entrances: Entrances,
    /// What is listened at already, and where that is said.
    pub(crate) taken: HashMap<SocketAddr, Place>,
    rules: Vec<Rule>,
    places: Vec<Place>,
    /// How many rules there are up to the end of each layer, and its default, if it is right.
    pub(crate) ends: Vec<(usize, Option<Rule>)>,
    /// Below which a rule of this layer cannot go.
    pub(crate) floor: Option<Floor>,
}

impl<'a> Compiler<'a> {
    fn new(rule_files: &[PathBuf], today: Date, findings: &'a mut Findings) -> Self {
        Self {
            findings,
            known_zones: Vec::new(),
            by_name: HashMap::new(),
            labels: Labels::new(rule_files),
            matchers: Matchers::default(),
            today,
            zones: Vec::new(),
            entrances: Entrances::default(),
            taken: HashMap::new(),
            rules: Vec::new(),
            places: Vec::new(),
            ends: Vec::new(),
            floor: None,
        }
    }

    /// A layer can name what it defines, and what earlier ones do.
    fn add(&mut self, layer: &mut WrittenLayer, files: &mut dyn Files) {
        for file in &mut layer.files {
            let sets = std::mem::take(&mut file.sets);
            self.matchers.add_sets(sets, files, self.findings);
        }
        for file in &layer.files {
            self.add_zones(&file.zones);
        }
        let rules = || layer.files.iter().flat_map(|file| &file.rules);
        let tunnels = layer.files.iter().flat_map(|file| &file.tunnels);
        self.labels.add(rules, tunnels, self.findings);
        for written in rules() {
            let errors = self.findings.errors();
            // One that is wrong may take more than was meant, and is not compared with others.
            let rule = self
                .rule(written)
                .filter(|_| self.findings.errors() == errors);
            if let Some(mut rule) = rule {
                self.raise(&mut rule, written.action.place);
                self.rules.push(rule);
                self.places.push(written.place);
            }
        }
        for file in &layer.files {
            self.add_entrances(file);
        }
        let default = self.default_of(layer);
        if let Some(default) = &default {
            self.floor = Some(Floor::new(default.action.clone(), layer.author));
        }
        self.ends.push((self.rules.len(), default));
    }

    pub(crate) fn rules_of_earlier_layers(&self) -> usize {
        self.ends.last().map_or(0, |(rules, _)| *rules)
    }

    /// Zones that are wrong in themselves still count as defined: one mistake is one error.
    fn add_zones(&mut self, written: &[WrittenZone]) {
        self.known_zones.reserve(written.len());
        self.by_name.reserve(written.len());
        self.zones.reserve(written.len());
        for zone in written {
            let At { place, value } = &zone.name;
            if let Some(before) = self.by_name.get(value.as_str()) {
                let before = self.known_zones[*before].place;
                let fault = Fault::new(format!("the zone {value:?} is defined already"));
                let hint = format!("it stands at {}", self.findings.at(before));
                self.findings.error(*place, fault.hint(hint));
                continue;
            }
            let on_down = zone.settings().on_down.as_ref();
            let connect = zone.settings().connect.as_ref();
            let name: Arc<str> = value.as_str().into();
            self.by_name
                .insert(Arc::clone(&name), self.known_zones.len());
            self.known_zones.push(KnownZone {
                name,
                place: *place,
                layer: self.ends.len(),
                on_down: on_down
                    .and_then(|word| words::on_down_of(&word.value).ok())
                    .unwrap_or(OnDown::Reject),
                connect: connect
                    .and_then(|word| words::connect_of(&word.value).ok())
                    .unwrap_or(Connect::Honest),
                is_used: false,
            });
            let zone = self.zone(zone);
            self.zones.extend(zone);
        }
    }

    /// A rule of a later layer is at least as strict as what it stands before.
    fn raise(&mut self, rule: &mut Rule, place: Place) {
        let Some(floor) = self
            .floor
            .as_ref()
            .filter(|floor| floor.raise(&mut rule.action))
        else {
            return;
        };
        let fault = Fault::new(format!(
            "{:?} would weaken the default of {}, and gives that instead: {}",
            rule.label,
            floor.author(),
            floor.shown()
        ));
        let hint = "a later layer can be stricter than those before it, never less strict";
        self.findings.warning(place, fault.hint(hint));
    }

    fn default_of(&mut self, layer: &WrittenLayer) -> Option<Rule> {
        let mut written = layer.files.iter().filter_map(|file| file.default.as_ref());
        let Some(first) = written.next() else {
            if let Some((_, before)) = self.ends.last() {
                return before.clone();
            }
            // Of a file with a slip, or with nothing that could be read, it was said already.
            let lacking: Option<Vec<Place>> =
                layer.files.iter().map(|file| file.lacks_default).collect();
            if let Some(place) = lacking.as_deref().and_then(<[Place]>::first) {
                let fault = match layer.files.len() {
                    1 => Fault::new("the file has no `default`"),
                    _ => Fault::new("none of the files has a `default`"),
                };
                self.findings.error(*place, fault.hint("say what flows get that no rule matches: `default: pass`, `default: block` or `default: tunnel ZONE`"));
            }
            return None;
        };
        for other in written {
            let fault = Fault::new("`default` is given already");
            let hint = format!("it stands at {}", self.findings.at(first.place));
            self.findings.error(other.place, fault.hint(hint));
        }
        let mut default = self.default(first)?;
        self.raise(&mut default, first.place);
        Some(default)
    }

    fn rule(&mut self, written: &WrittenRule) -> Option<Rule> {
        let action = self.action(written);
        let validity = self.validity(written);
        let telling = self.telling(written);
        self.optional(written.seldom().protocol.as_ref(), words::protocol);
        let people = self.matchers.people(written, self.findings);
        let app = written.app.as_deref();
        let applications = self.matchers.applications(app, self.findings);
        let targets = self.matchers.targets(written.to.as_deref(), self.findings);
        let ports = self.matchers.ports(written.ports.as_deref(), self.findings);
        Some(Rule {
            label: self.labels.of(written),
            at: Some(written.place.into()),
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
        let enabled = self.optional(written.seldom().enabled.as_ref(), words::switch);
        let expires = self.optional(written.seldom().expires.as_ref(), Date::parse);
        let (enabled, expires) = (enabled?, expires?);
        if enabled == Some(false) {
            return Some(Validity::Off);
        }
        let Some(last) = expires else {
            return Some(Validity::Always);
        };
        if let Some(At { place, .. }) = written
            .seldom()
            .expires
            .as_ref()
            .filter(|_| last < self.today)
        {
            let label = self.labels.of(written);
            let fault = Fault::new(format!("{label:?} expired: it matches nothing any more"));
            let hint = format!("{last} was its last day, and today is {}", self.today);
            self.findings.warning(*place, fault.hint(hint));
        }
        Some(Validity::Until(last))
    }

    fn telling(&mut self, written: &WrittenRule) -> Option<Telling> {
        let log = self.optional(written.seldom().log.as_ref(), words::switch);
        let notify = self.optional(written.seldom().notify.as_ref(), words::switch);
        Some(Telling {
            log: log?.unwrap_or_default(),
            notify: notify?.unwrap_or_default(),
        })
    }

    fn warn_of_what_is_unused(&mut self) {
        self.matchers.warn_of_unused_sets(self.findings);
        for zone in self.known_zones.iter().filter(|zone| !zone.is_used) {
            self.findings.warning_of(zone.place, |_| {
                let fault = Fault::new(format!("nothing uses the zone {:?}", zone.name));
                fault.hint("name it in a rule or in the default")
            });
        }
    }

    /// The outer `None`: it was wrong, and noted.
    pub(crate) fn optional<T>(
        &mut self,
        written: Option<&At<SmolStr>>,
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
