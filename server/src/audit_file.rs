//! The audit as lines of JSON in a file of its own.
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A file that is appended to, and what it has not taken yet.
#[derive(Debug)]
pub(crate) struct AuditFile {
    path: PathBuf,
    /// Missing after it could not be opened anew.
    file: Option<File>,
    waiting: Vec<u8>,
    lines: usize,
}

impl AuditFile {
    /// Opens it, or makes it for its user and group alone.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: Some(append(path)?),
            waiting: Vec::new(),
            lines: 0,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// To be written with the next [`AuditFile::write`]. How much can wait is for the caller to bound.
    pub(crate) fn put(&mut self, line: &[u8]) {
        self.waiting.extend_from_slice(line);
        self.lines += 1;
    }

    /// What waited goes into the old file, wherever that was moved to.
    pub(crate) fn reopen(&mut self) {
        let _ = self.flush();
        self.file = None;
    }

    /// Writes what waits: how many lines that were. What could not be written still waits.
    pub(crate) fn write(&mut self) -> io::Result<usize> {
        self.flush()?;
        // So that a new file is there at once, for whoever follows it.
        self.opened()?;
        Ok(std::mem::take(&mut self.lines))
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.waiting.is_empty() {
            let waiting = std::mem::take(&mut self.waiting);
            let written = self.opened().and_then(|mut file| file.write(&waiting));
            self.waiting = waiting;
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => drop(self.waiting.drain(..bytes)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn opened(&mut self) -> io::Result<&File> {
        if self.file.is_none() {
            self.file = Some(append(&self.path)?);
        }
        self.file
            .as_ref()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .append(true)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NOCTTY);
    match options.clone().create_new(true).mode(0o600).open(path) {
        Ok(file) => {
            // Whatever the umask: those who read it are in the group. One that is there is left as it is.
            file.set_permissions(Permissions::from_mode(0o640))?;
            Ok(file)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.open(path),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_moved_away_is_made_anew_and_nothing_is_lost() {
        let directory = tempfile::tempdir().expect("directory");
        let (path, old) = (
            directory.path().join("audit"),
            directory.path().join("audit.1"),
        );
        let mut file = AuditFile::open(&path).expect("file");
        file.put(b"one\n");
        assert_eq!(file.write().expect("written"), 1);
        std::fs::rename(&path, &old).expect("rename");
        file.put(b"two\n");
        file.reopen();
        assert_eq!(file.write().expect("written"), 1);
        file.put(b"three\n");
        file.put(b"four\n");
        assert_eq!(file.write().expect("written"), 2);
        assert_eq!(std::fs::read(&old).expect("read"), b"one\ntwo\n");
        assert_eq!(std::fs::read(&path).expect("read"), b"three\nfour\n");
    }

    #[test]
    fn what_cannot_be_written_waits() {
        // full(4).
        let mut file = AuditFile::open(Path::new("/dev/full")).expect("file");
        file.put(b"one\n");
        assert!(file.write().is_err() && file.write().is_err() && file.has_waiting());
        file.path = "/dev/null".into();
        file.file = None;
        assert_eq!(file.write().expect("written"), 1);
    }
}
