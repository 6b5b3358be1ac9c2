//! Applications, users and patterns of them.

use adit_rules::{AccountName, Ancestors, Application, Fact, Facts, Group, Learned, User};
use proptest::prelude::*;

use super::logic::{Known, and, not, or};

/// What is known of an application, each fact `None` when it cannot be known.
#[derive(Debug, Clone)]
pub(crate) struct ModelFacts {
    pub(crate) path: &'static str,
    pub(crate) script: Option<Option<&'static str>>,
    pub(crate) parents: Option<(Vec<&'static str>, bool)>,
    pub(crate) unit: Option<Option<&'static str>>,
    pub(crate) hash: Option<u8>,
}

#[derive(Debug, Clone)]
pub(crate) enum ModelApp {
    Unknown,
    Path(Pattern),
    Facts(Box<ModelFactPatterns>),
}

#[derive(Debug, Clone)]
pub(crate) enum Pattern {
    Name(&'static str),
    Path(&'static str),
    Below(&'static str),
    StartsWith(&'static str),
}

#[derive(Debug, Clone)]
pub(crate) struct ModelFactPatterns {
    path: Option<Pattern>,
    script: Option<Pattern>,
    parent: Option<Pattern>,
    /// Either a unit or what a control group's path is below.
    unit: Option<&'static str>,
    hash: Option<u8>,
    none_of: Vec<ModelApp>,
}

pub(crate) const PROGRAMS: [&str; 4] = ["/usr/bin/a", "/usr/bin/b", "/opt/x/a", "/opt/x/y/c"];
const SCRIPTS: [Option<&str>; 3] = [None, Some("/opt/x/a"), Some("/usr/bin/b")];
const GROUPS: [Option<&str>; 3] = [None, Some("/u.slice/a.service"), Some("/s.slice/b.service")];

impl ModelApp {
    /// Outside a `not`.
    pub(crate) fn surely(&self, application: Option<&ModelFacts>) -> Known {
        match (self, application) {
            (Self::Facts(patterns), Some(facts)) => {
                let parts = patterns.parts(facts).map(|part| Some(part == Some(true)));
                and(parts.into_iter().chain([patterns.rest(application)]))
            }
            _ => Some(self.known(application) == Some(true)),
        }
    }

    /// Under a `not`.
    pub(crate) fn known(&self, application: Option<&ModelFacts>) -> Known {
        match (self, application) {
            (Self::Unknown, application) => Some(application.is_none()),
            (_, None) => None,
            (Self::Path(pattern), Some(facts)) => Some(pattern.takes(facts.path)),
            (Self::Facts(patterns), Some(facts)) => and(patterns
                .parts(facts)
                .into_iter()
                .chain([patterns.rest(application)])),
        }
    }

    pub(crate) fn to_yaml(&self) -> String {
        match self {
            Self::Unknown => "unknown".to_owned(),
            Self::Path(pattern) => pattern.to_yaml(),
            Self::Facts(patterns) => patterns.to_yaml(),
        }
    }
}

impl ModelFactPatterns {
    fn parts(&self, facts: &ModelFacts) -> [Known; 5] {
        let path = self.path.as_ref().map(|it| Some(it.takes(facts.path)));
        let script = self.script.as_ref().map(|pattern| {
            facts
                .script
                .map(|script| script.is_some_and(|script| pattern.takes(script)))
        });
        let parent = self.parent.as_ref().map(|pattern| {
            let (parents, complete) = facts.parents.as_ref()?;
            let is_one = parents.iter().any(|parent| pattern.takes(parent));
            (is_one || *complete).then_some(is_one)
        });
        let unit = self.unit.as_ref().map(|pattern| {
            facts.unit.map(|group| {
                group.is_some_and(|group| match pattern.strip_suffix("/**") {
                    Some(above) => group.starts_with(&format!("{above}/")),
                    None => group.ends_with(&format!("/{pattern}")),
                })
            })
        });
        let hash = self.hash.map(|own| facts.hash.map(|hash| hash == own));
        [path, script, parent, unit, hash].map(|part| part.unwrap_or(Some(true)))
    }

    fn rest(&self, application: Option<&ModelFacts>) -> Known {
        not(or(self.none_of.iter().map(|it| it.known(application))))
    }

    fn to_yaml(&self) -> String {
        let none_of: Vec<String> = self.none_of.iter().map(ModelApp::to_yaml).collect();
        let parts = [
            self.path
                .as_ref()
                .map(|it| format!("path: {}", it.to_yaml())),
            self.script
                .as_ref()
                .map(|it| format!("script: [{}]", it.to_yaml())),
            self.parent
                .as_ref()
                .map(|it| format!("parent: {}", it.to_yaml())),
            self.unit.as_ref().map(|it| format!("unit: \"{it}\"")),
            self.hash
                .map(|hash| format!("sha256: \"{}\"", format!("{hash:02x}").repeat(32))),
            (!none_of.is_empty()).then(|| format!("not: [{}]", none_of.join(", "))),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        format!("{{{}}}", parts.join(", "))
    }
}

impl Pattern {
    fn takes(&self, path: &str) -> bool {
        match self {
            Self::Name(name) => path.ends_with(&format!("/{name}")),
            Self::Path(own) => *own == path,
            Self::Below(directory) => path.starts_with(&format!("{directory}/")),
            Self::StartsWith(start) => path.starts_with(start),
        }
    }

    fn to_yaml(&self) -> String {
        match self {
            Self::Name(text) | Self::Path(text) => (*text).to_owned(),
            Self::Below(directory) => format!("\"{directory}/**\""),
            Self::StartsWith(start) => format!("{{regex: \"^{start}\"}}"),
        }
    }
}

impl ModelFacts {
    pub(crate) fn to_facts(&self) -> Facts {
        fn learned<T>(known: Option<T>) -> Learned<T> {
            known.map_or(Learned::Unknowable, Learned::Is)
        }
        Facts {
            path: self.path.into(),
            script: learned(self.script.map(|script| script.map(Into::into))),
            ancestors: learned(self.parents.as_ref().map(|(parents, complete)| Ancestors {
                binaries: parents.iter().map(Into::into).collect(),
                complete: *complete,
            })),
            cgroup: learned(self.unit.map(|unit| unit.map(str::to_owned))),
            sha256: learned(self.hash.map(|hash| [hash; 32])),
        }
    }

    /// All that it can be when what is not known is.
    pub(crate) fn worlds(application: Option<&Self>) -> Vec<Self> {
        let some = |facts: &Self| {
            let scripts = facts.script.map_or(SCRIPTS.to_vec(), |script| vec![script]);
            let units = facts.unit.map_or(GROUPS.to_vec(), |unit| vec![unit]);
            let hashes = facts.hash.map_or(vec![1, 2, 3], |hash| vec![hash]);
            let parents = match &facts.parents {
                Some((parents, true)) => vec![parents.clone()],
                known => {
                    let known = known
                        .as_ref()
                        .map(|(parents, _)| parents.clone())
                        .unwrap_or_default();
                    let more = PROGRAMS.map(|more| [known.as_slice(), &[more]].concat());
                    more.into_iter().chain([known.clone()]).collect()
                }
            };
            let mut worlds = Vec::new();
            for script in &scripts {
                for unit in &units {
                    for hash in &hashes {
                        worlds.extend(parents.iter().map(|parents| Self {
                            path: facts.path,
                            script: Some(*script),
                            parents: Some((parents.clone(), true)),
                            unit: Some(*unit),
                            hash: Some(*hash),
                        }));
                    }
                }
            }
            worlds
        };
        match application {
            Some(facts) => some(facts),
            None => PROGRAMS
                .iter()
                .flat_map(|path| some(&Self::nothing_but(path)))
                .collect(),
        }
    }

    fn nothing_but(path: &'static str) -> Self {
        Self {
            path,
            script: None,
            parents: None,
            unit: None,
            hash: None,
        }
    }
}

pub(crate) fn application(model: Option<&ModelFacts>) -> Application {
    model.map_or(Application::Unknown, |facts| {
        Application::Known(facts.to_facts())
    })
}

/// Tells what was asked for, and no more.
pub(crate) fn tell(so_far: Option<Application>, fact: Fact, all: &Application) -> Application {
    let Application::Known(all) = all else {
        return Application::Unknown;
    };
    let mut facts = match so_far {
        Some(Application::Known(facts)) => facts,
        Some(Application::Unknown) | None => Facts::of(all.path.clone()),
    };
    match fact {
        Fact::Path => {}
        Fact::Cgroup => facts.cgroup = all.cgroup.clone(),
        Fact::Script => facts.script = all.script.clone(),
        Fact::Ancestors => facts.ancestors = all.ancestors.clone(),
        Fact::Sha256 => facts.sha256 = all.sha256.clone(),
    }
    Application::Known(facts)
}

/// Whose flows: nobody known, alice or bob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ModelUser(Option<(&'static str, u32, &'static [Numbered])>);

type Numbered = (&'static str, u32);

pub(crate) const USERS: [ModelUser; 3] = [
    ModelUser(None),
    ModelUser(Some(("alice", 1000, &[("alice", 1000), ("staff", 50)]))),
    ModelUser(Some((
        "bob",
        1001,
        &[("bob", 1001), ("staff", 50), ("dev", 60)],
    ))),
];

impl ModelUser {
    pub(crate) fn is(self, account: &str) -> Known {
        let (name, uid, _) = self.0?;
        Some(account == name || account == uid.to_string())
    }

    pub(crate) fn is_in(self, account: &str) -> Known {
        let (_, _, groups) = self.0?;
        let mut groups = groups.iter();
        Some(groups.any(|(name, gid)| account == *name || account == gid.to_string()))
    }

    pub(crate) fn to_user(self) -> User {
        let Some((name, uid, groups)) = self.0 else {
            return User::default();
        };
        let groups = groups.iter().map(|(name, gid)| Group {
            name: AccountName::Is((*name).to_owned()),
            gid: Some(*gid),
        });
        User {
            name: AccountName::Is(name.to_owned()),
            uid: Some(uid),
            groups: Some(groups.collect()),
        }
    }
}

fn pattern() -> impl Strategy<Value = Pattern> {
    prop_oneof![
        prop::sample::select(&["a", "b", "c"]).prop_map(Pattern::Name),
        prop::sample::select(&PROGRAMS).prop_map(Pattern::Path),
        prop::sample::select(&["/opt", "/opt/x", "/usr/bin"]).prop_map(Pattern::Below),
        prop::sample::select(&["/usr", "/opt/x/"]).prop_map(Pattern::StartsWith),
    ]
}

fn maybe<T: std::fmt::Debug>(of: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    prop::option::weighted(0.4, of)
}

/// `inner`: what may stand under a `not` of its own.
fn fact_patterns(inner: impl Strategy<Value = Vec<ModelApp>>) -> impl Strategy<Value = ModelApp> {
    let units = ["a.service", "s.slice", "/u.slice/**"];
    (
        maybe(pattern()),
        maybe(pattern()),
        maybe(pattern()),
        maybe(
            prop::sample::select(units.to_vec())
                .prop_filter("a unit at the end", |it| *it != "s.slice"),
        ),
        maybe(1u8..3),
        inner,
    )
        .prop_map(|(path, script, parent, unit, hash, none_of)| {
            let is_empty = path.is_none()
                && script.is_none()
                && parent.is_none()
                && unit.is_none()
                && hash.is_none();
            ModelApp::Facts(Box::new(ModelFactPatterns {
                path,
                script: if is_empty {
                    Some(Pattern::Name("a"))
                } else {
                    script
                },
                parent,
                unit,
                hash,
                none_of,
            }))
        })
}

fn plain_app() -> impl Strategy<Value = ModelApp> {
    prop_oneof![
        1 => Just(ModelApp::Unknown),
        4 => pattern().prop_map(ModelApp::Path),
        2 => fact_patterns(Just(Vec::new())),
    ]
}

pub(crate) fn app_under_not() -> impl Strategy<Value = ModelApp> {
    plain_app()
}

pub(crate) fn app() -> impl Strategy<Value = ModelApp> {
    prop_oneof![
        5 => plain_app(),
        1 => fact_patterns(prop::collection::vec(plain_app(), 1..3)),
    ]
}

pub(crate) fn facts() -> impl Strategy<Value = ModelFacts> {
    let known = 0.7;
    (
        prop::sample::select(&PROGRAMS),
        prop::option::weighted(known, prop::sample::select(&SCRIPTS)),
        prop::option::weighted(
            known,
            (
                prop::collection::vec(prop::sample::select(&PROGRAMS), 0..3),
                any::<bool>(),
            ),
        ),
        prop::option::weighted(known, prop::sample::select(&GROUPS)),
        prop::option::weighted(known, 1u8..4),
    )
        .prop_map(|(path, script, parents, unit, hash)| ModelFacts {
            path,
            script,
            parents,
            unit,
            hash,
        })
}
