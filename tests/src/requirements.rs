//! What the lab needs of the machine, said before anything fails for want of it.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::run::PATH;

/// From Debian's packages, see `tests/packages.sh`.
const PROGRAMS: [&str; 29] = [
    "bash",
    "curl",
    "git",
    "go",
    "ip",
    "microsocks",
    "mount",
    "nc",
    "nft",
    "nginx",
    "nsenter",
    "openssl",
    "pgrep",
    "psql",
    "python3",
    "redis-cli",
    "redis-server",
    "rsync",
    "setpriv",
    "ss",
    "ssh",
    "ssh-keygen",
    "sshd",
    "sudo",
    "sysctl",
    "tcpdump",
    "timeout",
    "tinyproxy",
    "unshare",
];
/// Built from this workspace.
const BINARIES: [&str; 5] = [
    "adit",
    "adit-capture",
    "adit-connect",
    "adit-peer",
    "adit-server",
];

pub(crate) fn check(binaries: &Path) -> Result<()> {
    let installed = |program: &&str| {
        PATH.split(':')
            .any(|dir| Path::new(dir).join(program).exists())
    };
    let missing: Vec<_> = PROGRAMS
        .into_iter()
        .filter(|program| !installed(program))
        .collect();
    ensure!(
        missing.is_empty(),
        "{} missing: run `make deps`",
        missing.join(", ")
    );
    let unbuilt: Vec<_> = BINARIES
        .into_iter()
        .filter(|program| !binaries.join(program).exists())
        .collect();
    let (unbuilt_names, place) = (unbuilt.join(", "), binaries.display());
    ensure!(
        unbuilt.is_empty(),
        "{unbuilt_names} missing in {place}: run `make programs`"
    );
    Ok(())
}
