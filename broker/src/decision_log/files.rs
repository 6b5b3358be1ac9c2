//! The numbered files of the log: where the next line goes, which go when there are too many, and reading them back.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{FILE_BYTES, FILES, LINE_BYTES, Record};
use crate::control::place::{self, PlaceError};

const EXTENSION: &str = "jsonl";

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) files: usize,
    pub(super) bytes: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            files: FILES,
            bytes: FILE_BYTES,
        }
    }
}

/// Why the log can't be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is no file of this user's own", .0.display())]
    Strange(PathBuf),
}

/// The file that is written to now.
#[derive(Debug)]
pub(super) struct Current {
    directory: PathBuf,
    bounds: Bounds,
    number: u64,
    file: File,
    bytes: u64,
}

impl Current {
    /// Goes on where the last one ended, in a directory that nobody else can change.
    pub(super) fn open(directory: &Path, bounds: Bounds) -> Result<Self, FileError> {
        place::prepare(&directory.join("file"))?;
        let number = numbers(directory).last().copied().unwrap_or(1);
        let (file, bytes) = open(directory, number)?;
        let mut current = Self {
            directory: directory.to_owned(),
            bounds,
            number,
            file,
            bytes,
        };
        current.end_torn_line()?;
        Ok(current)
    }

    /// Writes whole lines, each with its end.
    pub(super) fn write<'a>(
        &mut self,
        lines: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), FileError> {
        let mut together = Vec::new();
        for line in lines {
            let more = (together.len() + line.len()) as u64;
            if self.bytes + more > self.bounds.bytes {
                self.append(&together)?;
                together.clear();
                self.begin_next()?;
            }
            together.extend_from_slice(line);
        }
        self.append(&together)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        let written = self.file.write_all(bytes);
        written.map_err(|source| failed(path(&self.directory, self.number), source))?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn begin_next(&mut self) -> Result<(), FileError> {
        // What stands there as the next is of a clock or a hand that we don't know: it is appended to like any other.
        self.number += 1;
        (self.file, self.bytes) = open(&self.directory, self.number)?;
        let numbers = numbers(&self.directory);
        let too_many = numbers.len().saturating_sub(self.bounds.files);
        for number in &numbers[..too_many] {
            let oldest = path(&self.directory, *number);
            std::fs::remove_file(&oldest).map_err(|source| failed(oldest, source))?;
        }
        Ok(())
    }

    /// A broker that was killed may have left half a line: what follows is not to be part of it.
    fn end_torn_line(&mut self) -> Result<(), FileError> {
        if self.bytes == 0 {
            return Ok(());
        }
        let mut last = [0];
        let read = self.file.seek(SeekFrom::End(-1));
        let read = read.and_then(|_| self.file.read_exact(&mut last));
        read.map_err(|source| failed(path(&self.directory, self.number), source))?;
        if last == *b"\n" {
            return Ok(());
        }
        self.append(b"\n")
    }
}

fn open(directory: &Path, number: u64) -> Result<(File, u64), FileError> {
    let path = path(directory, number);
    let opened = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(&path);
    let file = opened.map_err(|source| failed(path.clone(), source))?;
    let found = file.metadata();
    let found = found.map_err(|source| failed(path.clone(), source))?;
    if !found.is_file() || found.uid() != nix::unistd::geteuid().as_raw() {
        return Err(FileError::Strange(path));
    }
    Ok((file, found.len()))
}

/// What was read of a log.
#[derive(Debug, Default)]
pub struct Decisions {
    /// The oldest first.
    pub records: Vec<Record>,
    /// Lines that say nothing: torn, or of another version.
    pub unreadable: usize,
}

/// Reads all files of a log.
///
/// # Errors
/// When one is there and can't be read, or the directory can't.
pub fn read(directory: &Path) -> io::Result<Decisions> {
    std::fs::read_dir(directory)?;
    let mut decisions = Decisions::default();
    for number in numbers(directory) {
        let mut text = Vec::new();
        match File::open(path(directory, number)) {
            // A file may be longer than what is written to it by the last line alone.
            Ok(file) => file
                .take(FILE_BYTES + LINE_BYTES as u64)
                .read_to_end(&mut text)?,
            // The broker goes on: the oldest may just have gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for line in text
            .split(|byte| *byte == b'\n')
            .filter(|it| !it.is_empty())
        {
            match serde_json::from_slice(line) {
                Ok(record) => decisions.records.push(record),
                Err(_) => decisions.unreadable += 1,
            }
        }
    }
    Ok(decisions)
}

/// Of the files that are there, ascending.
fn numbers(directory: &Path) -> Vec<u64> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    let mut numbers: Vec<u64> = entries
        .filter_map(|entry| {
            let name = PathBuf::from(entry.ok()?.file_name());
            let is_ours = name.extension().is_some_and(|it| it == EXTENSION);
            let number = name.file_stem()?.to_str()?;
            let is_plain = number.bytes().all(|byte| byte.is_ascii_digit());
            (is_ours && is_plain).then(|| number.parse().ok())?
        })
        .collect();
    numbers.sort_unstable();
    numbers
}

fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:010}.{EXTENSION}"))
}

fn failed(path: PathBuf, source: io::Error) -> FileError {
    FileError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const SMALL: Bounds = Bounds {
        files: 3,
        bytes: 100,
    };

    fn sizes(directory: &Path) -> Vec<u64> {
        let size = |number: &u64| std::fs::metadata(path(directory, *number)).unwrap().len();
        numbers(directory).iter().map(size).collect()
    }

    #[test]
    fn it_never_takes_more_than_its_bounds() {
        let directory = tempfile::tempdir().unwrap();
        let mut current = Current::open(directory.path(), SMALL).unwrap();
        let line = [b"0123456789012345678".as_slice(), b"\n"].concat();
        for _ in 0..10 {
            let lines = std::iter::repeat_n(line.as_slice(), 7);
            current.write(lines).unwrap();
            let sizes = sizes(directory.path());
            assert!(
                sizes.len() <= 3 && sizes.iter().all(|size| *size <= 100),
                "{sizes:?}"
            );
        }
        assert_eq!(
            numbers(directory.path()),
            [12, 13, 14],
            "70 lines, 5 a file"
        );
        let mode = std::fs::metadata(path(directory.path(), 12))
            .unwrap()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        // Opened again, it goes on.
        let mut current = Current::open(directory.path(), SMALL).unwrap();
        current.write([b"x\n".as_slice()].into_iter()).unwrap();
        assert_eq!(numbers(directory.path()), [13, 14, 15]);
    }

    #[test]
    fn a_torn_line_spoils_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let first = path(directory.path(), 1);
        let line = r#"{"time":"2026-11-25T12:00:00Z","flow":1,"address":"192.0.2.1","name":null,"port":80,"application":"unknown","user":"eve","uid":1000,"rule":"r","action":"pass","zone":null,"state":"direct","stage":null}"#;
        std::fs::write(&first, format!("{line}\n{}", &line[..50])).unwrap();
        let mut current = Current::open(directory.path(), Bounds::default()).unwrap();
        let next = format!("{line}\n");
        current.write([next.as_bytes()].into_iter()).unwrap();
        let decisions = read(directory.path()).unwrap();
        assert_eq!((decisions.records.len(), decisions.unreadable), (2, 1));
    }

    #[test]
    fn links_and_directories_of_others_are_not_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let elsewhere = directory.path().join("elsewhere");
        std::fs::write(&elsewhere, "kept").unwrap();
        symlink(&elsewhere, path(directory.path(), 1)).unwrap();
        let refused = Current::open(directory.path(), SMALL).unwrap_err();
        assert!(matches!(refused, FileError::Io { .. }), "{refused}");
        assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "kept");
        let open = directory.path().join("open");
        std::fs::create_dir(&open).unwrap();
        let everyones = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(&open, everyones).unwrap();
        let refused = Current::open(&open, SMALL).unwrap_err();
        assert!(matches!(refused, FileError::Place(_)), "{refused}");
    }
}
