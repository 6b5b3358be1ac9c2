//! Sets of names of hosts, also of very many.

use crate::name::NamePattern;

/// Patterns of names, of which one must match.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct NameSet {
    /// Ascending.
    exact: Vec<String>,
    /// What is behind `*.`, ascending.
    below: Vec<String>,
    /// All others.
    expressions: Vec<NamePattern>,
}

impl FromIterator<NamePattern> for NameSet {
    fn from_iter<I: IntoIterator<Item = NamePattern>>(patterns: I) -> Self {
        let mut set = Self::default();
        for pattern in patterns {
            match pattern {
                NamePattern::Exact(name) => set.exact.push(name),
                NamePattern::Below(suffix) => set.below.push(suffix),
                NamePattern::Glob { .. } | NamePattern::Regex(_) => set.expressions.push(pattern),
            }
        }
        for names in [&mut set.exact, &mut set.below] {
            names.sort_unstable();
            names.dedup();
        }
        set
    }
}

impl NameSet {
    /// Whether nothing is in the set.
    pub(crate) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.below.is_empty() && self.expressions.is_empty()
    }

    /// Whether `name`, normalized, matches.
    pub(crate) fn matches(&self, name: &str) -> bool {
        has(&self.exact, name)
            || self.has_above(name)
            || self.expressions.iter().any(|it| it.matches(name))
    }

    /// Whether every name that `other` matches is certain to match.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let below = |suffix: &String| NamePattern::Below(suffix.clone());
        let has_expression = |theirs: &NamePattern| {
            self.expressions.iter().any(|own| own.covers(theirs))
                || matches!(theirs, NamePattern::Glob { .. })
                    && self.below.iter().any(|suffix| below(suffix).covers(theirs))
        };
        other.exact.iter().all(|name| self.matches(name))
            && other
                .below
                .iter()
                .all(|it| has(&self.below, it) || self.has_above(it))
            && other.expressions.iter().all(has_expression)
    }

    /// Some name that matches; of an expression that is no glob, only a guess.
    pub(crate) fn sample(&self) -> Option<String> {
        let exact = self.exact.first().cloned();
        let below = || self.below.first().map(|suffix| format!("x.{suffix}"));
        let guess = || {
            let first = self.expressions.first()?;
            Some(match first {
                NamePattern::Glob { written, .. } => written.replace('*', "x"),
                NamePattern::Exact(_) | NamePattern::Below(_) | NamePattern::Regex(_) => {
                    "x".to_owned()
                }
            })
        };
        exact.or_else(below).or_else(guess)
    }

    /// One of the patterns, as in the rule file.
    pub(crate) fn first_shown(&self) -> Option<String> {
        let exact = self.exact.first().cloned();
        let below = || self.below.first().map(|suffix| format!("*.{suffix}"));
        let expression = || self.expressions.first().map(ToString::to_string);
        exact.or_else(below).or_else(expression)
    }

    /// The plain names.
    pub(crate) fn exact(&self) -> &[String] {
        &self.exact
    }

    /// What is behind `*.`.
    pub(crate) fn below(&self) -> &[String] {
        &self.below
    }

    /// How many patterns are neither names nor `*.wildcard`.
    pub(crate) fn expressions(&self) -> usize {
        self.expressions.len()
    }

    /// How many patterns there are.
    pub(crate) fn len(&self) -> usize {
        self.exact.len() + self.below.len() + self.expressions.len()
    }

    fn has_above(&self, name: &str) -> bool {
        !self.below.is_empty() && above(name).any(|suffix| has(&self.below, suffix))
    }
}

/// The domains above `name`, the nearest first.
pub(crate) fn above(name: &str) -> impl Iterator<Item = &str> {
    let parents = std::iter::successors(Some(name), |name| Some(name.split_once('.')?.1));
    // Nothing but a dot in front is no name below.
    parents
        .skip(1)
        .filter(|parent| parent.len() + 1 < name.len())
}

fn has(names: &[String], name: &str) -> bool {
    names.binary_search_by(|own| own.as_str().cmp(name)).is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> NamePattern {
        match text.strip_prefix("re:") {
            Some(source) => {
                NamePattern::regex(source, &mut crate::expression::Expressions::default()).unwrap()
            }
            None => NamePattern::parse_glob(text).unwrap(),
        }
    }

    fn patterns() -> impl Strategy<Value = Vec<&'static str>> {
        let some = [
            "corp",
            "a.corp",
            "b.a.corp",
            "*.corp",
            "*.a.corp",
            "re:^b",
            "x.org",
            "*.org",
            "b*.corp",
            "*.b*.corp",
        ];
        prop::collection::vec(prop::sample::select(some.to_vec()), 0..5)
    }

    proptest! {
        #[test]
        fn matches_what_one_of_its_patterns_matches(
            own in patterns(),
            others in patterns(),
            name in "[ab]{1,2}|corp|org|[abx]\\.(corp|org)|b\\.a\\.corp|a\\.b[ab]?\\.corp|\\.corp",
        ) {
            let all = |texts: &[&str]| texts.iter().map(|text| pattern(text)).collect::<Vec<_>>();
            let (set, other) = (NameSet::from_iter(all(&own)), NameSet::from_iter(all(&others)));
            prop_assert_eq!(set.matches(&name), all(&own).iter().any(|it| it.matches(&name)), "{}", name);
            let covered = all(&others).iter().all(|other| all(&own).iter().any(|it| it.covers(other)));
            prop_assert_eq!(set.covers(&other), covered);
        }
    }
}
