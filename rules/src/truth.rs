//! Whether something matches, as far as that is known.
//!
//! The logic is Kleene's, with one more value for what can still be found out. Two rules make it safe. What is not known
//! never satisfies a matcher that asks for it. And where a `not` asks for it, nobody can say whether the rule matches: that
//! is [`Truth::Doubt`], and a flow that a rule is in doubt about is blocked by that rule, whatever its action.

use crate::application::Fact;

/// Whether something matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Truth {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// It cannot be known.
    Doubt,
    /// It depends on this fact, which was not asked for yet.
    Pending(Fact),
}

impl Truth {
    /// Whether both match. A fact that is pending goes before doubt: it may still say no.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Pending(one), Self::Pending(another)) => Self::Pending(one.min(another)),
            (Self::Pending(fact), _) | (_, Self::Pending(fact)) => Self::Pending(fact),
            (Self::Doubt, _) | (_, Self::Doubt) => Self::Doubt,
            (Self::Yes, Self::Yes) => Self::Yes,
        }
    }

    /// Whether one of both matches. A fact that is pending goes before doubt: it may still say yes.
    pub(crate) fn or(self, other: Self) -> Self {
        self.not().and(other.not()).not()
    }

    /// Whether it does not match.
    pub(crate) fn not(self) -> Self {
        match self {
            Self::Yes => Self::No,
            Self::No => Self::Yes,
            Self::Doubt => Self::Doubt,
            Self::Pending(fact) => Self::Pending(fact),
        }
    }

    /// Where it is not asked under a `not`: doubt satisfies nothing.
    pub(crate) fn surely(self) -> Self {
        match self {
            Self::Doubt => Self::No,
            Self::Yes | Self::No | Self::Pending(_) => self,
        }
    }

    /// Whether one of `items` matches.
    pub(crate) fn any<T>(items: &[T], mut ask: impl FnMut(&T) -> Self) -> Self {
        let mut truth = Self::No;
        for item in items {
            truth = truth.or(ask(item));
            if truth == Self::Yes {
                break;
            }
        }
        truth
    }
}

impl From<bool> for Truth {
    fn from(matches: bool) -> Self {
        if matches { Self::Yes } else { Self::No }
    }
}

/// A list of patterns and at most one `{not: […]}` beside them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OneOf<T> {
    /// One of these matches, …
    pub(crate) any: Vec<T>,
    /// … or none of these does.
    pub(crate) none_of: Option<Vec<T>>,
}

impl<T> OneOf<T> {
    /// Whether one of them matches. `takes` answers for a pattern outside the `not`, where what is not known is no, and
    /// `truth` for one under it, where that is doubt.
    pub(crate) fn truth(
        &self,
        takes: impl FnMut(&T) -> Truth,
        truth: impl FnMut(&T) -> Truth,
    ) -> Truth {
        let any = Truth::any(&self.any, takes);
        match &self.none_of {
            None => any,
            Some(_) if any == Truth::Yes => any,
            Some(none_of) => any.or(Truth::any(none_of, truth).not()),
        }
    }

    /// Whether all that `other` takes, in doubt too, is certain to be taken. Never a wrong yes.
    pub(crate) fn covers(
        &self,
        other: &Self,
        covers: impl Fn(&T, &T) -> bool,
        are_apart: impl Fn(&T, &T) -> bool,
    ) -> bool {
        let takes = |pattern: &T| {
            self.any.iter().any(|own| covers(own, pattern))
                || self
                    .none_of
                    .as_ref()
                    .is_some_and(|none_of| none_of.iter().all(|own| are_apart(own, pattern)))
        };
        let takes_all_but = |theirs: &Vec<T>| {
            self.none_of.as_ref().is_some_and(|none_of| {
                let excluded = |own: &T| theirs.iter().any(|their| covers(their, own));
                none_of.iter().all(excluded)
            })
        };
        other.any.iter().all(takes) && other.none_of.as_ref().is_none_or(takes_all_but)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Truth; 5] = [
        Truth::Yes,
        Truth::No,
        Truth::Doubt,
        Truth::Pending(Fact::Path),
        Truth::Pending(Fact::Sha256),
    ];

    #[test]
    fn whoever_asks_first_hears_the_same() {
        for one in ALL {
            for another in ALL {
                assert_eq!(one.and(another), another.and(one), "{one:?} {another:?}");
                assert_eq!(one.or(another), another.or(one), "{one:?} {another:?}");
                for third in ALL {
                    let (left, right) = (one.and(another).and(third), one.and(another.and(third)));
                    assert_eq!(left, right, "{one:?} {another:?} {third:?}");
                }
            }
            assert_eq!(one.not().not(), one);
        }
    }

    #[test]
    fn the_cheapest_fact_is_asked_for_first() {
        let (path, hash) = (Truth::Pending(Fact::Path), Truth::Pending(Fact::Sha256));
        assert_eq!(path.and(hash), path);
        assert_eq!(hash.or(path), path);
        assert_eq!(hash.and(Truth::Doubt), hash);
        assert_eq!(hash.or(Truth::Doubt), hash);
        assert_eq!(hash.and(Truth::No), Truth::No);
        assert_eq!(hash.or(Truth::Yes), Truth::Yes);
    }

    #[track_caller]
    fn check(any: &[Truth], none_of: Option<&[Truth]>, expected: Truth) {
        let list = OneOf {
            any: any.to_vec(),
            none_of: none_of.map(<[Truth]>::to_vec),
        };
        assert_eq!(
            list.truth(|truth| truth.surely(), |truth| *truth),
            expected,
            "{list:?}"
        );
    }

    #[test]
    fn what_is_not_known_satisfies_nothing_and_is_in_doubt_under_a_not() {
        use Truth::{Doubt, No, Yes};
        check(&[Doubt], None, No);
        check(&[Doubt, Yes], None, Yes);
        check(&[], Some(&[Doubt]), Doubt);
        check(&[], Some(&[Doubt, Yes]), No);
        check(&[], Some(&[No]), Yes);
        check(&[Yes], Some(&[Doubt]), Yes);
        check(&[Doubt], Some(&[Yes]), No);
        check(&[], Some(&[]), Yes);
        check(&[], None, No);
    }
}
