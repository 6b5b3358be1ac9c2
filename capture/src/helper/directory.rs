//! The directories that files of ours are in. Root makes and removes files there by name, so no one else may change what a
//! name there leads to.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;

/// Mode bits (inode(7)): group or others may write; only owners remove what is theirs.
const WRITABLE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// A directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DirectoryError {
    #[error("cannot use the directory {}: {source}", path.display())]
    Use { path: PathBuf, source: io::Error },
    #[error(
        "others than root can change what is in {}; root's files have no place there",
        .0.display()
    )]
    Changeable(PathBuf),
}

/// Makes a directory that everyone can look into, with those above it; what is there stays as it is. Refuses one that others
/// than root can change, when it is root who asks.
pub(crate) fn make(path: &Path) -> Result<(), DirectoryError> {
    let failed = |source| DirectoryError::Use {
        path: path.to_owned(),
        source,
    };
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o755);
    with_umask(0o022, || builder.create(path)).map_err(failed)?;
    if !geteuid().is_root() {
        return Ok(());
    }
    let real = fs::canonicalize(path).map_err(failed)?;
    for (above, directory) in real.ancestors().enumerate() {
        let found = fs::symlink_metadata(directory).map_err(failed)?;
        if !is_roots(&found, above > 0) {
            return Err(DirectoryError::Changeable(directory.to_owned()));
        }
    }
    Ok(())
}

/// Does something while new files get another mode. For as long as the process has one thread.
pub(crate) fn with_umask<T>(mask: u32, act: impl FnOnce() -> T) -> T {
    let before = umask(Mode::from_bits_truncate(mask));
    let result = act();
    umask(before);
    result
}

/// Above a directory of root's, a sticky one will do: what is root's there, nobody else can rename or remove.
fn is_roots(found: &Metadata, above: bool) -> bool {
    let sticky = above && found.mode() & STICKY != 0;
    found.uid() == 0 && (found.mode() & WRITABLE == 0 || sticky)
}
