//! Reads a file that decides who gets in: nobody but root and the server's own user may be able to
//! change it, or to put another in its place.
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::bounded_file;

/// inode(7): entries of such a directory are removed and renamed by their owners alone.
const STICKY: u32 = 0o1000;

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum Untrusted {
    /// It cannot be read.
    #[error("{}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others could have changed it.
    #[error("{}: {what}: chown root, chmod go-w", path.display())]
    Writable {
        /// The file or a directory above it.
        path: PathBuf,
        /// Who could.
        what: &'static str,
    },
    /// It has secrets.
    #[error("{}: everyone can read it: chmod o-rwx", .0.display())]
    Readable(PathBuf),
}

/// Tells whether a file is still the one that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Follows symbolic links.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        path.metadata().map(|metadata| Self::new(&metadata))
    }

    fn new(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Seconds since 1970 of the last change of any kind.
    pub(crate) fn changed(&self) -> i64 {
        self.changed.0
    }
}

/// The whole file, at most `limit` bytes.
///
/// # Errors
/// It cannot be read, or others could have changed it.
pub(crate) fn read(path: &Path, limit: usize) -> Result<(Vec<u8>, Stamp), Untrusted> {
    read_if(path, limit, |metadata| only_ours(path, metadata))
}

/// The same of a file with secrets, which not everyone may be able to read.
pub(crate) fn read_secret(path: &Path, limit: usize) -> Result<Zeroizing<Vec<u8>>, Untrusted> {
    let secret = |metadata: &Metadata| match metadata.mode() & 0o007 {
        0 => only_ours(path, metadata),
        _ => Err(Untrusted::Readable(path.to_owned())),
    };
    read_if(path, limit, secret).map(|(content, _)| Zeroizing::new(content))
}

fn read_if(
    path: &Path,
    limit: usize,
    is_usable: impl FnOnce(&Metadata) -> Result<(), Untrusted>,
) -> Result<(Vec<u8>, Stamp), Untrusted> {
    let failed = |source| Untrusted::Read {
        file: path.to_owned(),
        source,
    };
    let file = bounded_file::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    is_usable(&metadata)?;
    // Both the way that is written and, where there are symbolic links on it, the one that it means.
    let meant = path.canonicalize().map_err(failed)?;
    for way in [path, meant.as_path()] {
        way_is_ours(path, way.ancestors().skip(1))?;
    }
    let content = bounded_file::read_opened(file, limit).map_err(failed)?;
    Ok((content, Stamp::new(&metadata)))
}

/// Could files in it be believed?
///
/// # Errors
/// It is none, we may not search it, or others could put files there.
pub(crate) fn check_directory(path: &Path) -> Result<(), Untrusted> {
    let failed = |source| Untrusted::Read {
        file: path.to_owned(),
        source,
    };
    // Itself as it is found from within, which takes leave to search it.
    path.join(".").metadata().map_err(failed)?;
    let meant = path.canonicalize().map_err(failed)?;
    for way in [path, meant.as_path()] {
        way_is_ours(path, way.ancestors())?;
    }
    Ok(())
}

/// May nobody else change one of these directories, from that of the file upwards?
fn way_is_ours<'a>(
    file: &Path,
    directories: impl Iterator<Item = &'a Path>,
) -> Result<(), Untrusted> {
    for (distance, directory) in directories.enumerate() {
        let metadata = directory.metadata().map_err(|source| Untrusted::Read {
            file: file.to_owned(),
            source,
        })?;
        // In such a directory nobody can put something else in the place of what is ours; but
        // the file's own has to keep others from making one.
        let sticky = metadata.mode() & STICKY != 0 && metadata.uid() == 0;
        if distance == 0 || !sticky {
            only_ours(directory, &metadata)?;
        }
    }
    Ok(())
}

/// Only root and the server's own user may be able to change it.
fn only_ours(path: &Path, metadata: &Metadata) -> Result<(), Untrusted> {
    let problem = if metadata.mode() & 0o022 != 0 {
        "its group or everyone can write to it"
    } else if metadata.uid() != 0 && metadata.uid() != nix::unistd::geteuid().as_raw() {
        "it belongs to another user"
    } else {
        return Ok(());
    };
    Err(Untrusted::Writable {
        path: path.to_owned(),
        what: problem,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_that_others_can_write_is_not_used() {
        let directory = tempfile::tempdir().expect("directory");
        let file = directory.path().join("alice");
        fs::write(&file, "content").expect("write");
        for (mode, directory_mode, used) in [
            (0o644, 0o755, true),
            (0o600, 0o700, true),
            (0o664, 0o755, false),
            (0o646, 0o755, false),
            (0o644, 0o777, false),
        ] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("chmod");
            fs::set_permissions(directory.path(), fs::Permissions::from_mode(directory_mode))
                .expect("chmod");
            let read = read(&file, 100);
            assert_eq!(
                read.is_ok(),
                used,
                "{mode:o} in {directory_mode:o}: {read:?}"
            );
        }
    }

    #[test]
    fn nobody_else_may_be_able_to_change_a_directory_on_the_way() {
        let top = tempfile::tempdir().expect("directory");
        let (real, seen) = (top.path().join("real"), top.path().join("seen"));
        fs::create_dir_all(real.join("keys")).expect("directory");
        fs::create_dir(&seen).expect("directory");
        fs::write(real.join("keys/alice"), "content").expect("write");
        std::os::unix::fs::symlink(real.join("keys"), seen.join("keys")).expect("link");
        let chmod = |directory: &Path, mode| {
            fs::set_permissions(directory, fs::Permissions::from_mode(mode)).expect("chmod");
        };
        for (real_mode, seen_mode, by_real, by_link) in [
            (0o755, 0o755, true, true),
            (0o775, 0o755, false, false),
            (0o755, 0o757, true, false),
        ] {
            chmod(&real, real_mode);
            chmod(&seen, seen_mode);
            for (directory, used) in [(&real, by_real), (&seen, by_link)] {
                assert_eq!(
                    read(&directory.join("keys/alice"), 100).is_ok(),
                    used,
                    "{} with {real_mode:o} and {seen_mode:o}",
                    directory.display()
                );
            }
        }
    }

    #[test]
    fn a_directory_is_believed_as_the_files_in_it_are() {
        let top = tempfile::tempdir().expect("directory");
        let keys = top.path().join("keys");
        assert!(matches!(
            check_directory(&keys),
            Err(Untrusted::Read { .. })
        ));
        fs::create_dir(&keys).expect("directory");
        for (mode, top_mode, used) in [
            (0o755, 0o755, true),
            (0o700, 0o755, true),
            (0o775, 0o755, false),
            (0o1777, 0o755, false),
            (0o755, 0o757, false),
        ] {
            fs::set_permissions(&keys, fs::Permissions::from_mode(mode)).expect("chmod");
            fs::set_permissions(top.path(), fs::Permissions::from_mode(top_mode)).expect("chmod");
            let checked = check_directory(&keys);
            assert_eq!(
                checked.is_ok(),
                used,
                "{mode:o} in {top_mode:o}: {checked:?}"
            );
        }
        let file = top.path().join("file");
        fs::write(&file, "").expect("write");
        assert!(check_directory(&file).is_err(), "no directory");
    }

    #[test]
    fn a_file_of_secrets_is_not_for_everyone_to_read() {
        let directory = tempfile::tempdir().expect("directory");
        let file = directory.path().join("secrets");
        fs::write(&file, "content").expect("write");
        for (mode, used) in [(0o600, true), (0o640, true), (0o644, false), (0o660, false)] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("chmod");
            let read = read_secret(&file, 100);
            assert_eq!(read.is_ok(), used, "{mode:o}: {read:?}");
        }
    }

    #[test]
    fn a_file_that_is_too_long_is_not_used() {
        let directory = tempfile::tempdir().expect("directory");
        let file = directory.path().join("long");
        fs::write(&file, [0; 101]).expect("write");
        assert!(read(&file, 100).is_err());
    }
}
