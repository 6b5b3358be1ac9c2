//! Patterns of systemd units and control groups.

use std::fmt;

use crate::diagnostics::Fault;
use crate::glob::{Glob, is_glob};

/// A pattern of control groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum UnitPattern {
    /// A component of the group's path: units lie in one another, and each of them counts.
    Unit(String),
    /// As `Unit`.
    UnitGlob(Glob),
    /// The whole path.
    Group(String),
    /// The whole path.
    GroupGlob(Glob),
}

impl UnitPattern {
    /// Reads a unit, the path of a control group, or a glob of either.
    pub(crate) fn parse(text: &str) -> Result<Self, Fault> {
        let is_path = text.contains('/');
        if is_path && !text.starts_with('/') {
            return Err(
                Fault::new(format!("{text:?} is no unit and no control group"))
                    .hint("the path of a control group begins with `/`; a unit has no `/`"),
            );
        }
        if !is_path && !is_glob(text) && !text.contains('.') {
            return Err(
                Fault::new(format!("{text:?} is not the whole name of a unit")).hint(format!(
                    "a unit ends with its kind: {text}.service, {text}.scope, {text}.slice"
                )),
            );
        }
        Ok(match (is_path, is_glob(text)) {
            (false, false) => Self::Unit(text.to_owned()),
            (false, true) => Self::UnitGlob(Glob::parse(text)?),
            (true, false) => Self::Group(text.to_owned()),
            (true, true) => Self::GroupGlob(Glob::parse(text)?),
        })
    }

    /// Whether the group of this path matches.
    pub(crate) fn matches(&self, path: &str) -> bool {
        let mut components = path.split('/').filter(|component| !component.is_empty());
        match self {
            Self::Unit(own) => components.any(|unit| unit == own),
            Self::UnitGlob(glob) => components.any(|unit| glob.matches(unit.as_bytes())),
            Self::Group(own) => path == own,
            Self::GroupGlob(glob) => glob.matches(path.as_bytes()),
        }
    }

    /// Whether every group that `other` matches is certain to match.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (own, Self::Group(path)) => own.matches(path),
            (Self::UnitGlob(glob), Self::Unit(unit)) => glob.matches(unit.as_bytes()),
            (own, other) => own == other,
        }
    }
}

/// As in the rule file.
impl fmt::Display for UnitPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit(text) | Self::Group(text) => f.write_str(text),
            Self::UnitGlob(glob) | Self::GroupGlob(glob) => f.write_str(glob.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIREFOX: &str =
        "/user.slice/user-1000.slice/user@1000.service/app.slice/app-firefox-17.scope";

    #[track_caller]
    fn check(text: &str, path: &str, expected: bool) {
        let pattern = UnitPattern::parse(text).unwrap();
        assert_eq!(pattern.matches(path), expected, "{text} {path}");
        assert_eq!(pattern.to_string(), text);
    }

    #[test]
    fn matches_units_and_groups() {
        check("app-firefox-17.scope", FIREFOX, true);
        check("app-firefox-*.scope", FIREFOX, true);
        check("user@1000.service", FIREFOX, true);
        check("app.slice", FIREFOX, true);
        check("firefox.scope", FIREFOX, false);
        check("/user.slice/**", FIREFOX, true);
        check("/system.slice/**", FIREFOX, false);
        check(
            "/system.slice/sshd.service",
            "/system.slice/sshd.service",
            true,
        );
        check(
            "/system.slice/sshd.service",
            "/system.slice/sshd.service/x",
            false,
        );
        check("*", "/", false);
    }

    #[test]
    fn refuses_what_is_none() {
        for (text, hint) in [
            ("firefox", "firefox.service"),
            ("", ".service"),
            ("app.slice/x.scope", "begins with `/`"),
            ("a[", "closed"),
        ] {
            let fault = UnitPattern::parse(text).unwrap_err().to_string();
            assert!(fault.contains(hint), "{text}: {fault}");
        }
    }

    #[track_caller]
    fn covers(own: &str, other: &str, expected: bool) {
        let parse = |text: &str| UnitPattern::parse(text).unwrap();
        assert_eq!(parse(own).covers(&parse(other)), expected, "{own} {other}");
    }

    #[test]
    fn knows_what_covers_what() {
        covers("a.slice", "/a.slice/b.service", true);
        covers("*.slice", "a.slice", true);
        covers("*.slice", "*.slice", true);
        covers("a.slice", "*.slice", false);
        covers("/a.slice/**", "/a.slice/b.service", true);
        covers("/a.slice/b.service", "b.service", false);
    }
}
