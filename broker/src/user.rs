//! The user whose connections a broker carries.

use std::path::PathBuf;

use adit_rules::AccountName;
use nix::unistd::{Gid, Uid};

/// Name, ids and home, from the user database (getpwuid(3)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The id.
    pub uid: Uid,
    /// The primary group.
    pub gid: Gid,
    /// The login name; `uid N` for one the database does not know.
    pub name: String,
    /// The home directory; `/` for one the database does not know.
    pub home: PathBuf,
}

/// Why a user could not be found.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The database could not be read.
    #[error("cannot read the user database: {0}")]
    Database(#[from] nix::Error),
    /// Nobody has that name.
    #[error("there is no user {0}")]
    Unknown(String),
}

impl User {
    /// The one who runs this process.
    pub fn current() -> Result<Self, UserError> {
        Self::by_uid(nix::unistd::geteuid())
    }

    /// By id. An id that the database does not know still is a user, without a home.
    pub fn by_uid(uid: Uid) -> Result<Self, UserError> {
        Ok(match nix::unistd::User::from_uid(uid)? {
            Some(entry) => entry.into(),
            None => Self {
                uid,
                gid: Gid::from_raw(uid.as_raw()),
                name: format!("uid {uid}"),
                home: PathBuf::from("/"),
            },
        })
    }

    /// As rules see the user, with all groups (getgrouplist(3)).
    pub fn of_rules(&self) -> Result<adit_rules::User, UserError> {
        let entry = nix::unistd::User::from_uid(self.uid)?;
        let gids = match &entry {
            Some(entry) => {
                let name = std::ffi::CString::new(entry.name.as_str()).unwrap_or_default();
                nix::unistd::getgrouplist(&name, self.gid)?
            }
            None => vec![self.gid],
        };
        let groups = gids.into_iter().map(|gid| {
            let entry = nix::unistd::Group::from_gid(gid)?;
            Ok(adit_rules::Group {
                name: name_of(entry.map(|entry| entry.name)),
                gid: Some(gid.as_raw()),
            })
        });
        Ok(adit_rules::User {
            name: name_of(entry.map(|entry| entry.name)),
            uid: Some(self.uid.as_raw()),
            groups: Some(groups.collect::<Result<_, nix::Error>>()?),
        })
    }

    /// By name, or by number.
    pub fn by_name(name: &str) -> Result<Self, UserError> {
        if let Some(entry) = nix::unistd::User::from_name(name)? {
            return Ok(entry.into());
        }
        match name.parse() {
            Ok(uid) => Self::by_uid(Uid::from_raw(uid)),
            Err(_) => Err(UserError::Unknown(name.to_owned())),
        }
    }
}

/// Whom the database does not name nobody does.
fn name_of(found: Option<String>) -> AccountName {
    found.map_or(AccountName::Nameless, AccountName::Is)
}

impl From<nix::unistd::User> for User {
    fn from(entry: nix::unistd::User) -> Self {
        Self {
            uid: entry.uid,
            gid: entry.gid,
            name: entry.name,
            home: entry.dir,
        }
    }
}
