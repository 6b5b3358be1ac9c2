//! The SHA-256 of binaries.

use std::collections::HashMap;
use std::io::Read as _;

use sha2::{Digest as _, Sha256};

use super::process::File;
use super::{Process, Unknowable};

/// Larger binaries are not hashed.
const MOST: u64 = 1 << 30;
/// How many are remembered.
const REMEMBERED: usize = 1024;
const CHUNK: usize = 256 << 10;

/// The SHA-256 of binaries, each computed once as long as its file does not change.
#[derive(Debug, Default)]
pub struct Hashes {
    known: HashMap<Version, [u8; 32]>,
}

/// A file as it is now: what is written to it changes one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Version {
    file: File,
    size: u64,
}

impl Hashes {
    /// Of the binary that a process runs, when it was computed before: some microseconds. `None` says nothing.
    pub fn at_hand(&self, process: &Process) -> Option<[u8; 32]> {
        let stat = process.handle.stat("exe")?;
        let version = Version {
            file: stat.into(),
            size: u64::try_from(stat.st_size).ok()?,
        };
        let hash = self.known.get(&version)?;
        (version.file == process.runs).then_some(*hash)
    }

    /// Of the binary that a process runs; blocking, for as long as it takes to read it.
    ///
    /// # Errors
    /// When it may not be read, is too large, or the process is gone or runs something else by now.
    pub fn of(&mut self, process: &Process) -> Result<[u8; 32], Unknowable> {
        if let Some(hash) = self.at_hand(process) {
            return Ok(hash);
        }
        let (version, hash) = read(process).ok_or(Unknowable)?;
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        self.known.insert(version, hash);
        Ok(hash)
    }
}

fn read(process: &Process) -> Option<(Version, [u8; 32])> {
    let mut file = process.handle.open_file("exe")?;
    let version = |file: &std::fs::File| {
        let found = file.metadata().ok()?;
        let version = Version {
            file: File::from(&found),
            size: found.len(),
        };
        Some(version)
    };
    let before = version(&file)?;
    if before.file != process.runs || before.size > MOST {
        return None;
    }
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    let mut left = before.size;
    loop {
        match file.read(&mut chunk).ok()? {
            0 => break,
            length => {
                hasher.update(chunk.get(..length)?);
                left = left.checked_sub(u64::try_from(length).ok()?)?;
            }
        }
    }
    // Written to meanwhile, it is neither what it was nor what it became.
    let unchanged = left == 0 && version(&file)? == before && process.is_unchanged();
    unchanged.then(|| (before, hasher.finalize().into()))
}
