//! From root to the user, for good.

use std::ffi::CString;

use adit_broker::user::User;
use nix::unistd::{getresgid, getresuid, initgroups, setgroups, setresgid, setresuid, setuid};

/// Why privileges could not be dropped. Nothing goes on after it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DropError {
    #[error("cannot take over the groups of {user}: {source}")]
    Groups { user: String, source: nix::Error },
    #[error("cannot become the group of {user}: {source}")]
    Group { user: String, source: nix::Error },
    #[error("cannot become {user}: {source}")]
    User { user: String, source: nix::Error },
    #[error("root did not go away")]
    RootStayed,
}

/// Becomes `user`: groups, then gid, then uid, then the proof that root does not come back.
pub(crate) fn become_user(user: &User) -> Result<(), DropError> {
    let name = || user.name.clone();
    let known = nix::unistd::User::from_uid(user.uid)
        .ok()
        .flatten()
        .is_some();
    let groups = match CString::new(user.name.as_str()) {
        Ok(login) if known => initgroups(&login, user.gid),
        Ok(_) | Err(_) => setgroups(&[user.gid]),
    };
    groups.map_err(|source| DropError::Groups {
        user: name(),
        source,
    })?;
    setresgid(user.gid, user.gid, user.gid).map_err(|source| DropError::Group {
        user: name(),
        source,
    })?;
    setresuid(user.uid, user.uid, user.uid).map_err(|source| DropError::User {
        user: name(),
        source,
    })?;
    if user.uid.is_root() {
        return Ok(());
    }
    let uids = getresuid().map_err(|source| DropError::User {
        user: name(),
        source,
    })?;
    let gids = getresgid().map_err(|source| DropError::Group {
        user: name(),
        source,
    })?;
    let gone = [uids.real, uids.effective, uids.saved]
        .iter()
        .all(|uid| *uid == user.uid)
        && [gids.real, gids.effective, gids.saved]
            .iter()
            .all(|gid| *gid == user.gid);
    if !gone || setuid(nix::unistd::Uid::from_raw(0)).is_ok() {
        return Err(DropError::RootStayed);
    }
    Ok(())
}
