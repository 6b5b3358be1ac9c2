//! Which files this process and those it starts can reach. Without its capabilities root still owns most of them.

use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
    RulesetError, RulesetStatus, path_beneath_rules,
};

/// The newest set of rights that we know of; a kernel without some of them enforces the others.
const KNOWN: ABI = ABI::V5;
/// What `nft`, `ip` and the libraries of both read: programs, libraries, names for numbers, what the kernel says.
const READ: [&str; 17] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/iproute2",
    "/etc/group",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/protocols",
    "/etc/services",
    "/proc",
    "/sys",
];
/// What is read and written.
const NULL: &str = "/dev/null";

/// What the kernel made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Confinement {
    /// What is not named here cannot be reached.
    Whole,
    /// An older kernel: some ways of writing are not known to it.
    Part,
    /// A kernel without Landlock, or with it switched off.
    None,
}

/// Confines this thread and all that it starts, for good: to reading what is needed, and to removing the socket, which is in
/// `socket_directory`. The files that are open stay usable.
///
/// # Errors
/// When a kernel that has Landlock (landlock(7)) does not take it.
pub(crate) fn confine(socket_directory: Option<&Path>) -> Result<Confinement, RulesetError> {
    let read = AccessFs::from_read(KNOWN);
    let null: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::WriteFile;
    let remove: BitFlags<AccessFs> = AccessFs::RemoveFile.into();
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .create()?
        .add_rules(path_beneath_rules(READ, read))?
        .add_rules(path_beneath_rules([NULL], null))?
        .add_rules(path_beneath_rules(socket_directory, remove))?
        .restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Confinement::Whole,
        RulesetStatus::PartiallyEnforced => Confinement::Part,
        RulesetStatus::NotEnforced => Confinement::None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File, OpenOptions};
    use std::io::ErrorKind;
    use std::process::Command;

    /// On a thread of its own, which alone is confined.
    #[test]
    fn nothing_is_written_and_little_is_read() {
        let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let files = [own.path().join("socket"), other.path().join("file")];
        files.iter().for_each(|file| fs::write(file, "").unwrap());
        let confined = || {
            assert_eq!(confine(Some(own.path())).unwrap(), Confinement::Whole);
            let denied = |result: std::io::Result<()>, what: &str| {
                assert_eq!(
                    result.unwrap_err().kind(),
                    ErrorKind::PermissionDenied,
                    "{what}"
                );
            };
            let write = |path: &str| OpenOptions::new().append(true).open(path).map(drop);
            denied(write("/etc/passwd"), "write /etc/passwd");
            denied(File::create("/etc/adit-confined").map(drop), "create");
            denied(fs::create_dir(own.path().join("more")), "make a directory");
            denied(fs::read("/etc/shadow").map(drop), "read /etc/shadow");
            denied(fs::remove_file(&files[1]), "remove another's");
            fs::remove_file(&files[0]).unwrap();
            write(NULL).unwrap();
            assert!(
                Command::new("/usr/sbin/nft")
                    .arg("--version")
                    .output()
                    .unwrap()
                    .status
                    .success()
            );
        };
        std::thread::scope(|scope| scope.spawn(confined).join().unwrap());
    }
}
