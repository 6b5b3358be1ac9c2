//! Where things are when nobody says.

use std::path::{Path, PathBuf};

use adit_broker::user::User;
use nix::unistd::{Uid, geteuid};

/// The control socket of a user's broker.
pub(crate) fn control_socket(user: Uid) -> PathBuf {
    if user.is_root() {
        return PathBuf::from("/run/adit/root/control.sock");
    }
    let given = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let own = given.filter(|directory| user == geteuid() && directory.is_absolute());
    own.unwrap_or_else(|| runtime_directory(user))
        .join("adit/control.sock")
}

/// What a user's broker keeps (XDG Base Directory Specification).
pub(crate) fn state_directory(user: &User) -> PathBuf {
    let given = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let own = given.filter(|directory| user.uid == geteuid() && directory.is_absolute());
    own.unwrap_or_else(|| user.home.join(".local/state"))
        .join("adit")
}

/// Whose broker is meant when nobody says: one's own, under sudo the calling user's.
pub(crate) fn usual_user() -> Uid {
    let own = geteuid();
    if own.is_root() {
        sudo_uid().unwrap_or(own)
    } else {
        own
    }
}

/// The user who called sudo (sudo(8), ENVIRONMENT); root behind sudo is nobody's name.
pub(crate) fn sudo_uid() -> Option<Uid> {
    let uid: u32 = std::env::var("SUDO_UID").ok()?.parse().ok()?;
    (uid != 0).then(|| Uid::from_raw(uid))
}

/// pam_systemd(8) makes it; where nobody did, a directory of our own, which is checked before it is used.
fn runtime_directory(user: Uid) -> PathBuf {
    let usual = Path::new("/run/user").join(user.to_string());
    if usual.is_dir() {
        usual
    } else {
        PathBuf::from(format!("/tmp/adit-{user}"))
    }
}
