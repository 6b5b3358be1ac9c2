//! Which rules are worth asking about a flow. The index only leaves out rules that cannot match; whether one does, the
//! rule itself decides.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use smallvec::SmallVec;
use smol_str::SmolStr;

use crate::application::Application;
use crate::clause::{Applications, Clause};
use crate::destination::Destination;
use crate::host_index::HostIndex;
use crate::path_pattern::{PathPattern, base_name};
use crate::port::PortSet;
use crate::rule::Rule;
use crate::targets::Targets;

/// Positions of rules, ascending. Most lists are short, and need no memory of their own.
pub(crate) type Positions = SmallVec<[u32; 4]>;

/// A rule with more ports is not found by its port.
const MOST_PORTS: usize = 16;

/// Rules by what they ask for: by the host where they name hosts, else by the application, else by the port.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Rules by their own hosts.
    hosts: HostIndex,
    /// Groups of rules by the hosts they have in common.
    common_hosts: HostIndex,
    groups: Vec<Positions>,
    /// By the binary's path.
    paths: HashMap<SmolStr, Positions>,
    /// By what is behind the last slash of it.
    names: HashMap<SmolStr, Positions>,
    unknown: Positions,
    /// All of these.
    by_application: Positions,
    ports: HashMap<u16, Positions>,
    any: Positions,
}

impl Index {
    /// Of rules in their order.
    pub(crate) fn new(rules: &[Rule]) -> Self {
        let mut index = Self::default();
        let mut groups: HashMap<*const Targets, u32> = HashMap::new();
        for (position, rule) in (0u32..).zip(rules) {
            let Some(targets) = by_host(rule) else {
                index.add_without_host(position, rule);
                continue;
            };
            if Arc::strong_count(targets) == 1 {
                index.hosts.add(position, &targets.any);
                continue;
            }
            let next = u32::try_from(index.groups.len()).unwrap_or(u32::MAX);
            let group = *groups.entry(Arc::as_ptr(targets)).or_insert(next);
            if group == next {
                index.common_hosts.add(group, &targets.any);
                index.groups.push(Positions::new());
            }
            if let Some(members) = index.groups.get_mut(group as usize) {
                members.push(position);
            }
        }
        index
    }

    fn add_without_host(&mut self, position: u32, rule: &Rule) {
        if let Some(keys) = rule.applications.as_ref().and_then(by_application) {
            self.by_application.push(position);
            for key in keys {
                push(
                    match key {
                        Binary::Path(path) => self.paths.entry(path).or_default(),
                        Binary::Name(name) => self.names.entry(name).or_default(),
                        Binary::Unknown => &mut self.unknown,
                    },
                    position,
                );
            }
        } else if let Some(ports) = by_port(&rule.ports) {
            for port in ports {
                push(self.ports.entry(port).or_default(), position);
            }
        } else {
            self.any.push(position);
        }
    }

    /// Positions of the rules that may match a flow to `destination`, normalized; ascending, each once. Of an application
    /// that was not looked up, anything may match.
    pub(crate) fn candidates<'a>(
        &'a self,
        destination: &Destination,
        application: Option<&Application>,
    ) -> Candidates<'a> {
        let mut lists = SmallVec::<[&[u32]; 16]>::new();
        lists.push(&self.any);
        lists.extend(self.ports.get(&destination.port).map(SmallVec::as_slice));
        match application {
            None => lists.push(&self.by_application),
            Some(Application::Unknown) => lists.push(&self.unknown),
            Some(Application::Known(facts)) => {
                let path = facts.path.as_os_str().as_bytes();
                // Rules name what can be written in a text.
                let found = |by: &'a HashMap<SmolStr, Positions>, key: &[u8]| {
                    let positions = by.get(str::from_utf8(key).ok()?)?;
                    Some(positions.as_slice())
                };
                lists.extend(found(&self.paths, path));
                lists.extend(found(&self.names, base_name(path)));
            }
        }
        self.hosts.find(destination, |found| lists.push(found));
        self.common_hosts.find(destination, |groups| {
            let groups = groups
                .iter()
                .filter_map(|&group| self.groups.get(group as usize));
            lists.extend(groups.map(SmallVec::as_slice));
        });
        lists.retain(|list| !list.is_empty());
        Candidates { lists }
    }
}

/// The hosts of a rule that names some.
fn by_host(rule: &Rule) -> Option<&Arc<Targets>> {
    rule.targets
        .as_ref()
        .filter(|targets| targets.none_of.is_none())
}

/// A binary by which rules can be found.
enum Binary {
    Path(SmolStr),
    Name(SmolStr),
    Unknown,
}

/// The binaries without which a rule does not match.
fn by_application(applications: &Applications) -> Option<Vec<Binary>> {
    if applications.none_of.is_some() {
        return None;
    }
    let mut keys = Vec::new();
    for clause in &applications.any {
        match clause {
            Clause::Unknown => keys.push(Binary::Unknown),
            Clause::Path(pattern) => keys.push(binary(pattern)?),
            Clause::Facts(patterns) => {
                for pattern in patterns.path.as_ref()? {
                    keys.push(binary(pattern)?);
                }
            }
        }
    }
    Some(keys)
}

fn binary(pattern: &PathPattern) -> Option<Binary> {
    match pattern {
        PathPattern::Name(name) => Some(Binary::Name(name.into())),
        PathPattern::Path(path) => Some(Binary::Path(path.into())),
        PathPattern::NameGlob(_) | PathPattern::PathGlob(_) | PathPattern::Regex(_) => None,
    }
}

fn by_port(ports: &PortSet) -> Option<Vec<u16>> {
    let ranges = ports.ranges().iter();
    let few: Vec<u16> = ranges
        .flat_map(|&(low, high)| low..=high)
        .take(MOST_PORTS + 1)
        .collect();
    (few.len() <= MOST_PORTS).then_some(few)
}

/// Adds to ascending positions.
pub(crate) fn push(positions: &mut Positions, position: u32) {
    if positions.last() != Some(&position) {
        positions.push(position);
    }
}

/// Merges ascending lists.
pub(crate) struct Candidates<'a> {
    lists: SmallVec<[&'a [u32]; 16]>,
}

impl Candidates<'_> {
    /// How many there are at most.
    pub(crate) fn most(&self) -> usize {
        self.lists.iter().map(|list| list.len()).sum()
    }
}

impl Iterator for Candidates<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let next = *self.lists.iter().filter_map(|list| list.first()).min()?;
        for list in &mut self.lists {
            if let [first, rest @ ..] = list
                && *first == next
            {
                *list = rest;
            }
        }
        Some(next as usize)
    }
}
