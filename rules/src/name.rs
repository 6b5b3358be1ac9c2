//! Names of hosts: what is one, and patterns of them.

use std::borrow::Cow;

use regex::bytes::Regex;

use crate::diagnostics::Fault;
use crate::expression::Expressions;
use crate::glob::Glob;

/// RFC 1035, section 2.3.4, without the root's dot.
pub(crate) const LONGEST_NAME: usize = 253;
/// RFC 1035, section 2.3.4.
const LONGEST_LABEL: usize = 63;

/// Lower case, no trailing dot: the form in which names are compared.
pub(crate) fn normalize(name: &str) -> Cow<'_, str> {
    let bare = name.strip_suffix('.').unwrap_or(name);
    if bare.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(bare.to_ascii_lowercase())
    } else {
        Cow::Borrowed(bare)
    }
}

/// Reads the name of a host and normalizes it.
pub(crate) fn parse(text: &str) -> Result<String, Fault> {
    let name = normalize(text).into_owned();
    let fault = || Fault::new(format!("{text:?} is not the name of a host"));
    if text.contains("://") {
        return Err(fault().hint("write the host alone, without a scheme and a path"));
    }
    if !name.is_ascii() {
        return Err(fault().hint("write the ASCII form of the name (xn--…), as it is looked up"));
    }
    if name.len() > LONGEST_NAME {
        return Err(fault().hint(format!("a name has at most {LONGEST_NAME} characters")));
    }
    if name.contains('*') {
        return Err(fault().hint("`*.` may only stand in front; else use {regex: …}"));
    }
    match name.split('.').find(|label| !is_label(label)) {
        None => Ok(name),
        Some("") => Err(fault().hint("there is nothing between two dots, or no name at all")),
        Some(label) => Err(fault().hint(format!(
            "{label:?} is not a label: 1 to {LONGEST_LABEL} letters, digits, - and _, no - first or last"
        ))),
    }
}

fn is_label(label: &str) -> bool {
    (1..=LONGEST_LABEL).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|byte| byte != b'.' && is_of_a_name(byte))
}

/// Whether names are made of this, in any case.
pub(crate) fn is_of_a_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || [b'.', b'-', b'_'].contains(&byte)
}

/// A pattern of names.
#[derive(Debug, Clone)]
pub(crate) enum NamePattern {
    /// This very name.
    Exact(String),
    /// `*.SUFFIX`: any name below it at any depth, not the suffix itself.
    Below(String),
    /// With `*` inside of labels, each any run of characters but a dot.
    Glob {
        /// As written, in lower case.
        written: String,
        /// With labels as components.
        glob: Glob,
    },
    /// A regular expression, searched in the normalized name.
    Regex(Regex),
}

impl NamePattern {
    /// Reads a name or `*.wildcard`.
    pub(crate) fn parse(text: &str) -> Result<Self, Fault> {
        match text.strip_prefix("*.") {
            Some(suffix) => parse(suffix).map(Self::Below),
            None if text == "*" => {
                Err(Fault::new("\"*\" is not the name of a host").hint("everything is `any`"))
            }
            None => parse(text).map(Self::Exact),
        }
    }

    /// As `parse`; `*` may also stand inside of labels, or for one.
    pub(crate) fn parse_glob(text: &str) -> Result<Self, Fault> {
        let bare = text.strip_prefix("*.").unwrap_or(text);
        if !bare.contains('*') || text == "*" {
            return Self::parse(text);
        }
        let written = normalize(text).into_owned();
        // As a label each run is as good as any character: what is left to be wrong is wrong.
        if parse(&bare.replace('*', "x")).is_err() {
            return Err(Fault::new(format!("{text:?} matches no name of a host"))
                .hint("it would be none with a letter for each `*` either"));
        }
        let labels = written.replace('.', "/");
        let glob = match labels.strip_prefix("*/") {
            // Any name below, at any depth.
            Some(rest) => Glob::parse(&format!("*/**/{rest}"))?,
            None => Glob::parse(&labels)?,
        };
        Ok(Self::Glob { written, glob })
    }

    /// Reads a regular expression on names. Names have no case.
    pub(crate) fn regex(source: &str, all: &mut Expressions) -> Result<Self, Fault> {
        all.for_names(source).map(Self::Regex)
    }

    /// Whether `name`, normalized, matches.
    pub(crate) fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(own) => own == name,
            Self::Below(suffix) => is_below(name, suffix),
            Self::Glob { glob, .. } => glob.matches_name(name),
            Self::Regex(regex) => regex.is_match(name.as_bytes()),
        }
    }

    /// Whether every name that `other` matches is certain to match.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Exact(name)) => self.matches(name),
            (Self::Below(own), Self::Below(suffix)) => own == suffix || is_below(suffix, own),
            (Self::Below(own), Self::Glob { written, .. }) => {
                // The last labels of the glob, as far as they have no `*`.
                written.len() > own.len() && is_below(written, own)
            }
            (Self::Regex(own), Self::Regex(regex)) => own.as_str() == regex.as_str(),
            (Self::Glob { written: own, .. }, Self::Glob { written, .. }) => own == written,
            (Self::Exact(_), Self::Below(_) | Self::Glob { .. } | Self::Regex(_))
            | (Self::Below(_), Self::Regex(_))
            | (Self::Glob { .. }, Self::Below(_) | Self::Regex(_))
            | (Self::Regex(_), Self::Below(_) | Self::Glob { .. }) => false,
        }
    }
}

/// Patterns are equal when they are written alike.
impl PartialEq for NamePattern {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

/// As in the rule file.
impl std::fmt::Display for NamePattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Below(suffix) => write!(f, "*.{suffix}"),
            Self::Glob { written, .. } => f.write_str(written),
            Self::Regex(regex) => write!(f, "/{regex}/"),
        }
    }
}

fn is_below(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix)
        .and_then(|front| front.strip_suffix('.'))
        .is_some_and(|front| !front.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, name: &str, expected: bool) {
        let pattern = NamePattern::parse(pattern).unwrap();
        assert_eq!(pattern.matches(&normalize(name)), expected, "{name}");
    }

    #[test]
    fn matches_names() {
        check("erp.corp", "erp.corp", true);
        check("ERP.corp.", "erp.CORP", true);
        check("erp.corp", "erp.corp.", true);
        check("erp.corp", "x.erp.corp", false);
        check("*.corp", "erp.corp", true);
        check("*.corp", "a.b.c.corp", true);
        check("*.corp", "corp", false);
        check("*.corp", ".corp", false);
        check("*.corp", "xcorp", false);
        check("*.Corp.", "erp.corp", true);
    }

    #[test]
    fn expressions_are_searched_without_case() {
        let pattern =
            NamePattern::regex(r"^ERP[0-9]+\.corp$", &mut Expressions::default()).unwrap();
        assert!(pattern.matches("erp12.corp"));
        assert!(!pattern.matches("erp.corp"));
        assert!(
            NamePattern::regex("rp", &mut Expressions::default())
                .unwrap()
                .matches("erp")
        );
    }

    #[track_caller]
    fn refused(text: &str, hint: &str) {
        let fault = NamePattern::parse(text).unwrap_err();
        assert!(
            fault.to_string().contains(hint),
            "{text}: {fault} lacks {hint}"
        );
    }

    #[test]
    fn refuses_what_is_no_name() {
        refused("https://erp.corp/x", "without a scheme");
        refused("bücher.corp", "xn--");
        refused("a..b", "between two dots");
        refused("", "no name at all");
        refused(".", "no name at all");
        refused("erp corp", "not a label");
        refused("-x.corp", "not a label");
        refused("a.*.corp", "may only stand in front");
        refused("*corp", "may only stand in front");
        refused("*.*.corp", "may only stand in front");
        refused("*", "`any`");
        refused(&"a".repeat(64), "not a label");
        refused(&"a.".repeat(127).repeat(2), "at most 253");
    }

    #[track_caller]
    fn globs(pattern: &str, name: &str, expected: bool) {
        let pattern = NamePattern::parse_glob(pattern).unwrap();
        assert_eq!(
            pattern.matches(&normalize(name)),
            expected,
            "{pattern} {name}"
        );
    }

    #[test]
    fn a_star_inside_a_label_stays_inside() {
        globs("*-files.Example.com", "a-files.example.com", true);
        globs("*-files.example.com", "-files.example.com", true);
        globs("*-files.example.com", "a.b-files.example.com", false);
        globs(
            "autodiscover.*.example.com",
            "autodiscover.x.example.com",
            true,
        );
        globs(
            "autodiscover.*.example.com",
            "autodiscover.x.y.example.com",
            false,
        );
        globs(
            "autodiscover.*.example.com",
            "autodiscover.example.com",
            false,
        );
        globs("*.erp*.corp", "a.b.erp7.corp", true);
        globs("*.erp*.corp", "erp7.corp", false);
        globs("*cdn*.corp", "cdn.corp", true);
        globs("*.corp", "a.b.corp", true);
        globs("erp.corp", "erp.corp", true);
        for wrong in [
            "*",
            "a[b]*.corp",
            "a*..corp",
            "-*.corp",
            "a*?.corp",
            "https://*.corp/",
        ] {
            assert!(NamePattern::parse_glob(wrong).is_err(), "{wrong}");
        }
    }

    #[track_caller]
    fn covers(own: &str, other: &str, expected: bool) {
        let parse = |text: &str| match text.strip_prefix("re:") {
            Some(source) => NamePattern::regex(source, &mut Expressions::default()).unwrap(),
            None => NamePattern::parse_glob(text).unwrap(),
        };
        assert_eq!(parse(own).covers(&parse(other)), expected, "{own} {other}");
    }

    #[test]
    fn knows_what_covers_what() {
        covers("a.corp", "a.corp", true);
        covers("*.corp", "a.corp", true);
        covers("*.corp", "*.corp", true);
        covers("*.corp", "*.a.corp", true);
        covers("*.a.corp", "*.corp", false);
        covers("*.corp", "corp", false);
        covers("a.corp", "*.corp", false);
        covers("re:^a", "a.corp", true);
        covers("re:^a", "b.corp", false);
        covers("re:^a", "re:^a", true);
        covers("re:.", "*.corp", false);
        covers("*.corp", "re:^a[.]corp$", false);
        covers("*.corp", "a*.corp", true);
        covers("*.corp", "*a.corp", true);
        covers("*.corp", "a.*.corp", true);
        covers("*.corp", "*.a*.corp", true);
        covers("*.a.corp", "a*.a.corp", true);
        covers("*.a.corp", "*a.corp", false);
        covers("*.corp", "a*corp", false);
        covers("a*.corp", "a*.corp", true);
        covers("a*.corp", "ab.corp", true);
        covers("a*.corp", "*.corp", false);
    }
}
