//! What this process keeps of root's powers.

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};

/// Rules, routes, marks: all that the helper and the programs that it runs do.
const KEPT: Capability = Capability::CAP_NET_ADMIN;

/// A power that could not be given up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrivilegeError {
    #[error("cannot give up capabilities: {0}")]
    Capabilities(#[from] CapsError),
    #[error("CAP_NET_ADMIN is missing: the capture helper has to be started by root")]
    NotRoot,
    #[error("capabilities are left that should be gone: {0:?}")]
    Left(CapsHashSet),
    #[error("cannot set {what}: {source}")]
    Process {
        what: &'static str,
        source: nix::Error,
    },
}

/// Gives up everything but [`KEPT`], for this process and those it starts, and looks that it is gone.
pub(crate) fn drop_all_but_needed() -> Result<(), PrivilegeError> {
    if !caps::has_cap(None, CapSet::Permitted, KEPT)? {
        return Err(PrivilegeError::NotRoot);
    }
    let kept = CapsHashSet::from([KEPT]);
    for capability in caps::read(None, CapSet::Bounding)? {
        if capability != KEPT {
            caps::drop(None, CapSet::Bounding, capability)?;
        }
    }
    caps::clear(None, CapSet::Ambient)?;
    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        caps::set(None, set, &kept)?;
    }
    for set in [
        CapSet::Bounding,
        CapSet::Effective,
        CapSet::Permitted,
        CapSet::Inheritable,
    ] {
        let left = caps::read(None, set)?;
        if left != kept {
            return Err(PrivilegeError::Left(left));
        }
    }
    prctl::set_no_new_privs().map_err(|source| PrivilegeError::Process {
        what: "no_new_privs",
        source,
    })
}

/// The process's other bounds: files for itself alone, and as many descriptors as it may have: those that are on
/// their way to brokers count as well, together with those of all of root's programs.
pub(crate) fn prepare_process() -> Result<(), PrivilegeError> {
    umask(Mode::from_bits_truncate(0o077));
    let failed = |source| PrivilegeError::Process {
        what: "the limit of descriptors",
        source,
    };
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(failed)
}
