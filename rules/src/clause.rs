//! Patterns of applications: an entry of `app:`.

use std::fmt;

use crate::application::{Application, Fact, Facts, Learned, UNKNOWN};
use crate::hex;
use crate::or_none::OrNone;
use crate::path_pattern::PathPattern;
use crate::truth::{OneOf, Truth};
use crate::unit_pattern::UnitPattern;

/// Patterns that one entry compares with what it has under `not`.
const MOST_COMPARED: usize = 64;

/// Applications of a rule.
pub(crate) type Applications = OneOf<Clause>;

/// A pattern of applications.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Clause {
    /// One that was not found.
    Unknown,
    /// By the binary alone.
    Path(PathPattern),
    /// By several facts, all of which must hold.
    Facts(Box<FactPatterns>),
}

/// Patterns of each fact; `None` is any. One of each list must match.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct FactPatterns {
    pub(crate) path: Option<Vec<PathPattern>>,
    pub(crate) unit: Option<Vec<OrNone<UnitPattern>>>,
    pub(crate) script: Option<Vec<OrNone<PathPattern>>>,
    pub(crate) parent: Option<Vec<PathPattern>>,
    pub(crate) sha256: Option<Vec<[u8; 32]>>,
    /// None of these may match.
    pub(crate) none_of: Option<Vec<Clause>>,
}

impl Clause {
    /// Whether `application` matches, asked outside a `not`. `None`: it was not looked up yet.
    ///
    /// What is not known satisfies nothing; doubt is left only by what the entry itself has under `not`.
    pub(crate) fn takes(&self, application: Option<&Application>) -> Truth {
        match (self, application) {
            (Self::Facts(patterns), Some(Application::Known(facts))) => {
                let parts = patterns.parts(facts).map(Truth::surely);
                let parts = parts.into_iter().fold(Truth::Yes, Truth::and);
                parts.and(patterns.excludes(application).not())
            }
            (Self::Unknown | Self::Path(_) | Self::Facts(_), _) => self.truth(application).surely(),
        }
    }

    /// Whether `application` matches, asked under a `not`: what is not known is in doubt.
    pub(crate) fn truth(&self, application: Option<&Application>) -> Truth {
        let facts = match (self, application) {
            (_, None) => return Truth::Pending(Fact::Path),
            (Self::Unknown, Some(application)) => {
                return Truth::from(*application == Application::Unknown);
            }
            (_, Some(Application::Unknown)) => return Truth::Doubt,
            (_, Some(Application::Known(facts))) => facts,
        };
        match self {
            Self::Unknown => Truth::No,
            Self::Path(pattern) => pattern.matches(&facts.path).into(),
            Self::Facts(patterns) => {
                let parts = patterns.parts(facts).into_iter();
                let parts = parts.fold(Truth::Yes, Truth::and);
                parts.and(patterns.excludes(application).not())
            }
        }
    }

    /// Whether every application that `other` takes is certain to be taken. Never a wrong yes.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unknown, Self::Unknown) => true,
            (Self::Path(own), Self::Path(path)) => own.covers(path),
            (Self::Path(own), Self::Facts(patterns)) => {
                let paths = patterns.path.as_deref();
                paths.is_some_and(|paths| paths.iter().all(|path| own.covers(path)))
            }
            (Self::Facts(own), Self::Facts(patterns)) => own.covers(patterns),
            (Self::Unknown | Self::Facts(_), _) | (Self::Path(_), Self::Unknown) => false,
        }
    }

    /// A quick no to whether `covers` could say yes.
    pub(crate) fn may_cover(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Path(own), Self::Path(path)) => own.may_cover(path),
            (Self::Unknown | Self::Path(_) | Self::Facts(_), _) => true,
        }
    }

    /// Whether no application can match both. Never a wrong yes.
    pub(crate) fn is_apart_from(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Path(own), Self::Path(path)) => own.is_apart_from(path),
            (Self::Unknown, Self::Path(_) | Self::Facts(_)) => true,
            (Self::Unknown | Self::Path(_) | Self::Facts(_), _) => false,
        }
    }

    /// How much longer than a plain comparison it can take to match, roughly.
    pub(crate) fn cost_of_matching(&self) -> usize {
        let of_paths = |paths: &Option<Vec<PathPattern>>| -> usize {
            let paths = paths.iter().flatten();
            paths.map(PathPattern::cost_of_matching).sum()
        };
        match self {
            Self::Unknown => 1,
            Self::Path(pattern) => pattern.cost_of_matching(),
            Self::Facts(patterns) => {
                let units = patterns.unit.as_ref().map_or(0, Vec::len);
                let hashes = patterns.sha256.as_ref().map_or(0, Vec::len);
                let none_of = patterns.none_of.iter().flatten();
                let none_of: usize = none_of.map(Self::cost_of_matching).sum();
                let paths = of_paths(&patterns.path) + of_paths(&patterns.parent);
                let scripts = patterns.script.iter().flatten();
                let scripts =
                    scripts.map(|it| it.pattern().map_or(1, PathPattern::cost_of_matching));
                1 + 4 * units + hashes + none_of + paths + scripts.sum::<usize>()
            }
        }
    }
}

impl FactPatterns {
    /// What each of the patterns says.
    fn parts(&self, facts: &Facts) -> [Truth; 5] {
        let path = one_of(self.path.as_deref(), |it| it.matches(&facts.path).into());
        let unit = one_of(self.unit.as_deref(), |pattern| {
            of(&facts.cgroup, Fact::Cgroup, |group| {
                pattern.takes_group(group.as_deref()).into()
            })
        });
        let script = one_of(self.script.as_deref(), |pattern| {
            of(&facts.script, Fact::Script, |script| {
                pattern.takes_script(script.as_deref()).into()
            })
        });
        let parent = one_of(self.parent.as_deref(), |pattern| {
            of(
                &facts.ancestors,
                Fact::Ancestors,
                |ancestors| match ancestors.binaries.iter().any(|it| pattern.matches(it)) {
                    true => Truth::Yes,
                    false if ancestors.complete => Truth::No,
                    false => Truth::Doubt,
                },
            )
        });
        let sha256 = one_of(self.sha256.as_deref(), |own| {
            of(&facts.sha256, Fact::Sha256, |hash| (hash == own).into())
        });
        [path, unit, script, parent, sha256]
    }

    /// Whether what is under its `not` matches.
    fn excludes(&self, application: Option<&Application>) -> Truth {
        let none_of = self.none_of.as_deref().unwrap_or_default();
        Truth::any(none_of, |it| it.truth(application))
    }

    /// Whether its `not` is certain to exclude every application that the rest takes. Long lists are not compared.
    pub(crate) fn excludes_all(&self) -> bool {
        let none_of = self.none_of.as_deref().unwrap_or_default();
        let paths = self.path.as_deref().unwrap_or_default();
        if none_of.is_empty() || none_of.len().saturating_mul(paths.len().max(1)) > MOST_COMPARED {
            return false;
        }
        let rest = Clause::Facts(Box::new(Self {
            none_of: None,
            ..self.clone()
        }));
        let is_excluded = |path: &PathPattern| {
            let path = Clause::Path(path.clone());
            none_of.iter().any(|own| own.covers(&path))
        };
        none_of.iter().any(|own| own.covers(&rest))
            || !paths.is_empty() && paths.iter().all(is_excluded)
    }

    fn covers(&self, other: &Self) -> bool {
        part_covers(
            self.path.as_deref(),
            other.path.as_deref(),
            PathPattern::covers,
        ) && part_covers(self.unit.as_deref(), other.unit.as_deref(), |own, other| {
            own.covers(other, UnitPattern::covers)
        }) && part_covers(
            self.script.as_deref(),
            other.script.as_deref(),
            |own, other| own.covers(other, PathPattern::covers),
        ) && part_covers(
            self.parent.as_deref(),
            other.parent.as_deref(),
            PathPattern::covers,
        ) && part_covers(
            self.sha256.as_deref(),
            other.sha256.as_deref(),
            PartialEq::eq,
        ) && match (&self.none_of, &other.none_of) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(others)) => own
                .iter()
                .all(|own| others.iter().any(|other| other.covers(own))),
        }
    }
}

fn one_of<T>(patterns: Option<&[T]>, ask: impl Fn(&T) -> Truth) -> Truth {
    patterns.map_or(Truth::Yes, |patterns| Truth::any(patterns, ask))
}

fn of<T>(learned: &Learned<T>, fact: Fact, ask: impl FnOnce(&T) -> Truth) -> Truth {
    match learned {
        Learned::NotAsked => Truth::Pending(fact),
        Learned::Unknowable => Truth::Doubt,
        Learned::Is(value) => ask(value),
    }
}

fn part_covers<T>(own: Option<&[T]>, other: Option<&[T]>, covers: impl Fn(&T, &T) -> bool) -> bool {
    match (own, other) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(own), Some(others)) => {
            let is_covered = |other| own.iter().any(|own| covers(own, other));
            others.iter().all(is_covered)
        }
    }
}

/// As in the rule file.
impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str(UNKNOWN),
            Self::Path(pattern) => pattern.fmt(f),
            Self::Facts(patterns) => patterns.fmt(f),
        }
    }
}

impl fmt::Display for FactPatterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hashes = self.sha256.as_ref();
        let hashes = hashes.map(|all| all.iter().map(|hash| hex::encode(hash)).collect::<Vec<_>>());
        let parts = [
            ("path", self.path.as_deref().map(shown)),
            ("unit", self.unit.as_deref().map(shown)),
            ("script", self.script.as_deref().map(shown)),
            ("parent", self.parent.as_deref().map(shown)),
            ("sha256", hashes.as_deref().map(shown)),
            ("not", self.none_of.as_deref().map(shown)),
        ];
        let parts = parts
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)));
        let parts: Vec<String> = parts
            .map(|(key, value)| format!("{key}: {value}"))
            .collect();
        write!(f, "{{{}}}", parts.join(", "))
    }
}

fn shown<T: fmt::Display>(patterns: &[T]) -> String {
    match patterns {
        [one] => one.to_string(),
        several => format!(
            "[{}]",
            crate::first_few::list(several.iter().map(T::to_string))
        ),
    }
}
