//! The programs that rules name by path, and what is there: an application is known by the path of its binary, so the path of a
//! link or of a script matches nothing.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::diagnostics::{Fault, Place};
use crate::findings::Findings;
use crate::path_pattern::PathPattern;
use crate::sets::Files;

/// Paths that are looked at; each takes some microseconds.
const MOST: usize = 1000;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AtPath {
    /// A file that can be run.
    Binary,
    /// A file whose first line names what runs it.
    Script,
    /// No file, but files below it.
    Directory,
    /// The path goes over a link; this is the file's own.
    Link(PathBuf),
    /// Nothing, or nothing that we may look at.
    Unseen,
}

/// What a path was named for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum NamedAs {
    Binary,
    Script,
}

/// The paths of programs that were named, each once.
#[derive(Debug, Default)]
pub(crate) struct Programs {
    named: Vec<(Place, NamedAs, String)>,
    known: HashSet<(NamedAs, String)>,
}

impl Programs {
    pub(crate) fn note(&mut self, place: Place, named_as: NamedAs, pattern: &PathPattern) {
        let PathPattern::Path(path) = pattern else {
            return;
        };
        if self.named.len() < MOST && self.known.insert((named_as, path.clone())) {
            self.named.push((place, named_as, path.clone()));
        }
    }

    /// Warns of those that no program can have.
    pub(crate) fn warn(&self, files: &mut dyn Files, findings: &mut Findings) {
        for (place, named_as, path) in &self.named {
            let fault = match (files.program(Path::new(path)), named_as) {
                (Some(AtPath::Link(target)), NamedAs::Binary)
                    if matches!(files.program(&target), Some(AtPath::Script)) =>
                {
                    link_to_script(path, &target)
                }
                (Some(AtPath::Link(target)), _) => link(path, &target),
                (Some(AtPath::Script), NamedAs::Binary) => script(path),
                (Some(AtPath::Directory), _) => directory(path),
                (Some(AtPath::Script | AtPath::Binary | AtPath::Unseen) | None, _) => continue,
            };
            findings.warning(*place, fault);
        }
    }
}

fn link(path: &str, target: &Path) -> Fault {
    let target = target.display();
    Fault::new(format!(
        "{path} is a link, and a program is known by its own path: {target}"
    ))
    .hint(format!("write {target}"))
}

fn script(path: &str) -> Fault {
    Fault::new(format!(
        "{path} is a script, and what runs is its interpreter"
    ))
    .hint(hint_of_script(path))
}

/// What distributions put in the place of a program of several versions, above all.
fn link_to_script(path: &str, target: &Path) -> Fault {
    let target = target.display().to_string();
    Fault::new(format!(
        "{path} is a link to {target}, which is a script, and what runs is its interpreter"
    ))
    .hint(hint_of_script(&target))
}

fn hint_of_script(path: &str) -> String {
    format!(
        "write {{script: {path}}}, or if it only starts another program that one's path: `adit flows` shows it"
    )
}

fn directory(path: &str) -> Fault {
    Fault::new(format!("{path} is a directory, and no program"))
        .hint(format!("all below it is \"{path}/**\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Date, Policy};

    /// A host where `/bin` is a link to `/usr/bin`, and `/usr/bin/tool` a script.
    struct Host {
        asked: Vec<PathBuf>,
    }

    impl Files for Host {
        fn read(&mut self, _: &Path, _: usize) -> Result<String, String> {
            Err("there is none".to_owned())
        }

        fn program(&mut self, path: &Path) -> Option<AtPath> {
            self.asked.push(path.to_owned());
            Some(match path.strip_prefix("/bin") {
                Ok(name) => AtPath::Link(Path::new("/usr/bin").join(name)),
                Err(_) if path.ends_with("tool") => AtPath::Script,
                Err(_) if path.ends_with("bin") => AtPath::Directory,
                Err(_) if path.starts_with("/usr") => AtPath::Binary,
                Err(_) => AtPath::Unseen,
            })
        }
    }

    fn warned(app: &str) -> (Vec<String>, Vec<PathBuf>) {
        let text = format!(
            "version: 1\nrules:\n  - name: one\n    app: {app}\n    ports: 443\n    action: block\n  \
             - name: two\n    app: {app}\n    ports: 80\n    action: pass\ndefault: pass\n"
        );
        let today = Date::parse("2026-11-26").unwrap();
        let mut host = Host { asked: Vec::new() };
        let read = Policy::parse(Path::new("rules.yaml"), &text, today, &mut host).unwrap();
        let warnings = read.warnings.iter();
        let about = warnings.filter(|it| it.message().contains(" is a "));
        let told = about.map(|it| {
            let hint = it.hint().unwrap_or_default();
            format!("{}: {} ({hint})", it.line(), it.message())
        });
        (told.collect(), host.asked)
    }

    #[test]
    fn links_scripts_and_directories_are_told_once() {
        let link = "4: /bin/curl is a link, and a program is known by its own path: /usr/bin/curl (write /usr/bin/curl)";
        assert_eq!(warned("/bin/curl").0, [link]);
        assert_eq!(warned("{script: [/bin/curl]}").0, [link]);
        let script = "4: /usr/bin/tool is a script, and what runs is its interpreter (write {script: /usr/bin/tool}, or if it only starts another program that one's path: `adit flows` shows it)";
        assert_eq!(warned("/usr/bin/tool").0, [script]);
        assert_eq!(warned("{parent: [/usr/bin/tool]}").0, [script]);
        let wrapper = format!(
            "4: /bin/tool is a link to {}",
            &script[3..].replacen("tool is", "tool, which is", 1)
        );
        assert_eq!(warned("/bin/tool").0, [wrapper]);
        let directory =
            "4: /usr/bin is a directory, and no program (all below it is \"/usr/bin/**\")";
        assert_eq!(warned("/usr/bin").0, [directory]);
        assert_eq!(warned("{script: /usr/bin}").0, [directory]);
    }

    #[test]
    fn what_can_be_meant_is_not_told() {
        for app in ["/usr/bin/curl", "/opt/erp", "{script: /usr/bin/tool}"] {
            let (told, asked) = warned(app);
            assert!(told.is_empty(), "{app}: {told:?}");
            assert_eq!(asked.len(), 1, "{app}: each once");
        }
        for app in ["curl", "\"/bin/*\"", "{regex: ^/bin/}", "unknown"] {
            let (told, asked) = warned(app);
            assert!(told.is_empty() && asked.is_empty(), "{app}: {told:?}");
        }
    }
}
