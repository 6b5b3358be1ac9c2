//! The script that an interpreter runs.
//!
//! Nobody but the interpreter knows which file it reads. Its command line says so (`/proc/PID/cmdline`), which is its own
//! claim: a program may write there what it likes. What can be held against it is: that the command line still begins with a
//! name of the binary, that the file is there, and that it is the same file for the process as for us.

use std::ffi::OsStr;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::fs::FileType;

use super::interpreter::{self, Interpreter, Runs};
use super::process::{Binary, Handle, file_at};
use super::{Unknowable, shebang};

/// Longer command lines are not read.
const MOST: usize = 128 << 10;
/// Nor are environments.
const MOST_ENVIRONMENT: usize = 2 << 20;
/// A script that the kernel found stands among these words, behind its interpreter's options.
const WORDS: usize = 16;

/// The script that a process runs, with all links on the way resolved. `None`: it runs none.
pub(super) fn of(process: &Handle, binary: &Binary) -> Result<Option<PathBuf>, Unknowable> {
    let line = process.read("cmdline", MOST).ok_or(Unknowable)?;
    let line = line.strip_suffix(b"\0").unwrap_or(&line);
    let mut words = line.split(|byte| *byte == 0);
    let name = words.next().unwrap_or_default();
    let words: Vec<&[u8]> = words.collect();
    let claim = Claim {
        process,
        binary,
        name,
    };
    let file_name = binary.path.file_name().unwrap_or_default();
    match interpreter::called(file_name.as_bytes()) {
        Some(known) => claim.of_known(known, &words),
        None => claim.of_any(&words),
    }
}

/// What a process says of itself.
struct Claim<'a> {
    process: &'a Handle,
    binary: &'a Binary,
    /// Its own name, as it was called.
    name: &'a [u8],
}

impl Claim<'_> {
    fn of_known(
        &self,
        interpreter: &Interpreter,
        words: &[&[u8]],
    ) -> Result<Option<PathBuf>, Unknowable> {
        // A title that it gave itself, or that its parent made up.
        if !self.is_named_after_binary() {
            return Err(Unknowable);
        }
        match interpreter.runs(words) {
            Runs::File(file) => self.found(file).map(Some),
            Runs::Words => Ok(None),
            Runs::Input if self.reads_a_file() => Err(Unknowable),
            Runs::Input => Ok(None),
            Runs::Unclear => Err(Unknowable),
        }
    }

    /// Of a binary that we don't know as an interpreter: a script is what has a first line that makes this command line.
    fn of_any(&self, words: &[&[u8]]) -> Result<Option<PathBuf>, Unknowable> {
        for (place, word) in words.iter().take(WORDS).enumerate() {
            if word.is_empty() || word.starts_with(b"-") {
                continue;
            }
            let Ok(path) = self.found(word) else {
                continue;
            };
            let head = head(&path).unwrap_or_default();
            if !shebang::is_script(&head) {
                continue;
            }
            // A script of another interpreter: this may be a further one that takes it, or an editor.
            let is_ours = self.is_made_by(&head, &words[..place]);
            return is_ours.then_some(Some(path)).ok_or(Unknowable);
        }
        Ok(None)
    }

    /// Whether a script with this first line is run by this binary, and with these words before it.
    fn is_made_by(&self, head: &[u8], before: &[&[u8]]) -> bool {
        let Some(shebang) = shebang::parse(head) else {
            return false;
        };
        let is_binary = match shebang.path {
            Some(path) => file_at(path).is_some_and(|file| file.is_same_as(self.binary.file)),
            None => self.is_named_after_binary(),
        };
        let line = [&[self.name], before].concat();
        is_binary && line == shebang.words
    }

    /// Whether what it calls itself leads to its binary: by its own name, a link beside it, or a path.
    fn is_named_after_binary(&self) -> bool {
        let name = self.name.strip_prefix(b"-").unwrap_or(self.name);
        let called = Path::new(OsStr::from_bytes(name));
        let Some(last) = called.file_name() else {
            return false;
        };
        let is_binary =
            |path: &Path| file_at(path).is_some_and(|file| file.is_same_as(self.binary.file));
        Some(last) == self.binary.path.file_name()
            || is_binary(&self.binary.path.with_file_name(last))
            || (called.is_absolute() && is_binary(called))
            || (name.contains(&b'/')
                && self
                    .process
                    .link("cwd")
                    .is_some_and(|cwd| is_binary(&cwd.join(called))))
    }

    /// The file that a word of the command line means, when that is certain.
    fn found(&self, word: &[u8]) -> Result<PathBuf, Unknowable> {
        let path = Path::new(OsStr::from_bytes(word));
        // These are others for us than for the process.
        if path.starts_with("/dev") || path.starts_with("/proc") || !self.process.sees_our_files() {
            return Err(Unknowable);
        }
        let path = match path.is_absolute() {
            true => path.to_owned(),
            false => self.started_in().ok_or(Unknowable)?.join(path),
        };
        let found = fs::canonicalize(path).map_err(|_| Unknowable)?;
        let is_file = fs::metadata(&found).is_ok_and(|found| found.is_file());
        is_file.then_some(found).ok_or(Unknowable)
    }

    /// The directory that it was started in, to which its command line is relative. It may have gone to another since; so
    /// the one that it was told to be in (`PWD`, as shells set it) has to be the one that it is in.
    fn started_in(&self) -> Option<PathBuf> {
        let now = self.process.link("cwd")?;
        let environment = self.process.read("environ", MOST_ENVIRONMENT)?;
        let mut settings = environment.split(|byte| *byte == 0);
        let told = settings.find_map(|setting| setting.strip_prefix(b"PWD="))?;
        let told = file_at(Path::new(OsStr::from_bytes(told)))?;
        told.is_same_as(self.process.file("cwd")?).then_some(now)
    }

    /// A terminal, a pipe or a socket has no path that could be a script's.
    fn reads_a_file(&self) -> bool {
        let stat = self.process.stat("fd/0");
        stat.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
    }
}

fn head(path: &Path) -> io::Result<Vec<u8>> {
    let file = fs::File::open(path)?;
    let mut head = Vec::with_capacity(shebang::MOST);
    file.take(shebang::MOST as u64).read_to_end(&mut head)?;
    Ok(head)
}
