//! Which keys a user may log in with: one file for each user, in OpenSSH's format (sshd(8),
//! AUTHORIZED_KEYS FILE FORMAT).
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use russh::keys::PublicKey;
use russh::keys::ssh_key::public::KeyData;

use crate::bounded_file;
use crate::throttle::seldom;
use crate::user_name::UserName;

/// Longest file, in bytes: some thousand keys.
const MAX_FILE: usize = 1 << 20;
/// Shorter RSA keys can be factored or soon will be (NIST SP 800-131A: 2048 is the least).
const MIN_RSA_BITS: u32 = 2048;

/// inode(7): entries of such a directory are removed and renamed by their owners alone.
const STICKY: u32 = 0o1000;

/// Where the keys of a user are: an absolute path with `%u` for the name, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysPath {
    before: String,
    after: String,
}

/// The path cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadKeysPath {
    /// It would depend on the directory the server is started in.
    #[error("the path of the authorized keys is not absolute")]
    Relative,
    /// All users would share one file, and so each other's keys.
    #[error("the path of the authorized keys has to contain %u once and no other %")]
    User,
}

impl std::str::FromStr for KeysPath {
    type Err = BadKeysPath;

    fn from_str(text: &str) -> Result<Self, BadKeysPath> {
        let (before, after) = text.split_once("%u").ok_or(BadKeysPath::User)?;
        if before.contains('%') || after.contains('%') {
            return Err(BadKeysPath::User);
        }
        if !before.starts_with('/') {
            return Err(BadKeysPath::Relative);
        }
        Ok(Self {
            before: before.to_owned(),
            after: after.to_owned(),
        })
    }
}

impl KeysPath {
    /// The file of `user`.
    pub fn of(&self, user: &UserName) -> PathBuf {
        PathBuf::from(format!("{}{user}{}", self.before, self.after))
    }
}

/// Why a file's keys are not used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// It cannot be read. Not found: there is no such user.
    #[error("{}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others could have put a key of theirs into it.
    #[error("{}: {what}: chown root, chmod go-w", path.display())]
    Writable {
        /// The file or a directory above it.
        path: PathBuf,
        /// Who could.
        what: &'static str,
    },
}

/// Is `key` one that `user` may log in with? A line that has it but cannot be used is logged
/// and allows nothing.
///
/// # Errors
/// The file as a whole is not used.
pub fn is_authorized(path: &KeysPath, user: &UserName, key: &PublicKey) -> Result<bool, KeysError> {
    let file = path.of(user);
    let text = read(&file)?;
    let Some(encoded) = encoded(key) else {
        return Ok(false);
    };
    for (number, line) in text.lines().enumerate() {
        // Decoding takes long, and all lines but one are other keys.
        if !line.contains(&encoded) {
            continue;
        }
        match parse_line(line) {
            Ok(Some(listed)) if listed.key_data() == key.key_data() => return Ok(true),
            Ok(_) => {}
            Err(why) => {
                seldom!(warn, file = %file.display(), line = number + 1, %why, "authorized key not used")
            }
        }
    }
    Ok(false)
}

/// As it stands in a file.
fn encoded(key: &PublicKey) -> Option<String> {
    let text = key.to_openssh().ok()?;
    text.split(' ').nth(1).map(str::to_owned)
}

fn read(path: &Path) -> Result<String, KeysError> {
    let failed = |source| KeysError::Read {
        file: path.to_owned(),
        source,
    };
    let file = bounded_file::open(path).map_err(failed)?;
    only_ours(path, &file.metadata().map_err(failed)?)?;
    // Both the way that is written and, where there are symbolic links on it, the one that it means.
    let meant = path.canonicalize().map_err(failed)?;
    for way in [path, meant.as_path()] {
        for (distance, directory) in way.ancestors().skip(1).enumerate() {
            let metadata = directory.metadata().map_err(failed)?;
            // In such a directory nobody can put something else in the place of what is ours; but
            // the file's own has to keep others from making one.
            let sticky = metadata.mode() & STICKY != 0 && metadata.uid() == 0;
            if distance == 0 || !sticky {
                only_ours(directory, &metadata)?;
            }
        }
    }
    let content = bounded_file::read_opened(file, MAX_FILE).map_err(failed)?;
    // A comment in another encoding is no reason to lock its user out.
    Ok(String::from_utf8_lossy(&content).into_owned())
}

/// Only root and the server's own user may be able to change it.
fn only_ours(path: &Path, metadata: &Metadata) -> Result<(), KeysError> {
    let problem = if metadata.mode() & 0o022 != 0 {
        "its group or everyone can write to it"
    } else if metadata.uid() != 0 && metadata.uid() != nix::unistd::geteuid().as_raw() {
        "it belongs to another user"
    } else {
        return Ok(());
    };
    Err(KeysError::Writable {
        path: path.to_owned(),
        what: problem,
    })
}

/// Why a line allows nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    /// Options limit what a key may do; ignoring one would give more than was meant.
    #[error("it has options other than `restrict`, which this server does not know how to keep")]
    Options,
    /// Not a key of a type that this server knows.
    #[error("it is no public key that this server can use")]
    Key,
    /// A security key signs whether or not somebody touched it, and says which (OpenSSH,
    /// PROTOCOL.u2f); what checks signatures here does not look.
    #[error("its key is a security key (sk-), whose touch this server cannot ask for")]
    SecurityKey,
    /// See [`is_strong`].
    #[error("its key is of a kind that is too weak")]
    Weak,
}

/// A line's key; `None` for an empty line or a comment.
///
/// # Errors
/// Why it allows nothing.
pub fn parse_line(line: &str) -> Result<Option<PublicKey>, BadLine> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    // `restrict` switches off what this server does not offer to anyone: it is kept by doing
    // nothing.
    let bare = match line.split_once([' ', '\t']) {
        Some((options, rest)) if options.eq_ignore_ascii_case("restrict") => rest.trim_start(),
        _ => line,
    };
    let mut words = bare.split_ascii_whitespace();
    let (Some(kind), Some(encoded)) = (words.next(), words.next()) else {
        return Err(BadLine::Key);
    };
    match PublicKey::from_openssh(&format!("{kind} {encoded}")) {
        Ok(key) if is_security_key(key.key_data()) => Err(BadLine::SecurityKey),
        Ok(key) if is_strong(key.key_data()) => Ok(Some(key)),
        Ok(_) => Err(BadLine::Weak),
        Err(_) if looks_like_key_type(kind) => Err(BadLine::Key),
        Err(_) => Err(BadLine::Options),
    }
}

fn looks_like_key_type(word: &str) -> bool {
    ["ssh-", "ecdsa-", "sk-"]
        .iter()
        .any(|prefix| word.starts_with(prefix))
}

fn is_security_key(key: &KeyData) -> bool {
    matches!(key, KeyData::SkEd25519(_) | KeyData::SkEcdsaSha2NistP256(_))
}

/// No DSA, and no RSA of less than 2048 bits.
#[expect(clippy::wildcard_enum_match_arm, reason = "only two kinds can be weak")]
pub fn is_strong(key: &KeyData) -> bool {
    match key {
        KeyData::Dsa(_) => false,
        KeyData::Rsa(rsa) => rsa.key_size() >= MIN_RSA_BITS,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    /// Made with `ssh-keygen -t ed25519` and `ssh-keygen -t rsa -b 1024`.
    const ED25519: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIRa9vDfiR7M35Zgzf/0GSlqST/kQ9J0AlLi15Lctg6+";
    const RSA_1024: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDgYI1ihdDKyx3I0TSGbpzmYDjnkPzWsnyPMb9xw0m/3w5vGc2lVsdHcHt6R7pLKl03Mzu5PrR93Tm532yHIK8Z2QECcEiOBRZretTtLeeYBPH+j5RmIw/kB3EnHnb3fponsalt+75s/L738nspjzJmqAAXhcYMqU32tcNKubzlVw==";

    /// Put together as OpenSSH's PROTOCOL.u2f says; `ssh-keygen -l` reads them.
    const SK_ED25519: &str = "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIIRa9vDfiR7M35Zgzf/0GSlqST/kQ9J0AlLi15Lctg6+AAAABHNzaDo=";
    const SK_ECDSA: &str = "sk-ecdsa-sha2-nistp256@openssh.com AAAAInNrLWVjZHNhLXNoYTItbmlzdHAyNTZAb3BlbnNzaC5jb20AAAAIbmlzdHAyNTYAAABBBAq8opVA/4l5/v1rrR6Upi8xtdps8Te2FlMnkKWOohDN8CUxI+dWa8P841BEzozN6qwKJaxmKWmkkgEBOa+mHXEAAAAEc3NoOg==";

    fn check(line: &str, expected: Result<bool, BadLine>) {
        assert_eq!(
            parse_line(line).map(|key| key.is_some()),
            expected,
            "{line:?}"
        );
    }

    #[test]
    fn lines_are_keys_comments_or_refused() {
        check("", Ok(false));
        check("  # alice", Ok(false));
        check(ED25519, Ok(true));
        check(&format!("{ED25519} alice at her desk # 2"), Ok(true));
        check(&format!("  {}\tx", ED25519.replace(' ', "\t")), Ok(true));
        check(&format!("restrict {ED25519} alice"), Ok(true));
        check(
            &format!("from=\"10.0.0.1\" {ED25519}"),
            Err(BadLine::Options),
        );
        check(&format!("cert-authority {ED25519}"), Err(BadLine::Options));
        check(
            &format!("restrict,command=\"/bin/a b\" {ED25519}"),
            Err(BadLine::Options),
        );
        check(
            &format!("restrict expiry-time=\"20200101\" {ED25519}"),
            Err(BadLine::Options),
        );
        check(RSA_1024, Err(BadLine::Weak));
        check(SK_ED25519, Err(BadLine::SecurityKey));
        check(SK_ECDSA, Err(BadLine::SecurityKey));
        check("ssh-ed25519 AAAA", Err(BadLine::Key));
        check("ssh-ed25519", Err(BadLine::Key));
    }

    #[test]
    fn paths_name_one_file_for_each_user() {
        let path = |text: &str| {
            text.parse::<KeysPath>()
                .map(|path| path.of(&"alice".parse().expect("name")))
        };
        assert_eq!(path("/etc/adit/keys/%u"), Ok("/etc/adit/keys/alice".into()));
        assert_eq!(
            path("/home/%u/.ssh/authorized_keys"),
            Ok("/home/alice/.ssh/authorized_keys".into())
        );
        assert_eq!(path("/etc/adit/keys"), Err(BadKeysPath::User));
        assert_eq!(path("/etc/%u/%u"), Err(BadKeysPath::User));
        assert_eq!(path("/etc/%h/%u"), Err(BadKeysPath::User));
        assert_eq!(path("keys/%u"), Err(BadKeysPath::Relative));
    }

    #[test]
    fn a_file_that_others_can_write_is_not_used() {
        let directory = tempfile::tempdir().expect("directory");
        let file = directory.path().join("alice");
        fs::write(&file, format!("{ED25519}\n")).expect("write");
        let path: KeysPath = format!("{}/%u", directory.path().display())
            .parse()
            .expect("path");
        let key = PublicKey::from_openssh(ED25519).expect("key");
        let ask = || is_authorized(&path, &"alice".parse().expect("name"), &key);
        for (mode, directory_mode, used) in [
            (0o644, 0o755, true),
            (0o600, 0o700, true),
            (0o664, 0o755, false),
            (0o646, 0o755, false),
            (0o644, 0o777, false),
        ] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("chmod");
            fs::set_permissions(directory.path(), fs::Permissions::from_mode(directory_mode))
                .expect("chmod");
            assert_eq!(
                ask().is_ok_and(|authorized| authorized),
                used,
                "{mode:o} in {directory_mode:o}"
            );
        }
    }

    #[test]
    fn nobody_else_may_be_able_to_change_a_directory_on_the_way() {
        let top = tempfile::tempdir().expect("directory");
        let (real, seen) = (top.path().join("real"), top.path().join("seen"));
        fs::create_dir_all(real.join("keys")).expect("directory");
        fs::create_dir(&seen).expect("directory");
        fs::write(real.join("keys/alice"), format!("{ED25519}\n")).expect("write");
        std::os::unix::fs::symlink(real.join("keys"), seen.join("keys")).expect("link");
        let key = PublicKey::from_openssh(ED25519).expect("key");
        let ask = |directory: &Path| {
            let path = format!("{}/keys/%u", directory.display());
            let path: KeysPath = path.parse().expect("path");
            is_authorized(&path, &"alice".parse().expect("name"), &key)
        };
        let chmod = |directory: &Path, mode| {
            fs::set_permissions(directory, fs::Permissions::from_mode(mode)).expect("chmod");
        };
        for (real_mode, seen_mode, by_real, by_link) in [
            (0o755, 0o755, true, true),
            (0o775, 0o755, false, false),
            (0o755, 0o757, true, false),
        ] {
            chmod(&real, real_mode);
            chmod(&seen, seen_mode);
            for (directory, used) in [(&real, by_real), (&seen, by_link)] {
                assert_eq!(
                    ask(directory).is_ok_and(|authorized| authorized),
                    used,
                    "{} with {real_mode:o} and {seen_mode:o}",
                    directory.display()
                );
            }
        }
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_refused(line in "\\PC{0,200}") {
            let _ = parse_line(&line);
        }

        #[test]
        fn no_word_before_a_key_is_ignored_but_restrict(word in "[!-~]{1,20}") {
            prop_assume!(!word.eq_ignore_ascii_case("restrict") && !word.starts_with('#'));
            let line = format!("{word} {ED25519}");
            prop_assert!(parse_line(&line).is_err());
        }
    }
}
