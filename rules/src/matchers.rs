//! The second stage of `app:`, `to:` and `ports:`.

use crate::address::{self, AddressSet};
use crate::application::ApplicationPattern;
use crate::diagnostics::{Fault, Findings};
use crate::explanation;
use crate::name::NamePattern;
use crate::port::{self, PortSet};
use crate::rule::Targets;
use crate::written::{At, WrittenPattern};

/// The word for everything.
const ANY: &str = "any";
/// Regular expressions of a file; each may take up to 256 KiB.
const MOST_EXPRESSIONS: usize = 1000;

/// Reads matchers and counts what has to be bounded in the file as a whole.
#[derive(Debug, Default)]
pub(crate) struct Matchers {
    expressions: usize,
}

/// What a matcher admits: `None` is any. The outer `None`: it was wrong, and noted.
type Matcher<T> = Option<Option<T>>;

impl Matchers {
    /// `app:`
    pub(crate) fn applications(
        &mut self,
        written: Option<&[At<WrittenPattern>]>,
        findings: &mut Findings,
    ) -> Matcher<Vec<ApplicationPattern>> {
        let Some(written) = written.filter(|patterns| !has_any(patterns)) else {
            return Some(None);
        };
        self.each(written, findings, |_, pattern| match pattern {
            WrittenPattern::Text(text) => ApplicationPattern::parse(text),
            WrittenPattern::Regex(source) => ApplicationPattern::regex(source),
        })
        .map(Some)
    }

    /// `to:`
    pub(crate) fn targets(
        &mut self,
        written: Option<&[At<WrittenPattern>]>,
        findings: &mut Findings,
    ) -> Matcher<Targets> {
        let Some(written) = written.filter(|patterns| !has_any(patterns)) else {
            return Some(None);
        };
        let (mut ranges, mut names) = (Vec::new(), Vec::new());
        self.each(written, findings, |index, pattern| {
            match pattern {
                WrittenPattern::Regex(source) => names.push((index, NamePattern::regex(source)?)),
                WrittenPattern::Text(text) => match address::parse(text) {
                    Some(range) => ranges.push(range?),
                    None => names.push((index, NamePattern::parse(text)?)),
                },
            }
            Ok(())
        })?;
        if let Some((index, name)) = names.first() {
            let fault = nameless(name, ranges.is_empty());
            findings.warning(written[*index].place, fault);
        }
        Some(Some(Targets {
            shown: explanation::list(written.iter().map(|at| match &at.value {
                WrittenPattern::Text(text) => text.clone(),
                WrittenPattern::Regex(source) => format!("/{source}/"),
            })),
            addresses: AddressSet::from_iter(ranges),
            names: names.into_iter().map(|(_, name)| name).collect(),
        }))
    }

    /// `ports:`
    pub(crate) fn ports(
        &mut self,
        written: Option<&[At<String>]>,
        findings: &mut Findings,
    ) -> Option<PortSet> {
        let Some(written) = written.filter(|ports| ports.iter().all(|port| port.value != ANY))
        else {
            return Some(port::all());
        };
        let mut ranges = Vec::with_capacity(written.len());
        let mut failed = false;
        for At { place, value } in written {
            match port::parse(value) {
                Ok(range) => ranges.push(range),
                Err(fault) => {
                    findings.error(*place, fault);
                    failed = true;
                }
            }
        }
        (!failed).then(|| PortSet::new(ranges))
    }

    fn each<T>(
        &mut self,
        written: &[At<WrittenPattern>],
        findings: &mut Findings,
        mut read: impl FnMut(usize, &WrittenPattern) -> Result<T, Fault>,
    ) -> Option<Vec<T>> {
        let mut all = Vec::with_capacity(written.len());
        for (index, At { place, value }) in written.iter().enumerate() {
            let read = self
                .count(value)
                .and_then(|()| read(index, value))
                .map_err(|fault| findings.error(*place, fault));
            all.extend(read);
        }
        (all.len() == written.len()).then_some(all)
    }

    fn count(&mut self, pattern: &WrittenPattern) -> Result<(), Fault> {
        if let WrittenPattern::Regex(_) = pattern {
            self.expressions += 1;
        }
        if self.expressions <= MOST_EXPRESSIONS {
            return Ok(());
        }
        Err(Fault::new(format!(
            "a file has at most {MOST_EXPRESSIONS} regular expressions"
        ))
        .hint("a glob or `*.wildcard` costs less"))
    }
}

fn has_any(patterns: &[At<WrittenPattern>]) -> bool {
    patterns
        .iter()
        .any(|at| matches!(&at.value, WrittenPattern::Text(text) if text == ANY))
}

/// Captured flows have no name as long as nothing tells the broker which name an address was looked up for.
fn nameless(name: &NamePattern, is_alone: bool) -> Fault {
    let consequence = if is_alone {
        "so this rule matches none of them"
    } else {
        "so only the addresses of this rule match them"
    };
    Fault::new(format!(
        "{name} is a name, and in this version captured flows have none, {consequence}"
    ))
    .hint("give the addresses behind the name")
}
