//! Where a broker's rules come from, and reading them. What the administrator of the machine wrote always comes first.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use adit_rules::{AtPath, Author, Checked, Date, Diagnostics, Files, Layer, Policy};

use crate::user::User;

/// The administrator's rule files, in the order of their names.
pub const ADMINISTRATORS_DIRECTORY: &str = "/etc/adit/rules.d";
/// The administrator's rule file, which comes after those.
pub const ADMINISTRATORS_FILE: &str = "/etc/adit/rules.yaml";
/// The user's rule file, in the home directory.
const USERS_FILE: &str = ".config/adit/rules.yaml";

/// Where rules come from.
#[derive(Debug, Clone)]
pub struct RuleSources {
    /// What was named: a file or a directory.
    named: Option<PathBuf>,
    /// The user's own that were named.
    users: Option<PathBuf>,
    home: PathBuf,
}

/// Why it cannot be said which files there are.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// There are none.
    #[error(
        "there are no rules: write {ADMINISTRATORS_DIRECTORY}/NAME.yaml or ~/{USERS_FILE}, or name a file with --rules"
    )]
    None,
    /// One that was named, or a part of one.
    #[error("cannot read {}: {source}", path.display())]
    Look {
        /// Which one.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// What was named is no text.
    #[error("cannot read {}: {why}", path.display())]
    Text {
        /// Which one.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A directory that was named.
    #[error("{} has no rule file: their names end in .yaml", .0.display())]
    Empty(PathBuf),
}

/// Why there are no rules.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// The files are not known.
    #[error(transparent)]
    Sources(#[from] SourceError),
    /// They are wrong.
    #[error("{0}")]
    Wrong(Diagnostics),
}

/// A file that was read, and what it was like then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Which file.
    pub path: PathBuf,
    /// `None`: it could not be looked at.
    pub state: Option<FileState>,
}

/// What tells one version of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileState {
    inode: (u64, u64),
    changed: (i64, i64),
    size: u64,
}

impl FileState {
    /// Of the file as it is now.
    pub fn of(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(Self {
            inode: (found.dev(), found.ino()),
            changed: (found.ctime(), found.ctime_nsec()),
            size: found.size(),
        })
    }
}

/// What came of reading.
#[derive(Debug)]
pub struct Reading {
    /// The rules, of nobody in particular, or why there are none.
    pub outcome: Result<Checked, RulesError>,
    /// The rule files of all layers, without what they include.
    pub files: Vec<PathBuf>,
    /// All files that were read for it.
    pub seen: Vec<Seen>,
}

impl RuleSources {
    /// `named`: what to read besides the administrator's; without it the user's usual file. `users`: the user's own, after all others.
    pub fn new(named: Option<PathBuf>, users: Option<PathBuf>, user: &User) -> Self {
        Self {
            named,
            users,
            home: user.home.clone(),
        }
    }

    /// What was named.
    pub fn named(&self) -> Option<&Path> {
        self.named.as_deref()
    }

    /// Places where files may come to be that are read then.
    pub fn places(&self) -> Vec<PathBuf> {
        let mut places = vec![
            Path::new(ADMINISTRATORS_DIRECTORY).join("*"),
            PathBuf::from(ADMINISTRATORS_FILE),
        ];
        for named in self.named.iter().chain(&self.users) {
            places.push(match named.is_dir() {
                true => named.join("*"),
                false => named.clone(),
            });
        }
        if self.named.is_none() && self.users.is_none() {
            places.push(self.home.join(USERS_FILE));
        }
        places
    }

    /// The layers as they are now.
    ///
    /// # Errors
    /// When there are none, or it can't be said which.
    pub fn layers(&self) -> Result<Vec<Layer>, SourceError> {
        let mut layers = Vec::new();
        let mut add = |author, files: Vec<PathBuf>| {
            if !files.is_empty() {
                layers.push(Layer { author, files });
            }
            author
        };
        let administrators = administrators()?;
        // Who names files on the command line is the administrator of that run, unless the machine has one.
        let author = match administrators.is_empty() {
            true => Author::Administrator,
            false => Author::User,
        };
        add(Author::Administrator, administrators);
        if let Some(named) = &self.named {
            add(author, named_files(named)?);
        }
        match &self.users {
            Some(users) => add(Author::User, named_files(users)?),
            None if self.named.is_none() => add(
                Author::User,
                if_there(&self.home.join(USERS_FILE), the_file)?,
            ),
            None => Author::User,
        };
        match layers.is_empty() {
            true => Err(SourceError::None),
            false => Ok(layers),
        }
    }

    /// Reads and compiles all files. May take seconds.
    pub fn read(&self, today: Date) -> Reading {
        let layers = match self.layers() {
            Ok(layers) => layers,
            Err(error) => {
                return Reading {
                    outcome: Err(error.into()),
                    files: Vec::new(),
                    seen: Vec::new(),
                };
            }
        };
        let mut files = HostFiles::default();
        let outcome = Policy::read(&layers, today, &mut files).map_err(RulesError::Wrong);
        Reading {
            outcome,
            files: layers.into_iter().flat_map(|layer| layer.files).collect(),
            seen: files.seen,
        }
    }
}

/// A rule file of this machine's administrator, if there is one.
///
/// # Errors
/// When it can't be said.
pub fn of_the_administrator() -> Result<Option<PathBuf>, SourceError> {
    Ok(administrators()?.into_iter().next())
}

fn administrators() -> Result<Vec<PathBuf>, SourceError> {
    let mut files = if_there(ADMINISTRATORS_DIRECTORY.as_ref(), yaml_files)?;
    files.extend(if_there(ADMINISTRATORS_FILE.as_ref(), the_file)?);
    Ok(files)
}

/// A file or a directory, as if there were nothing else.
///
/// # Errors
/// When it can't be said which files that are.
pub fn alone(named: &Path) -> Result<Vec<Layer>, SourceError> {
    Ok(vec![Layer {
        author: Author::Administrator,
        files: named_files(named)?,
    }])
}

/// The files of this host, for the rules that name them.
#[derive(Debug, Default)]
pub struct HostFiles {
    /// Those that were read.
    seen: Vec<Seen>,
}

impl Files for HostFiles {
    fn read(&mut self, path: &Path, at_most: usize) -> Result<String, String> {
        self.seen.push(Seen {
            path: path.to_owned(),
            state: FileState::of(path),
        });
        text_of(path, at_most)
    }

    fn own_path(&mut self, path: &Path) -> Option<PathBuf> {
        fs::canonicalize(path).ok()
    }

    fn program(&mut self, path: &Path) -> Option<AtPath> {
        Some(at_path(path).unwrap_or(AtPath::Unseen))
    }
}

fn at_path(path: &Path) -> std::io::Result<AtPath> {
    let own = fs::canonicalize(path)?;
    if own != path {
        return Ok(AtPath::Link(own));
    }
    let found = fs::metadata(path)?;
    if found.is_dir() {
        return Ok(AtPath::Directory);
    }
    // Opening a pipe would wait for whoever writes into it.
    if !found.is_file() {
        return Ok(AtPath::Unseen);
    }
    let mut first = [0; 2];
    File::open(path)?.read_exact(&mut first)?;
    Ok(match &first {
        b"#!" => AtPath::Script,
        _ => AtPath::Binary,
    })
}

/// The text of a file that is not larger than that, or some of one that is.
///
/// # Errors
/// Why there is none, in a few words.
fn text_of(file: &Path, at_most: usize) -> Result<String, String> {
    // Opening a pipe would wait for whoever writes into it.
    if fs::metadata(file).is_ok_and(|found| !found.is_file()) {
        return Err("it is no regular file".to_owned());
    }
    let open = File::open(file).map_err(|error| error.to_string())?;
    all_text(open, at_most)
}

/// The text of what is not larger than that, or some of what is.
///
/// # Errors
/// Why there is none, in a few words.
pub fn all_text(from: impl Read, at_most: usize) -> Result<String, String> {
    // One more shows that it is too large.
    let limit = u64::try_from(at_most).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    let read = from.take(limit).read_to_end(&mut bytes);
    read.map_err(|error| error.to_string())?;
    if bytes.len() > at_most {
        // Where it was cut off need not be between two characters.
        return Ok(String::from_utf8_lossy(&bytes).into_owned());
    }
    String::from_utf8(bytes).map_err(|error| {
        let end = error.utf8_error().valid_up_to();
        let good = String::from_utf8_lossy(&error.as_bytes()[..end]);
        let line = good.matches('\n').count() + 1;
        let column = good.chars().rev().take_while(|it| *it != '\n').count() + 1;
        format!("it is not UTF-8 at line {line}, column {column}")
    })
}

fn named_files(path: &Path) -> Result<Vec<PathBuf>, SourceError> {
    if !path.is_dir() {
        return the_file(path).map_err(|source| looking(path, source));
    }
    let files = yaml_files(path).map_err(|source| looking(path, source))?;
    match files.is_empty() {
        true => Err(SourceError::Empty(path.to_owned())),
        false => Ok(files),
    }
}

/// What is not there is nothing; what can't be looked at is an error.
fn if_there(
    path: &Path,
    look: impl Fn(&Path) -> std::io::Result<Vec<PathBuf>>,
) -> Result<Vec<PathBuf>, SourceError> {
    match look(path) {
        Ok(files) => Ok(files),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(looking(path, source)),
    }
}

fn looking(path: &Path, source: std::io::Error) -> SourceError {
    SourceError::Look {
        path: path.to_owned(),
        source,
    }
}

fn the_file(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    fs::metadata(path).map(|_| vec![path.to_owned()])
}

/// The rule files of a directory, in the order of their names' bytes.
fn yaml_files(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if is_rule_file(&path) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Whether it is one by its name: editors leave files of other names beside those they write.
pub fn is_rule_file(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name.ends_with(b".yaml") && !name.starts_with(b".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_read_in_the_order_of_its_names() {
        let top = tempfile::tempdir().unwrap();
        for name in [
            "b.yaml",
            "a.yaml",
            ".a.yaml.swp",
            ".hidden.yaml",
            "c.yaml~",
            "10.yaml",
        ] {
            fs::write(top.path().join(name), "").unwrap();
        }
        let files = named_files(top.path()).unwrap();
        let names: Vec<_> = files.iter().filter_map(|file| file.file_name()).collect();
        assert_eq!(names, ["10.yaml", "a.yaml", "b.yaml"]);
    }

    #[test]
    fn links_and_scripts_are_told_from_binaries() {
        let top = fs::canonicalize(std::env::temp_dir()).unwrap();
        let top = tempfile::tempdir_in(top).unwrap();
        let at = |name: &str| top.path().join(name);
        fs::write(at("binary"), "\x7fELF").unwrap();
        fs::write(at("script"), "#!/bin/sh\n").unwrap();
        fs::create_dir(at("directory")).unwrap();
        std::os::unix::fs::symlink("binary", at("link")).unwrap();
        std::os::unix::fs::symlink("directory/..", at("around")).unwrap();
        let there = |name: &str| HostFiles::default().program(&at(name)).unwrap();
        assert_eq!(there("binary"), AtPath::Binary);
        assert_eq!(there("script"), AtPath::Script);
        assert_eq!(there("link"), AtPath::Link(at("binary")));
        assert_eq!(there("around/script"), AtPath::Link(at("script")));
        assert_eq!(there("directory"), AtPath::Directory);
        assert_eq!(there("missing"), AtPath::Unseen);
    }

    #[test]
    fn what_is_no_text_is_told_with_its_place() {
        let text = |bytes: &[u8]| all_text(bytes, 16);
        assert_eq!(text(b"a: \xc3\xa4\n"), Ok("a: ä\n".to_owned()));
        let wrong = text(b"one\ntwo\nt\xc3\xa4\xff\n").unwrap_err();
        assert_eq!(wrong, "it is not UTF-8 at line 3, column 3");
        let first = text(b"\xff").unwrap_err();
        assert_eq!(first, "it is not UTF-8 at line 1, column 1");
        // Too large is all that is said of what is too large.
        let large = text("ää".repeat(8).as_bytes()).unwrap();
        assert!(large.len() > 16);
    }

    #[test]
    fn a_file_is_read_once_however_its_path_is_written() {
        let top = tempfile::tempdir().unwrap();
        let main = top.path().join("main.yaml");
        let name = top.path().file_name().unwrap().to_string_lossy();
        std::os::unix::fs::symlink("main.yaml", top.path().join("link.yaml")).unwrap();
        let today = Date::new(2026, 11, 26).unwrap();
        for other in [&format!("../{name}/main.yaml"), "link.yaml", "./main.yaml"] {
            fs::write(
                &main,
                format!("version: 1\ninclude: {other}\ndefault: pass\n"),
            )
            .unwrap();
            let layers = alone(&main).unwrap();
            let errors = Policy::read(&layers, today, &mut HostFiles::default()).unwrap_err();
            let messages: Vec<&str> = errors.iter().map(|error| error.message()).collect();
            let [message] = messages.as_slice() else {
                panic!("{other}: {messages:?}");
            };
            assert!(message.ends_with(" is read already"), "{message}");
        }
    }

    #[test]
    fn what_was_named_has_to_be_there() {
        let top = tempfile::tempdir().unwrap();
        let missing = top.path().join("rules.yaml");
        assert!(matches!(
            named_files(&missing),
            Err(SourceError::Look { .. })
        ));
        assert!(matches!(
            named_files(top.path()),
            Err(SourceError::Empty(_))
        ));
    }
}
