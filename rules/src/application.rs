//! Who opened a flow, as far as it was found out.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::diagnostics::Fault;
use crate::hex;

/// Who opened a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Application {
    /// The program was found.
    Known(Facts),
    /// It was looked for and not found. Rules name this with `app: unknown`; no other `app:` matches it.
    Unknown,
}

/// What was found out of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Absolute path of the binary.
    pub path: PathBuf,
    /// The script that the binary runs, when it is an interpreter.
    pub script: Learned<Option<PathBuf>>,
    /// The processes from which it descends.
    pub ancestors: Learned<Ancestors>,
    /// Its control group in the unified hierarchy, from the root: `/user.slice/…/app-firefox.scope` (cgroups(7)).
    pub cgroup: Learned<Option<String>>,
    /// SHA-256 of the binary that runs.
    pub sha256: Learned<[u8; 32]>,
}

/// What is known of one fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Learned<T> {
    /// Nobody asked.
    NotAsked,
    /// It cannot be found out. That satisfies no pattern, and a `not` that asks for it cannot be answered.
    Unknowable,
    /// This is so.
    Is(T),
}

/// The processes from which a program descends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ancestors {
    /// Absolute paths of their binaries, the parent's first.
    pub binaries: Vec<PathBuf>,
    /// Whether these are all that count: the ones of the same user, up to the first of another one.
    pub complete: bool,
}

/// What rules can ask of an application. In the order of what it costs to find out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fact {
    /// The binary: the application itself.
    Path,
    /// The control group.
    Cgroup,
    /// The script.
    Script,
    /// The ancestors.
    Ancestors,
    /// The binary's hash.
    Sha256,
}

impl Facts {
    /// A program of which nothing but the path of its binary was asked for.
    pub fn of(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            script: Learned::NotAsked,
            ancestors: Learned::NotAsked,
            cgroup: Learned::NotAsked,
            sha256: Learned::NotAsked,
        }
    }

    /// Notes that `fact` cannot be found out. What is known stays known.
    pub fn give_up(&mut self, fact: Fact) {
        match fact {
            Fact::Path => {}
            Fact::Cgroup => self.cgroup.give_up(),
            Fact::Script => self.script.give_up(),
            Fact::Ancestors => self.ancestors.give_up(),
            Fact::Sha256 => self.sha256.give_up(),
        }
    }
}

impl<T> Learned<T> {
    fn give_up(&mut self) {
        if matches!(self, Self::NotAsked) {
            *self = Self::Unknowable;
        }
    }
}

impl Application {
    /// The program with this binary, of which nothing else was asked for.
    pub fn of(path: impl Into<PathBuf>) -> Self {
        Self::Known(Facts::of(path))
    }

    /// Reads what people write where an application is asked for: an absolute path, or `unknown`.
    ///
    /// # Errors
    ///
    /// In one sentence, when `text` is neither.
    pub fn parse(text: &str) -> Result<Self, String> {
        parse(text).map_err(|fault| fault.to_string())
    }

    /// Notes that `fact` cannot be found out. What is known stays known.
    pub fn give_up(&mut self, fact: Fact) {
        match self {
            Self::Known(facts) => facts.give_up(fact),
            Self::Unknown => {}
        }
    }

    /// The same with every fact that was not asked for given up: what is left when nobody can be asked.
    pub(crate) fn as_far_as_known(&self) -> Self {
        let mut application = self.clone();
        if let Self::Known(facts) = &mut application {
            for fact in [Fact::Cgroup, Fact::Script, Fact::Ancestors, Fact::Sha256] {
                facts.give_up(fact);
            }
        }
        application
    }
}

/// The path and what else is known, or `unknown`.
impl fmt::Display for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Known(facts) = self else {
            return f.write_str(UNKNOWN);
        };
        write!(f, "{}", facts.path.display())?;
        let mut beside = Vec::new();
        if let Learned::Is(script) = &facts.script {
            beside.push(format!("script {}", or_none(script.as_deref())));
        }
        if let Learned::Is(ancestors) = &facts.ancestors {
            let parent = ancestors.binaries.first().map(PathBuf::as_path);
            beside.push(format!("parent {}", or_none(parent)));
        }
        if let Learned::Is(cgroup) = &facts.cgroup {
            beside.push(format!("unit {}", cgroup.as_deref().unwrap_or(NONE)));
        }
        if let Learned::Is(hash) = &facts.sha256 {
            beside.push(format!("sha256 {}…", &hex::encode(hash)[..8]));
        }
        if beside.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", beside.join(", "))
    }
}

fn or_none(path: Option<&Path>) -> String {
    path.map_or_else(|| NONE.to_owned(), |path| path.display().to_string())
}

/// How rules and tests name an application that was not found.
pub(crate) const UNKNOWN: &str = "unknown";
/// How rules and tests name what is not there.
pub(crate) const NONE: &str = "none";

/// See [`Application::parse`].
pub(crate) fn parse(text: &str) -> Result<Application, Fault> {
    if text == UNKNOWN {
        return Ok(Application::Unknown);
    }
    absolute(text).map(Application::of).ok_or_else(|| {
        not_a_program(text).hint("write the absolute path of the binary, or `unknown`")
    })
}

/// Reads the path of a program, as tests give it.
pub(crate) fn absolute(text: &str) -> Option<PathBuf> {
    (text.starts_with('/') && !text.ends_with('/')).then(|| PathBuf::from(text))
}

/// What is said of a text that is not the path of a program.
pub(crate) fn not_a_program(text: &str) -> Fault {
    Fault::new(format!("{text:?} is not the path of a program"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        assert_eq!(parse("unknown").unwrap(), Application::Unknown);
        assert_eq!(parse("/bin/sh").unwrap(), Application::of("/bin/sh"));
        for text in ["firefox", "", "/", "/bin/", "bin/sh"] {
            let fault = parse(text).unwrap_err().to_string();
            assert!(fault.contains("absolute path"), "{text}: {fault}");
        }
    }

    #[test]
    fn giving_up_forgets_nothing() {
        let mut facts = Facts::of("/bin/sh");
        facts.script = Learned::Is(Some("/opt/x".into()));
        for fact in [Fact::Path, Fact::Script, Fact::Sha256] {
            facts.give_up(fact);
        }
        assert_eq!(facts.script, Learned::Is(Some("/opt/x".into())));
        assert_eq!(facts.sha256, Learned::Unknowable);
        assert_eq!(facts.cgroup, Learned::NotAsked);
    }

    #[test]
    fn shows_what_is_known() {
        let mut facts = Facts::of("/usr/bin/python3");
        assert_eq!(
            Application::Known(facts.clone()).to_string(),
            "/usr/bin/python3"
        );
        facts.script = Learned::Is(Some("/opt/x.py".into()));
        facts.cgroup = Learned::Is(None);
        facts.sha256 = Learned::Is([0xab; 32]);
        facts.ancestors = Learned::Is(Ancestors {
            binaries: vec!["/bin/sh".into(), "/usr/bin/tmux".into()],
            complete: true,
        });
        assert_eq!(
            Application::Known(facts).to_string(),
            "/usr/bin/python3 (script /opt/x.py, parent /bin/sh, unit none, sha256 abababab…)"
        );
    }
}
