//! A pattern of something that need not be there.

use std::fmt;
use std::path::Path;

use crate::application::NONE;
use crate::diagnostics::Fault;
use crate::path_pattern::PathPattern;
use crate::unit_pattern::UnitPattern;
use crate::words::not_a_slip_of;

/// What one of the patterns takes, or what has none.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum OrNone<T> {
    /// `none`
    Absent,
    Pattern(T),
}

impl<T> OrNone<T> {
    /// Reads the word, or a pattern.
    pub(crate) fn parse(
        text: &str,
        pattern: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Result<Self, Fault> {
        not_a_slip_of(NONE, text)?;
        match text == NONE {
            true => Ok(Self::Absent),
            false => pattern(text).map(Self::Pattern),
        }
    }

    /// Whether everything that `other` takes is certain to be taken.
    pub(crate) fn covers(&self, other: &Self, covers: impl Fn(&T, &T) -> bool) -> bool {
        match (self, other) {
            (Self::Absent, Self::Absent) => true,
            (Self::Pattern(own), Self::Pattern(other)) => covers(own, other),
            (Self::Absent | Self::Pattern(_), _) => false,
        }
    }

    pub(crate) fn pattern(&self) -> Option<&T> {
        match self {
            Self::Absent => None,
            Self::Pattern(pattern) => Some(pattern),
        }
    }
}

impl OrNone<PathPattern> {
    /// Whether a program matches that runs `script`.
    pub(crate) fn takes_script(&self, script: Option<&Path>) -> bool {
        match self {
            Self::Absent => script.is_none(),
            Self::Pattern(pattern) => script.is_some_and(|script| pattern.matches(script)),
        }
    }
}

impl OrNone<UnitPattern> {
    /// Whether a program matches that is in `group`. The root group belongs to no unit.
    pub(crate) fn takes_group(&self, group: Option<&str>) -> bool {
        match self {
            Self::Absent => group.is_none_or(|group| group == "/"),
            Self::Pattern(pattern) => group.is_some_and(|group| pattern.matches(group)),
        }
    }
}

/// As in the rule file.
impl<T: fmt::Display> fmt::Display for OrNone<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str(NONE),
            Self::Pattern(pattern) => pattern.fmt(f),
        }
    }
}
