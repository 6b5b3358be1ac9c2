//! Patterns of the paths of programs.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use regex::bytes::Regex;

use crate::diagnostics::Fault;
use crate::expression::Expressions;
use crate::glob::{Glob, is_glob};

/// Bytes of a path that is matched to find out what patterns have in common.
const LONGEST_ASKED: usize = 256;

/// A pattern of files that are run: binaries and scripts.
#[derive(Debug, Clone)]
pub(crate) enum PathPattern {
    /// The last component of the path.
    Name(String),
    /// The last component of the path.
    NameGlob(Glob),
    /// The whole path.
    Path(String),
    /// The whole path.
    PathGlob(Glob),
    /// A regular expression, searched in the path.
    Regex(Regex),
}

impl PathPattern {
    /// Reads a name, an absolute path, or a glob of either.
    pub(crate) fn parse(text: &str) -> Result<Self, Fault> {
        if text.is_empty() {
            return Err(Fault::new("a program has a name"));
        }
        match (text.contains('/'), is_glob(text)) {
            (false, false) => Ok(Self::Name(text.to_owned())),
            (false, true) => Glob::parse(text).map(Self::NameGlob),
            (true, is_glob) => {
                can_be_a_path(text)?;
                if is_glob {
                    Glob::parse(text).map(Self::PathGlob)
                } else {
                    Ok(Self::Path(text.to_owned()))
                }
            }
        }
    }

    /// Reads a regular expression on paths.
    pub(crate) fn regex(source: &str, all: &mut Expressions) -> Result<Self, Fault> {
        all.for_paths(source).map(Self::Regex)
    }

    /// Whether `path` matches.
    pub(crate) fn matches(&self, path: &Path) -> bool {
        let bytes = path.as_os_str().as_bytes();
        match self {
            Self::Name(own) => base_name(bytes) == own.as_bytes(),
            Self::NameGlob(glob) => glob.matches(base_name(bytes)),
            Self::Path(own) => bytes == own.as_bytes(),
            Self::PathGlob(glob) => glob.matches(bytes),
            Self::Regex(regex) => regex.is_match(bytes),
        }
    }

    /// How much longer than a plain comparison it can take to match, roughly.
    pub(crate) fn cost_of_matching(&self) -> usize {
        match self {
            Self::Name(_) | Self::Path(_) => 1,
            Self::NameGlob(glob) | Self::PathGlob(glob) => 4 + glob.as_str().len() / 4,
            Self::Regex(_) => 100,
        }
    }

    /// Whether every path that `other` matches is certain to match.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Path(path)) => self.can_ask(path) && self.matches(Path::new(path)),
            (Self::Name(own), Self::Name(name)) => own == name,
            (Self::NameGlob(glob), Self::Name(name)) => glob.matches(name.as_bytes()),
            (Self::NameGlob(own), Self::NameGlob(glob))
            | (Self::PathGlob(own), Self::PathGlob(glob)) => own == glob,
            (Self::Regex(own), Self::Regex(regex)) => own.as_str() == regex.as_str(),
            (
                Self::Name(_)
                | Self::NameGlob(_)
                | Self::Path(_)
                | Self::PathGlob(_)
                | Self::Regex(_),
                _,
            ) => false,
        }
    }

    /// A quick no to whether `covers` could say yes.
    pub(crate) fn may_cover(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::PathGlob(glob), Self::Path(path)) => path.starts_with(glob.literal_start()),
            (Self::NameGlob(glob), Self::Name(name)) => name.starts_with(glob.literal_start()),
            (Self::PathGlob(own), Self::PathGlob(glob))
            | (Self::NameGlob(own), Self::NameGlob(glob)) => own == glob,
            (_, _) => true,
        }
    }

    /// Whether comparing is quick enough for asking very often: a long glob on a long path takes the product of both.
    fn can_ask(&self, path: &str) -> bool {
        matches!(self, Self::Name(_) | Self::Path(_)) || path.len() <= LONGEST_ASKED
    }

    /// Whether no path can match both. Never a wrong yes.
    pub(crate) fn is_apart_from(&self, other: &Self) -> bool {
        match (self, other) {
            (own, Self::Path(path)) => own.can_ask(path) && !own.matches(Path::new(path)),
            (Self::Path(path), other) => other.can_ask(path) && !other.matches(Path::new(path)),
            (Self::Name(own), Self::Name(name)) => own != name,
            (Self::NameGlob(glob), Self::Name(name)) | (Self::Name(name), Self::NameGlob(glob)) => {
                !glob.matches(name.as_bytes())
            }
            (
                Self::Name(_) | Self::NameGlob(_) | Self::PathGlob(_) | Self::Regex(_),
                Self::Name(_) | Self::NameGlob(_) | Self::PathGlob(_) | Self::Regex(_),
            ) => false,
        }
    }
}

/// Patterns are equal when they are written alike.
impl PartialEq for PathPattern {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

/// As in the rule file.
impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(text) | Self::Path(text) => f.write_str(text),
            Self::NameGlob(glob) | Self::PathGlob(glob) => f.write_str(glob.as_str()),
            Self::Regex(regex) => write!(f, "/{regex}/"),
        }
    }
}

/// What is behind the last slash.
pub(crate) fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or(path)
}

/// The kernel reports absolute paths without `.`, `..` and doubled slashes; anything else would never match.
fn can_be_a_path(text: &str) -> Result<(), Fault> {
    let fault = || Fault::new(format!("{text:?} can never be the path of a program"));
    if text.starts_with("~/") {
        return Err(fault().hint("write the absolute path; for every home: /home/*/…"));
    }
    let Some(below_root) = text.strip_prefix('/') else {
        return Err(fault().hint("write the absolute path, or the name alone; at any depth: /**/…"));
    };
    let mut components = below_root.split('/');
    match components.find(|component| matches!(*component, "" | "." | "..")) {
        None => Ok(()),
        Some("") if text.ends_with('/') && !text.ends_with("//") => {
            Err(fault().hint(format!("all below a directory is {text}**")))
        }
        Some(_) => Err(fault().hint("write it without empty components, `.` and `..`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> PathPattern {
        match text.strip_prefix("re:") {
            Some(source) => PathPattern::regex(source, &mut Expressions::default()).unwrap(),
            None => PathPattern::parse(text).unwrap(),
        }
    }

    #[track_caller]
    fn check(text: &str, application: &str, expected: bool) {
        assert_eq!(
            pattern(text).matches(Path::new(application)),
            expected,
            "{text} {application}"
        );
    }

    #[test]
    fn matches_applications() {
        check("firefox", "/usr/bin/firefox", true);
        check("firefox", "/home/eve/firefox", true);
        check("firefox", "/usr/bin/firefox-esr", false);
        check("Firefox", "/usr/bin/firefox", false);
        check("firefox*", "/usr/bin/firefox-esr", true);
        check("/usr/bin/chromium", "/usr/bin/chromium", true);
        check("/usr/bin/chromium", "/opt/usr/bin/chromium", false);
        check("/opt/erp/**", "/opt/erp/bin/client", true);
        check("/opt/*/client", "/opt/erp/bin/client", false);
        check(r"re:^/opt/erp-[0-9]+/", "/opt/erp-12/bin/x", true);
        check(r"re:^/opt/erp-[0-9]+/", "/opt/erp/bin/x", false);
        check("re:x", "/a/xb", true);
    }

    #[test]
    fn a_path_need_not_be_text() {
        use std::ffi::OsStr;
        let path = Path::new(OsStr::from_bytes(b"/opt/\xff/run"));
        for (text, expected) in [
            ("run", true),
            ("/opt/*/run", true),
            (r"re:^/opt/./run$", true),
        ] {
            assert_eq!(pattern(text).matches(path), expected, "{text}");
        }
    }

    #[test]
    fn refuses_what_can_never_match() {
        let refused = |text: &str| PathPattern::parse(text).unwrap_err().to_string();
        assert!(refused("").contains("has a name"));
        assert!(refused("bin/firefox").contains("the name alone"));
        assert!(refused("~/bin/x").contains("/home/*/…"));
        assert!(refused("/opt/erp/").contains("/opt/erp/**"));
        assert!(refused("/opt//erp").contains("without empty components"));
        assert!(refused("/opt/../erp").contains("without empty components"));
        assert!(refused("/").contains("can never be"));
    }

    #[track_caller]
    fn covers(own: &str, other: &str, expected: bool) {
        assert_eq!(
            pattern(own).covers(&pattern(other)),
            expected,
            "{own} {other}"
        );
    }

    #[test]
    fn knows_what_covers_what() {
        covers("firefox", "/usr/bin/firefox", true);
        covers("/usr/bin/firefox", "firefox", false);
        covers("fire*", "firefox", true);
        covers("fire*", "/usr/bin/firefox", true);
        covers("/usr/**", "/usr/bin/firefox", true);
        covers("/usr/**", "/usr/bin/*", false);
        covers("/usr/**", "/usr/**", true);
        covers("re:^/usr", "/usr/bin/firefox", true);
        covers("re:^/usr", "re:^/usr", true);
    }

    #[track_caller]
    fn apart(one: &str, other: &str, expected: bool) {
        let (left, right) = (pattern(one), pattern(other));
        assert_eq!(left.is_apart_from(&right), expected, "{one} {other}");
        assert_eq!(right.is_apart_from(&left), expected, "{other} {one}");
    }

    #[test]
    fn knows_what_never_meets() {
        apart("firefox", "/usr/bin/firefox", false);
        apart("firefox", "/usr/bin/curl", true);
        apart("firefox", "curl", true);
        apart("fire*", "curl", true);
        apart("fire*", "firefox", false);
        apart("/usr/**", "/opt/x", true);
        apart("/usr/**", "/opt/**", false);
        apart("re:^/usr", "/opt/x", true);
        apart("/usr/bin/a", "/usr/bin/b", true);
    }
}
