//! Where a control socket may be: in a directory that nobody but its user (and root) can change.

use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::Uid;

/// S_ISVTX: in a sticky directory everyone may make entries, and only their owner may remove them (chmod(1)).
const STICKY: u32 = 0o1000;
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Why a place is not to be trusted.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// It is not there, or can't be made or looked at.
    #[error("{}: {source}", directory.display())]
    Directory {
        /// Which one.
        directory: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// Another user could put something else there.
    #[error("{} belongs to another user, or others may write to it", .0.display())]
    Open(PathBuf),
}

/// Makes the directory of `socket` for its user alone, then checks it.
pub(crate) fn prepare(socket: &Path) -> Result<(), PlaceError> {
    let directory = directory_of(socket);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| failed(directory, source))?;
    check(socket, nix::unistd::geteuid())
}

/// Checks that `user` and root alone say what is in the directory of `socket`, and in all above it.
pub fn check(socket: &Path, user: Uid) -> Result<(), PlaceError> {
    let directory = directory_of(socket);
    let real = std::fs::canonicalize(directory).map_err(|source| failed(directory, source))?;
    for ancestor in real.ancestors() {
        let found = std::fs::metadata(ancestor).map_err(|source| failed(ancestor, source))?;
        let owned = [0, user.as_raw()].contains(&found.uid());
        let shut = found.mode() & WRITABLE_BY_OTHERS == 0 || found.mode() & STICKY != 0;
        if !owned || !shut {
            return Err(PlaceError::Open(ancestor.to_owned()));
        }
    }
    Ok(())
}

fn directory_of(socket: &Path) -> &Path {
    match socket.parent() {
        Some(parent) if parent != Path::new("") => parent,
        Some(_) | None => Path::new("."),
    }
}

fn failed(directory: &Path, source: std::io::Error) -> PlaceError {
    PlaceError::Directory {
        directory: directory.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn others_must_not_be_able_to_change_it() {
        let top = tempfile::tempdir().unwrap();
        let socket = top.path().join("inner/control.sock");
        let user = nix::unistd::geteuid();
        assert!(matches!(
            check(&socket, user),
            Err(PlaceError::Directory { .. })
        ));
        prepare(&socket).unwrap();
        let made = std::fs::metadata(top.path().join("inner")).unwrap();
        assert_eq!(made.mode() & 0o777, 0o700);
        for (mode, good) in [
            (0o777, false),
            (0o770, false),
            (0o1777, true),
            (0o755, true),
        ] {
            chmod(top.path(), mode);
            assert_eq!(check(&socket, user).is_ok(), good, "{mode:o}");
        }
    }

    #[test]
    fn another_users_directory_is_not_ours() {
        let top = tempfile::tempdir().unwrap();
        let socket = top.path().join("control.sock");
        std::os::unix::fs::chown(top.path(), Some(61_999), None).unwrap();
        assert!(check(&socket, Uid::from_raw(61_999)).is_ok());
        assert!(matches!(
            check(&socket, Uid::from_raw(61_998)),
            Err(PlaceError::Open(_))
        ));
        let link = tempfile::tempdir().unwrap();
        let through = link.path().join("through");
        std::os::unix::fs::symlink(top.path(), &through).unwrap();
        let found = check(&through.join("control.sock"), Uid::from_raw(61_998));
        assert!(
            matches!(found, Err(PlaceError::Open(_))),
            "a link does not hide it"
        );
    }
}
