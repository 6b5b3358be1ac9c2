//! One line of a `known_hosts` file (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT"): marker, names, key.

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use russh::keys::PublicKey;

/// Bytes of the salt of a hashed name: those of a SHA-1 (hostfile.c of OpenSSH refuses others).
const SALT: usize = 20;

/// What a line says of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marker {
    /// It is the host's.
    HostKey,
    /// `@cert-authority`: it signs the certificates of hosts.
    Authority,
    /// `@revoked`: it is never to be trusted.
    Revoked,
}

/// Why a line is passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("no such marker: there are `@cert-authority` and `@revoked`, one a line")]
    Marker,
    #[error("no key follows the names")]
    NoKey,
    #[error("its key cannot be read, or is of a kind that is not supported")]
    Key,
    #[error("the key is of another kind than the line says")]
    OtherKind,
}

/// The marker and the key of a line that names `name`; `None` for any other, and for comments.
pub(super) fn read(line: &str, name: &str) -> Result<Option<(Marker, PublicKey)>, Unreadable> {
    let mut words = line.split_ascii_whitespace();
    let Some(mut hosts) = words.next().filter(|word| !word.starts_with('#')) else {
        return Ok(None);
    };
    let mut marker = Marker::HostKey;
    if hosts.starts_with('@') {
        marker = match hosts {
            "@cert-authority" => Marker::Authority,
            "@revoked" => Marker::Revoked,
            _ => return Err(Unreadable::Marker),
        };
        hosts = words.next().ok_or(Unreadable::NoKey)?;
        if hosts.starts_with('@') {
            return Err(Unreadable::Marker);
        }
    }
    if !names(hosts, name) {
        return Ok(None);
    }
    let (kind, key) = words.next().zip(words.next()).ok_or(Unreadable::NoKey)?;
    let key = russh::keys::parse_public_key_base64(key).map_err(|_| Unreadable::Key)?;
    if key.algorithm().as_str() != kind {
        return Err(Unreadable::OtherKind);
    }
    Ok(Some((marker, key)))
}

/// Whether it names one host, as lines do that ssh writes: no pattern, and no more than a name and an address (clientloop.c,
/// `hostspec_is_complex`). A marker is no name.
pub(super) fn is_of_one_host(line: &str) -> bool {
    let hosts = line.split_ascii_whitespace().next().unwrap_or_default();
    !hosts.contains(['*', '?', '!', '@']) && hosts.split(',').count() <= 2
}

/// Whether a line's names are those of the host: one hashed name, or a list of patterns of which one says yes and none `!no`.
fn names(written: &str, name: &str) -> bool {
    if let Some(hashed) = written.strip_prefix("|1|") {
        return hashed_name(hashed, name);
    }
    let mut yes = false;
    for pattern in written.split(',') {
        if let Some(negated) = pattern.strip_prefix('!') {
            if wildcard(&negated.to_ascii_lowercase(), name) {
                return false;
            }
        } else {
            yes |= wildcard(&pattern.to_ascii_lowercase(), name);
        }
    }
    yes
}

fn hashed_name(salt_and_hash: &str, name: &str) -> bool {
    let Some((salt, hash)) = salt_and_hash.split_once('|') else {
        return false;
    };
    let (Ok(salt), Ok(hash)) = (
        BASE64.decode(salt.as_bytes()),
        BASE64.decode(hash.as_bytes()),
    ) else {
        return false;
    };
    if salt.len() != SALT {
        return false;
    }
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &salt);
    hmac::verify(&key, name.as_bytes(), &hash).is_ok()
}

/// `*` is any run of characters, `?` any one (ssh_config(5), PATTERNS). Linear in both lengths' product.
fn wildcard(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[t] => {
                p += 1;
                t += 1;
            }
            Some(_) | None => match star {
                Some((after, from)) => {
                    star = Some((after, from + 1));
                    p = after;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made by ssh-keygen -t ed25519.
    const KEY: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    #[test]
    fn what_cannot_be_read_is_told() {
        let check = |line: &str, expected: Unreadable| {
            assert_eq!(read(line, "gw.example"), Err(expected), "{line}");
        };
        check(&format!("@own * ssh-ed25519 {KEY}"), Unreadable::Marker);
        check(
            &format!("@revoked @cert-authority * ssh-ed25519 {KEY}"),
            Unreadable::Marker,
        );
        check("@revoked", Unreadable::NoKey);
        check("gw.example", Unreadable::NoKey);
        check("gw.example ssh-ed25519", Unreadable::NoKey);
        check("gw.example ssh-ed25519 AAAA", Unreadable::Key);
        check("gw.example ssh-ed25519 *", Unreadable::Key);
        check(&format!("gw.example ssh-rsa {KEY}"), Unreadable::OtherKind);
    }

    #[test]
    fn what_is_about_others_is_not_read() {
        for line in [
            "",
            "   ",
            "# gw.example x",
            "other.example",
            "other.example a b",
        ] {
            assert_eq!(read(line, "gw.example"), Ok(None), "{line}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_line_is_survived(line in "\\PC{0,400}", name in "[ -~]{0,40}") {
            let _ = read(&line, &name);
        }

        /// A line that is nearly right: the words of one, cut and joined.
        #[test]
        fn any_line_of_its_words_is_survived(
            words in proptest::collection::vec(
                proptest::sample::select(vec![
                    "@revoked", "@cert-authority", "@", "*", "!*", ",", "|1|", "|1|AAAA|AAAA", "[gw.example]:443",
                    "gw.example", "ssh-ed25519", KEY, &KEY[..31], "#",
                ]),
                0..8,
            ),
            blank in proptest::sample::select(vec![" ", "\t", "", "  "]),
        ) {
            let _ = read(&words.join(blank), "gw.example");
        }

        #[test]
        fn a_pattern_without_wildcards_matches_itself_only(a in "[a-z.]{1,12}", b in "[a-z.]{1,12}") {
            proptest::prop_assert_eq!(wildcard(&a, &b), a == b);
        }

        /// Stars in a row cost no more than their number times the length of the text.
        #[test]
        fn many_stars_are_survived(stars in 0..2000usize, text in "a{0,2000}") {
            let pattern = "*a".repeat(stars) + "b";
            proptest::prop_assert!(!wildcard(&pattern, &text));
        }
    }
}
