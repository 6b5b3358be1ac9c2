//! Where things are when nobody says.

use std::path::{Path, PathBuf};

use nix::unistd::{Uid, geteuid};

/// The user's control socket. Under sudo it is the calling user's: that is whose broker is meant.
pub(crate) fn control_socket() -> PathBuf {
    let own = geteuid();
    let uid = if own.is_root() {
        sudo_uid().unwrap_or(own)
    } else {
        own
    };
    let given = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let runtime = given.filter(|directory| uid == own && directory.is_absolute());
    runtime_directory(uid, runtime).join("adit/control.sock")
}

/// The user who called sudo (sudo(8), ENVIRONMENT); root behind sudo is nobody's name.
pub(crate) fn sudo_uid() -> Option<Uid> {
    let uid: u32 = std::env::var("SUDO_UID").ok()?.parse().ok()?;
    (uid != 0).then(|| Uid::from_raw(uid))
}

fn runtime_directory(uid: Uid, given: Option<PathBuf>) -> PathBuf {
    if let Some(directory) = given {
        return directory;
    }
    let usual = Path::new("/run/user").join(uid.to_string());
    if usual.is_dir() {
        usual
    } else {
        PathBuf::from(format!("/tmp/adit-{uid}"))
    }
}
