//! What is wrong with the files that the gateway's file names, as far as it can be told before anybody
//! logs in. Each login reads them anew and fails closed by itself; this says it to whoever looks after
//! the gateway, while it can still be mended.
use std::io;
use std::path::{Path, PathBuf};

use crate::authorities::{self, BadAuthorities};
use crate::config::Serving;
use crate::host_key::{self, HostKeyError};
use crate::login::LoginFiles;
use crate::one_time_code::Secret;
use crate::password;
use crate::revocation::{Revocation, Revoked};
use crate::secret_lines::{BadLine, SecretLines};
use crate::trusted_file::{self, Untrusted};

/// Something is wrong with one of the files.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The gateway does not start.
    #[error(transparent)]
    HostKey(#[from] HostKeyError),
    /// The gateway does not start.
    #[error("the audit cannot be written to {}: {source}", file.display())]
    Audit {
        /// The file that it should be written to.
        file: PathBuf,
        /// Of its directory.
        source: io::Error,
    },
    /// Nobody gets in.
    #[error(transparent)]
    Revoked(#[from] Revoked),
    /// See [`BadAuthorities`].
    #[error(transparent)]
    Authorities(#[from] BadAuthorities),
    /// Nobody gets in by a key of a file.
    #[error("nobody's keys are used: {0}")]
    Keys(Untrusted),
    /// Nobody gets in by this method.
    #[error("nobody gets in by what this file should have: {0}")]
    Secrets(Untrusted),
    /// One user does not.
    #[error("{}: {why}", file.display())]
    Secret {
        /// The file of passwords or secrets.
        file: PathBuf,
        /// What is wrong with a line of it.
        why: BadLine,
    },
}

/// All that is wrong with what a server needs, read as the user that this process is.
pub fn of(serving: &Serving, audit: Option<&Path>) -> Vec<Fault> {
    let host_keys = serving.host_keys.iter();
    let bad_host_keys = host_keys.filter_map(|path| host_key::load(path).err());
    let mut faults: Vec<_> = bad_host_keys.map(Fault::from).collect();
    if let Some(file) = audit
        && let Some(Err(source)) = file.parent().map(|parent| parent.join(".").metadata())
    {
        let file = file.to_owned();
        faults.push(Fault::Audit { file, source });
    }
    faults.extend(of_login(&serving.login));
    faults
}

/// A line for each.
pub fn in_words(faults: &[Fault]) -> String {
    let lines: Vec<_> = faults.iter().map(Fault::to_string).collect();
    lines.join("\n")
}

/// The same of the files that are read at each login.
pub(crate) fn of_login(files: &LoginFiles) -> Vec<Fault> {
    let revocation = Revocation::new(&files.revoked_keys);
    let mut faults: Vec<_> = revocation.faults().into_iter().map(Fault::from).collect();
    let authorities = files.user_ca.iter();
    let bad = authorities.filter_map(|file| authorities::check(file).err());
    faults.extend(bad.map(Fault::from));
    if let Some(keys) = &files.authorized_keys
        && let Err(why) = trusted_file::check_directory(&keys.directory())
    {
        faults.push(Fault::Keys(why));
    }
    if let Some(file) = &files.passwords {
        faults.extend(of_secrets(file, |hash| {
            password::usable(hash).map_err(|why| why.to_string())
        }));
    }
    if let Some(file) = &files.totp {
        let usable = |text: &str| text.parse::<Secret>().map(drop);
        faults.extend(of_secrets(file, |text| {
            usable(text).map_err(|why| why.to_string())
        }));
    }
    faults
}

fn of_secrets(file: &Path, usable: impl Fn(&str) -> Result<(), String>) -> Vec<Fault> {
    let lines = match SecretLines::read(file) {
        Ok(lines) => lines,
        Err(why) => return vec![Fault::Secrets(why)],
    };
    let bad = lines.faults(usable).into_iter();
    bad.map(|why| Fault::Secret {
        file: file.to_owned(),
        why,
    })
    .collect()
}
