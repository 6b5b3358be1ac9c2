//! Who opened a flow, and patterns of that.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use regex::bytes::Regex;

use crate::diagnostics::Fault;
use crate::expression;
use crate::glob::{Glob, is_glob};

/// Who opened a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Application {
    /// The program whose binary was found.
    Known {
        /// Absolute path of the binary.
        path: PathBuf,
    },
    /// It was looked for and not found. Rules name this with `app: unknown`; no other `app:` matches it.
    Unknown,
}

impl Application {
    /// Reads what people write where an application is asked for: an absolute path, or `unknown`.
    ///
    /// # Errors
    ///
    /// In one sentence, when `text` is neither.
    pub fn parse(text: &str) -> Result<Self, String> {
        parse(text).map_err(|fault| fault.to_string())
    }
}

/// The path, or `unknown`.
impl fmt::Display for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known { path } => path.display().fmt(f),
            Self::Unknown => f.write_str(UNKNOWN),
        }
    }
}

/// How rules and tests name an application that was not found.
const UNKNOWN: &str = "unknown";

/// See [`Application::parse`].
pub(crate) fn parse(text: &str) -> Result<Application, Fault> {
    if text == UNKNOWN {
        return Ok(Application::Unknown);
    }
    if text.starts_with('/') && !text.ends_with('/') {
        let path = PathBuf::from(text);
        return Ok(Application::Known { path });
    }
    Err(Fault::new(format!("{text:?} is not the path of a program"))
        .hint("write the absolute path of the binary, or `unknown`"))
}

/// A pattern of applications.
#[derive(Debug, Clone)]
pub(crate) enum ApplicationPattern {
    /// Not found.
    Unknown,
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

impl ApplicationPattern {
    /// Reads a name, an absolute path, a glob of either, or `unknown`.
    pub(crate) fn parse(text: &str) -> Result<Self, Fault> {
        if text == UNKNOWN {
            return Ok(Self::Unknown);
        }
        if text.is_empty() {
            return Err(Fault::new("an application has a name"));
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
    pub(crate) fn regex(source: &str) -> Result<Self, Fault> {
        expression::for_paths(source).map(Self::Regex)
    }

    /// Whether `application` matches.
    pub(crate) fn matches(&self, application: &Application) -> bool {
        match application {
            Application::Unknown => matches!(self, Self::Unknown),
            Application::Known { path } => self.matches_path(path),
        }
    }

    fn matches_path(&self, path: &Path) -> bool {
        let bytes = path.as_os_str().as_bytes();
        match self {
            Self::Unknown => false,
            Self::Name(own) => base_name(bytes) == own.as_bytes(),
            Self::NameGlob(glob) => glob.matches(base_name(bytes)),
            Self::Path(own) => bytes == own.as_bytes(),
            Self::PathGlob(glob) => glob.matches(bytes),
            Self::Regex(regex) => regex.is_match(bytes),
        }
    }

    /// Whether every application that `other` matches is certain to match.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unknown, Self::Unknown) => true,
            (_, Self::Path(path)) => self.matches_path(Path::new(path)),
            (Self::Name(own), Self::Name(name)) => own == name,
            (Self::NameGlob(glob), Self::Name(name)) => glob.matches(name.as_bytes()),
            (Self::NameGlob(own), Self::NameGlob(glob))
            | (Self::PathGlob(own), Self::PathGlob(glob)) => own == glob,
            (Self::Regex(own), Self::Regex(regex)) => own.as_str() == regex.as_str(),
            (
                Self::Unknown
                | Self::Name(_)
                | Self::NameGlob(_)
                | Self::Path(_)
                | Self::PathGlob(_)
                | Self::Regex(_),
                _,
            ) => false,
        }
    }
}

/// As in the rule file.
impl fmt::Display for ApplicationPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str(UNKNOWN),
            Self::Name(text) | Self::Path(text) => f.write_str(text),
            Self::NameGlob(glob) | Self::PathGlob(glob) => f.write_str(glob.as_str()),
            Self::Regex(regex) => write!(f, "/{regex}/"),
        }
    }
}

fn base_name(path: &[u8]) -> &[u8] {
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

    fn pattern(text: &str) -> ApplicationPattern {
        match text.strip_prefix("re:") {
            Some(source) => ApplicationPattern::regex(source).unwrap(),
            None => ApplicationPattern::parse(text).unwrap(),
        }
    }

    #[track_caller]
    fn check(text: &str, application: &str, expected: bool) {
        let application = parse(application).unwrap();
        assert_eq!(
            pattern(text).matches(&application),
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
    fn the_unknown_satisfies_only_its_own_name() {
        check("unknown", "unknown", true);
        check("unknown", "/usr/bin/unknown", false);
        check("*", "unknown", false);
        check("/**", "unknown", false);
        check("re:.?", "unknown", false);
        check("/usr/bin/unknown", "unknown", false);
    }

    #[test]
    fn a_path_need_not_be_text() {
        use std::ffi::OsStr;
        let path = Path::new(OsStr::from_bytes(b"/opt/\xff/run")).to_path_buf();
        let application = Application::Known { path };
        for (text, expected) in [
            ("run", true),
            ("/opt/*/run", true),
            (r"re:^/opt/./run$", true),
        ] {
            assert_eq!(pattern(text).matches(&application), expected, "{text}");
        }
    }

    #[test]
    fn refuses_what_can_never_match() {
        let refused = |text: &str| ApplicationPattern::parse(text).unwrap_err().to_string();
        assert!(refused("").contains("has a name"));
        assert!(refused("bin/firefox").contains("the name alone"));
        assert!(refused("~/bin/x").contains("/home/*/…"));
        assert!(refused("/opt/erp/").contains("/opt/erp/**"));
        assert!(refused("/opt//erp").contains("without empty components"));
        assert!(refused("/opt/../erp").contains("without empty components"));
        assert!(refused("/").contains("can never be"));
        assert!(
            parse("firefox")
                .unwrap_err()
                .to_string()
                .contains("absolute path")
        );
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
        covers("unknown", "unknown", true);
        covers("unknown", "/usr/bin/firefox", false);
        covers("re:.", "unknown", false);
        covers("*", "unknown", false);
    }
}
