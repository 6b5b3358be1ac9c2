//! The second stage of `app:`, `to:`, `ports:`, `user:` and `group:`.

use std::sync::Arc;

use crate::address::{self, AddressRange, AddressSet};
use crate::application::{NONE, UNKNOWN};
use crate::clause::{Applications, Clause, FactPatterns};
use crate::diagnostics::Fault;
use crate::expression::Expressions;
use crate::findings::Findings;
use crate::first_few;
use crate::hex;
use crate::name::NamePattern;
use crate::or_none::OrNone;
use crate::path_pattern::PathPattern;
use crate::port::{self, PortSet};
use crate::programs::{NamedAs, Programs};
use crate::sets::{Files, Sets, WrittenSet};
use crate::targets::{Hosts, Targets};
use crate::truth::OneOf;
use crate::unit_pattern::UnitPattern;
use crate::unsatisfiable;
use crate::user::{Account, People};
use crate::words::not_a_slip_of;
use crate::written::{At, WrittenRule};
use crate::written_pattern::WrittenPattern;

/// The word for everything.
const ANY: &str = "any";

type Written = At<WrittenPattern>;

/// Reads matchers and counts what has to be bounded in the file as a whole.
#[derive(Debug, Default)]
pub(crate) struct Matchers {
    sets: Sets,
    expressions: Expressions,
    programs: Programs,
    /// Whether what is read now stands under a `not`.
    is_under_not: bool,
    /// Whether there are flows whose names are known.
    has_names: bool,
}

/// What a matcher admits: `None` is any. The outer `None`: it was wrong, and noted.
pub(crate) type Matcher<T> = Option<Option<T>>;

/// A host as it is meant.
#[derive(Debug, Clone)]
pub(crate) enum Host {
    Range(AddressRange),
    Name(NamePattern),
}

/// Reads one entry of a list; `None` when it was wrong, and noted.
type Read<T> = fn(&mut Matchers, &Written, &mut Findings) -> Option<T>;

impl Matchers {
    /// Whether there are flows whose names are known.
    pub(crate) fn expect_names(&mut self, has_names: bool) {
        self.has_names = has_names;
    }

    /// Reads sets, for what is read from now on to name.
    pub(crate) fn add_sets(
        &mut self,
        written: Vec<WrittenSet>,
        files: &mut dyn Files,
        findings: &mut Findings,
    ) {
        self.sets.add(written, files, findings);
    }

    /// Warns of sets that no rule names.
    pub(crate) fn warn_of_unused_sets(&self, findings: &mut Findings) {
        self.sets.warn_of_unused(findings);
    }

    /// Warns of programs that cannot be what was meant.
    pub(crate) fn warn_of_programs(&self, files: &mut dyn Files, findings: &mut Findings) {
        self.programs.warn(files, findings);
    }

    /// Whether entries of a file are in the lists of a rule.
    pub(crate) fn are_of_a_file(&self, written: &WrittenRule) -> bool {
        let lists = [
            &written.user,
            &written.group,
            &written.app,
            &written.to,
            &written.ports,
        ];
        let mut lists = lists.into_iter().flatten();
        lists.any(|list| self.sets.are_of_a_file(list))
    }

    /// `app:`
    pub(crate) fn applications(
        &mut self,
        written: Option<&[Written]>,
        findings: &mut Findings,
    ) -> Matcher<Applications> {
        let list = self.list(written, findings, Self::clause)?;
        let excludes_all = |clause: &Clause| match clause {
            Clause::Facts(facts) => facts.excludes_all(),
            Clause::Unknown | Clause::Path(_) => false,
        };
        let takes_nothing = |list: &Applications| {
            list.none_of.is_none() && !list.any.is_empty() && list.any.iter().all(excludes_all)
        };
        if let (Some([first, ..]), Some(true)) = (written, list.as_ref().map(takes_nothing)) {
            let fault = Fault::new("nothing is left: its `not` excludes all that it describes");
            self.nothing_left(first, fault, findings);
        }
        Some(list)
    }

    /// `to:`
    pub(crate) fn targets(
        &mut self,
        written: Option<&[Written]>,
        findings: &mut Findings,
    ) -> Matcher<Arc<Targets>> {
        let alone = match written {
            Some([only]) => self.sets.named(&only.value),
            Some(_) | None => None,
        };
        if let Some(targets) = alone.and_then(|name| self.sets.targets(name)) {
            let written = written.unwrap_or_default();
            unsatisfiable::warn_of_names(written, &targets, self.has_names, findings);
            return Some(Some(targets));
        }
        let alone = alone.map(str::to_owned);
        let Some(list) = self.list(written, findings, Self::host)? else {
            return Some(None);
        };
        let targets = Targets {
            any: list.any.into_iter().collect(),
            none_of: list.none_of.map(|hosts| hosts.into_iter().collect()),
            shown: shown(written.unwrap_or_default()),
        };
        let written = written.unwrap_or_default();
        unsatisfiable::warn_of_names(written, &targets, self.has_names, findings);
        let targets = Arc::new(targets);
        if let Some(name) = alone {
            self.sets.keep_targets(name, &targets);
        }
        Some(Some(targets))
    }

    /// `ports:`
    pub(crate) fn ports(
        &mut self,
        written: Option<&[Written]>,
        findings: &mut Findings,
    ) -> Option<PortSet> {
        let Some(list) = self.list(written, findings, Self::port)? else {
            return Some(port::all());
        };
        let mut ranges = list.any;
        let excludes = list.none_of.is_some();
        if let Some(none_of) = list.none_of {
            ranges.extend(PortSet::new(none_of).complement().ranges());
        }
        let ports = port::of(ranges);
        if let (Some([first, ..]), None) = (written.filter(|_| excludes), port::first(&ports)) {
            let fault = Fault::new("nothing is left when every port is excluded");
            self.nothing_left(first, fault, findings);
        }
        Some(ports)
    }

    /// A list that somebody else let grow must not make the file a wrong one.
    fn nothing_left(&self, at: &Written, fault: Fault, findings: &mut Findings) {
        let fault = fault.hint("leave the rule out");
        match self.sets.are_of_a_file(std::slice::from_ref(at)) {
            true => findings.warning(at.place, fault),
            false => findings.error(at.place, fault),
        }
    }

    /// `user:` and `group:`
    pub(crate) fn people(
        &mut self,
        written: &WrittenRule,
        findings: &mut Findings,
    ) -> Matcher<Box<People>> {
        let users = self.list(written.user.as_deref(), findings, Self::account);
        let groups = self.list(written.group.as_deref(), findings, Self::account);
        let people = People {
            users: users?,
            groups: groups?,
        };
        let is_any = people.users.is_none() && people.groups.is_none();
        Some((!is_any).then(|| Box::new(people)))
    }

    fn list<T: Clone>(
        &mut self,
        written: Option<&[Written]>,
        findings: &mut Findings,
        read: Read<T>,
    ) -> Matcher<OneOf<T>> {
        let Some(written) = written else {
            return Some(None);
        };
        if let [At { value, .. }] = written
            && is_any(value)
        {
            return Some(None);
        }
        for any in written.iter().filter(|at| is_any(&at.value)) {
            let fault = Fault::new("`any` is beside others, which then say nothing");
            findings.error(
                any.place,
                fault.hint("write `any` alone, or the others alone"),
            );
        }
        let is_not = |at: &&Written| matches!(at.value, WrittenPattern::Not(_));
        let nots: Vec<&Written> = written.iter().filter(is_not).collect();
        let others = |at: &&Written| !is_any(&at.value) && !is_not(at);
        let any = self.each(written.iter().filter(others), findings, read);
        let none_of = match nots.as_slice() {
            [] => Some(None),
            [not, rest @ ..] => {
                for not in rest {
                    let fault =
                        Fault::new("the list has a second `not`, and one of both takes everything");
                    findings.error(not.place, fault.hint("write all into one: {not: [A, B]}"));
                }
                let entries = not.value.under_not();
                if entries.iter().any(|at| is_any(&at.value)) {
                    let fault = Fault::new("nothing is left when `any` is excluded");
                    findings.error(not.place, fault.hint("leave the rule out"));
                }
                self.each_under_not(entries, findings, read).map(Some)
            }
        };
        Some(Some(OneOf {
            any: any?,
            none_of: none_of?,
        }))
    }

    /// As `each`. An empty set there would be no exception from what matches everything.
    fn each_under_not<T: Clone>(
        &mut self,
        written: &[Written],
        findings: &mut Findings,
        read: Read<T>,
    ) -> Option<Vec<T>> {
        let was_under_not = std::mem::replace(&mut self.is_under_not, true);
        let entries = self.each(written.iter(), findings, read);
        self.is_under_not = was_under_not;
        entries
    }

    /// The entries, those of sets included.
    fn each<'a, T: Clone>(
        &mut self,
        written: impl Iterator<Item = &'a Written>,
        findings: &mut Findings,
        read: Read<T>,
    ) -> Option<Vec<T>> {
        let (mut all, mut failed) = (Vec::new(), false);
        for at in written {
            let Some(set) = self.sets.named(&at.value) else {
                match read(self, at, findings) {
                    Some(item) => all.push(item),
                    None => failed = true,
                }
                continue;
            };
            let Some(entries) = self.sets.entries(set, at.place, findings) else {
                failed = true;
                continue;
            };
            if entries.is_empty() && self.is_under_not {
                let fault = Fault::new(format!(
                    "{} is empty: this `not` excludes nothing",
                    at.value
                ));
                findings.error(
                    at.place,
                    fault.hint("leave it out, or give the set an entry"),
                );
                failed = true;
            }
            for entry in entries.iter() {
                match read(self, entry, findings) {
                    Some(item) => all.push(item),
                    None => failed = true,
                }
            }
        }
        (!failed).then_some(all)
    }

    fn clause(&mut self, at: &Written, findings: &mut Findings) -> Option<Clause> {
        let keys = match &at.value {
            WrittenPattern::Facts(keys) => keys,
            WrittenPattern::Text(text) if text == UNKNOWN => return Some(Clause::Unknown),
            WrittenPattern::Text(_) | WrittenPattern::Regex(_) | WrittenPattern::Not(_) => {
                return self.path(at, findings).map(Clause::Path);
            }
        };
        let mut facts = FactPatterns::default();
        let mut failed = false;
        for (key, values) in keys {
            let was_read = match key.as_str() {
                "path" | "regex" => {
                    let own = self.each(values.iter(), findings, Self::path);
                    own.map(|own| facts.path.get_or_insert_default().extend(own))
                        .is_some()
                }
                "script" => {
                    facts.script = self.each(values.iter(), findings, Self::script);
                    facts.script.is_some()
                }
                "parent" => {
                    facts.parent = self.each(values.iter(), findings, Self::path);
                    facts.parent.is_some()
                }
                "unit" => {
                    facts.unit = self.each(values.iter(), findings, Self::unit);
                    facts.unit.is_some()
                }
                "sha256" => {
                    facts.sha256 = self.each(values.iter(), findings, Self::sha256);
                    facts.sha256.is_some()
                }
                _ => {
                    facts.none_of = self.each_under_not(values.as_slice(), findings, Self::clause);
                    facts.none_of.is_some()
                }
            };
            failed |= !was_read;
        }
        (!failed).then(|| Clause::Facts(Box::new(facts)))
    }

    fn path(&mut self, at: &Written, findings: &mut Findings) -> Option<PathPattern> {
        let pattern = self.leaf(at, findings, program, PathPattern::regex)?;
        self.programs.note(at.place, NamedAs::Binary, &pattern);
        Some(pattern)
    }

    fn script(&mut self, at: &Written, findings: &mut Findings) -> Option<OrNone<PathPattern>> {
        let plain = |text: &str| OrNone::parse(text, program);
        let regex = |source: &str, all: &mut Expressions| {
            PathPattern::regex(source, all).map(OrNone::Pattern)
        };
        let script = self.leaf(at, findings, plain, regex)?;
        if let Some(pattern) = script.pattern() {
            self.programs.note(at.place, NamedAs::Script, pattern);
        }
        Some(script)
    }

    fn host(&mut self, at: &Written, findings: &mut Findings) -> Option<Host> {
        let plain = |text: &str| match address::parse(text) {
            Some(range) => range.map(Host::Range),
            None => NamePattern::parse_glob(text).map(Host::Name),
        };
        self.leaf(at, findings, plain, |source, all| {
            NamePattern::regex(source, all).map(Host::Name)
        })
    }

    fn unit(&mut self, at: &Written, findings: &mut Findings) -> Option<OrNone<UnitPattern>> {
        let plain = |text: &str| OrNone::parse(text, UnitPattern::parse);
        self.leaf(at, findings, plain, no_expression)
    }

    fn sha256(&mut self, at: &Written, findings: &mut Findings) -> Option<[u8; 32]> {
        self.leaf(at, findings, hex::sha256, no_expression)
    }

    fn port(&mut self, at: &Written, findings: &mut Findings) -> Option<(u16, u16)> {
        self.leaf(at, findings, port::parse, no_expression)
    }

    fn account(&mut self, at: &Written, findings: &mut Findings) -> Option<Account> {
        self.leaf(at, findings, Account::parse, no_expression)
    }

    fn leaf<T>(
        &mut self,
        at: &Written,
        findings: &mut Findings,
        plain: impl FnOnce(&str) -> Result<T, Fault>,
        expression: impl FnOnce(&str, &mut Expressions) -> Result<T, Fault>,
    ) -> Option<T> {
        let read = match &at.value {
            WrittenPattern::Text(text) => not_a_slip_of(ANY, text).and_then(|()| plain(text)),
            WrittenPattern::Regex(source) => expression(source, &mut self.expressions),
            WrittenPattern::Not(_) => Err(Fault::new("a `not` is inside a `not`")),
            WrittenPattern::Facts(_) => {
                Err(Fault::new("this describes an application").hint("it may stand in `app:`"))
            }
        };
        read.map_err(|fault| findings.error(at.place, fault)).ok()
    }
}

impl FromIterator<Host> for Hosts {
    fn from_iter<I: IntoIterator<Item = Host>>(hosts: I) -> Self {
        let (mut ranges, mut names) = (Vec::new(), Vec::new());
        for host in hosts {
            match host {
                Host::Range(range) => ranges.push(range),
                Host::Name(name) => names.push(name),
            }
        }
        Self {
            addresses: AddressSet::from_iter(ranges),
            names: names.into_iter().collect(),
        }
    }
}

fn no_expression<T>(_: &str, _: &mut Expressions) -> Result<T, Fault> {
    Err(Fault::new("a regular expression is for names and paths"))
}

fn is_any(pattern: &WrittenPattern) -> bool {
    matches!(pattern, WrittenPattern::Text(text) if text == ANY)
}

/// Refuses the words for what is not known and what is not there: as a name, each was hardly meant.
fn program(text: &str) -> Result<PathPattern, Fault> {
    not_a_slip_of(UNKNOWN, text)?;
    let hint = match text {
        UNKNOWN => "a program that was not found is `app: unknown`, which is said of nothing else",
        NONE => "`none` is said of `script` and `unit`",
        _ => return PathPattern::parse(text),
    };
    let fault = Fault::new(format!("{text:?} is a word, and no program"));
    Err(fault.hint(format!("{hint}; a program of that name is \"/**/{text}\"")))
}

/// As the administrator wrote it, cut short.
fn shown(written: &[Written]) -> String {
    let not = |at: &Written| match &at.value {
        WrittenPattern::Not(entries) => {
            let entries = entries.iter().map(|at| at.value.to_string());
            format!("all but {}", first_few::list(entries))
        }
        WrittenPattern::Text(_) | WrittenPattern::Regex(_) | WrittenPattern::Facts(_) => {
            at.value.to_string()
        }
    };
    first_few::list(written.iter().map(not))
}
