//! Which host keys are trusted: the `known_hosts` files of OpenSSH (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT").
//!
//! Understood: several names a line, `[host]:port`, wildcards and negation, hashed names, `@revoked`.
//! Lines with `@cert-authority` are passed over: host certificates are not asked for.

use std::io::Read;
use std::path::{Path, PathBuf};

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use russh::keys::{Algorithm, HashAlg, PublicKey};

/// A larger file is refused rather than read.
const MAX_FILE: u64 = 16 << 20;

/// What the files say of a key that a host showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A line for this host holds exactly this key.
    Known,
    /// No line for this host.
    Unknown,
    /// Lines for this host hold other keys only; the first of them.
    Changed(Place),
    /// A `@revoked` line holds this key.
    Revoked(Place),
}

/// A line of a file, counted from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The line.
    pub line: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// Why the files could not be read.
#[derive(Debug, thiserror::Error)]
pub enum KnownHostsError {
    /// The file exists and can't be read.
    #[error("cannot read {}", file.display())]
    Read {
        /// Which file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is larger than anyone's known hosts.
    #[error("{} is larger than 16 MiB", file.display())]
    TooLarge {
        /// Which file.
        file: PathBuf,
    },
}

/// The lines that speak of one host.
#[derive(Debug)]
pub struct KnownHost {
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    place: Place,
    revoked: bool,
    key: PublicKey,
}

impl KnownHost {
    /// Reads what `files` say of `host` at `port`. A file that does not exist says nothing.
    pub fn read(files: &[PathBuf], host: &str, port: u16) -> Result<Self, KnownHostsError> {
        let name = lookup_name(host, port);
        let mut lines = Vec::new();
        for file in files {
            let text = read_bounded(file)?;
            lines.extend(lines_for(&text, file, &name));
        }
        Ok(Self { lines })
    }

    /// Judges the key that the host showed.
    pub fn judge(&self, key: &PublicKey) -> Verdict {
        let same = |line: &&Line| line.key.key_data() == key.key_data();
        if let Some(line) = self.lines.iter().find(|line| line.revoked && same(line)) {
            return Verdict::Revoked(line.place.clone());
        }
        let mut trusted = self.lines.iter().filter(|line| !line.revoked);
        if trusted.clone().any(|line| same(&line)) {
            return Verdict::Known;
        }
        match trusted.next() {
            Some(line) => Verdict::Changed(line.place.clone()),
            None => Verdict::Unknown,
        }
    }

    /// Algorithms that the known keys of this host have: to be offered first, or a host that also has
    /// a key of another kind would show that one.
    pub fn algorithms(&self) -> Vec<Algorithm> {
        let mut found = Vec::new();
        for line in self.lines.iter().filter(|line| !line.revoked) {
            let algorithm = line.key.algorithm();
            let signed_with = |hash| Algorithm::Rsa { hash: Some(hash) };
            let variants = if matches!(algorithm, Algorithm::Rsa { .. }) {
                vec![signed_with(HashAlg::Sha512), signed_with(HashAlg::Sha256)]
            } else {
                vec![algorithm]
            };
            for variant in variants {
                if !found.contains(&variant) {
                    found.push(variant);
                }
            }
        }
        found
    }
}

/// The name that OpenSSH looks a host up by (sshd(8)).
fn lookup_name(host: &str, port: u16) -> String {
    let host = host.to_ascii_lowercase();
    if port == 22 {
        host
    } else {
        format!("[{host}]:{port}")
    }
}

fn read_bounded(file: &Path) -> Result<String, KnownHostsError> {
    let failed = |source| KnownHostsError::Read {
        file: file.to_owned(),
        source,
    };
    let opened = match std::fs::File::open(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    opened
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(KnownHostsError::TooLarge {
            file: file.to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn lines_for<'t>(text: &'t str, file: &'t Path, name: &'t str) -> impl Iterator<Item = Line> + 't {
    text.lines().enumerate().filter_map(move |(index, line)| {
        let place = Place {
            file: file.to_owned(),
            line: index + 1,
        };
        parse_line(line, name, place)
    })
}

fn parse_line(line: &str, name: &str, place: Place) -> Option<Line> {
    let mut words = line.split_ascii_whitespace();
    let mut hosts = words.next()?;
    let mut revoked = false;
    if let Some(marker) = hosts.strip_prefix('@') {
        if marker != "revoked" {
            return None;
        }
        revoked = true;
        hosts = words.next()?;
    }
    if hosts.starts_with('#') || !names(hosts, name) {
        return None;
    }
    let _kind = words.next()?;
    let key = russh::keys::parse_public_key_base64(words.next()?).ok()?;
    Some(Line {
        place,
        revoked,
        key,
    })
}

/// Whether a line's list of patterns names the host: one says yes and none says `!no`.
fn names(patterns: &str, name: &str) -> bool {
    let mut yes = false;
    for pattern in patterns.split(',') {
        if let Some(negated) = pattern.strip_prefix('!') {
            if wildcard(&negated.to_ascii_lowercase(), name) {
                return false;
            }
        } else if let Some(hashed) = pattern.strip_prefix("|1|") {
            yes |= hashed_name(hashed, name);
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
    use std::process::Command;

    // Two keys made by ssh-keygen -t ed25519.
    const ONE: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const TWO: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIA6rWI3G2sz07DnfFlrouTcysQlj2P+jpNSOEWD9OJ3X";

    fn judge(text: &str, host: &str, port: u16) -> Verdict {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("known_hosts");
        std::fs::write(&file, text).unwrap();
        let known = KnownHost::read(std::slice::from_ref(&file), host, port).unwrap();
        let verdict = known.judge(&russh::keys::parse_public_key_base64(ONE).unwrap());
        match verdict {
            Verdict::Changed(place) => {
                assert_eq!(place.file, file);
                Verdict::Changed(Place {
                    file: "f".into(),
                    line: place.line,
                })
            }
            Verdict::Revoked(place) => Verdict::Revoked(Place {
                file: "f".into(),
                line: place.line,
            }),
            verdict @ (Verdict::Known | Verdict::Unknown) => verdict,
        }
    }

    fn at(line: usize) -> Place {
        Place {
            file: "f".into(),
            line,
        }
    }

    #[test]
    fn plain_names() {
        let text = format!("# a comment\ngw.example,192.0.2.1 ssh-ed25519 {ONE} me\n");
        assert_eq!(judge(&text, "gw.example", 22), Verdict::Known);
        assert_eq!(judge(&text, "GW.Example", 22), Verdict::Known);
        assert_eq!(judge(&text, "192.0.2.1", 22), Verdict::Known);
        assert_eq!(judge(&text, "gw.example", 443), Verdict::Unknown);
        assert_eq!(judge(&text, "gw2.example", 22), Verdict::Unknown);
    }

    #[test]
    fn another_port() {
        let text = format!("[gw.example]:443 ssh-ed25519 {ONE}\n");
        assert_eq!(judge(&text, "gw.example", 443), Verdict::Known);
        assert_eq!(judge(&text, "gw.example", 22), Verdict::Unknown);
    }

    #[test]
    fn a_changed_key_is_not_an_unknown_one() {
        let text = format!("\ngw.example ssh-ed25519 {TWO}\n");
        assert_eq!(judge(&text, "gw.example", 22), Verdict::Changed(at(2)));
        let both = format!("{text}gw.example ssh-ed25519 {ONE}\n");
        assert_eq!(judge(&both, "gw.example", 22), Verdict::Known);
    }

    #[test]
    fn revoked_beats_known() {
        let text = format!("gw.example ssh-ed25519 {ONE}\n@revoked gw.example ssh-ed25519 {ONE}\n");
        assert_eq!(judge(&text, "gw.example", 22), Verdict::Revoked(at(2)));
        let other = format!("@revoked * ssh-ed25519 {TWO}\ngw.example ssh-ed25519 {ONE}\n");
        assert_eq!(judge(&other, "gw.example", 22), Verdict::Known);
    }

    #[test]
    fn wildcards_and_negation() {
        let text = format!("*.corp.example,!bad.corp.example ssh-ed25519 {ONE}\n");
        assert_eq!(judge(&text, "a.corp.example", 22), Verdict::Known);
        assert_eq!(judge(&text, "bad.corp.example", 22), Verdict::Unknown);
        assert_eq!(judge(&text, "corp.example", 22), Verdict::Unknown);
        assert_eq!(
            judge(&format!("gw?.example ssh-ed25519 {ONE}"), "gw1.example", 22),
            Verdict::Known
        );
    }

    #[test]
    fn certificate_authorities_are_not_host_keys() {
        let text = format!("@cert-authority * ssh-ed25519 {ONE}\n");
        assert_eq!(judge(&text, "gw.example", 22), Verdict::Unknown);
    }

    /// The hashes come from ssh-keygen itself.
    #[test]
    fn names_hashed_by_openssh() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("known_hosts");
        let text = format!("gw.example ssh-ed25519 {ONE}\n[gw.example]:443 ssh-ed25519 {ONE}\n");
        std::fs::write(&file, text).unwrap();
        let done = Command::new("ssh-keygen")
            .arg("-H")
            .arg("-f")
            .arg(&file)
            .output()
            .unwrap();
        assert!(done.status.success(), "ssh-keygen -H: {done:?}");
        let hashed = std::fs::read_to_string(&file).unwrap();
        assert!(
            !hashed.contains("gw.example"),
            "ssh-keygen did not hash: {hashed}"
        );
        assert_eq!(judge(&hashed, "gw.example", 22), Verdict::Known);
        assert_eq!(judge(&hashed, "gw.example", 443), Verdict::Known);
        assert_eq!(judge(&hashed, "other.example", 22), Verdict::Unknown);
    }

    #[test]
    fn a_missing_file_says_nothing() {
        let known = KnownHost::read(&["/nonexistent/known_hosts".into()], "h", 22).unwrap();
        let key = russh::keys::parse_public_key_base64(ONE).unwrap();
        assert_eq!(known.judge(&key), Verdict::Unknown);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_survived(text in "[ -~\n]{0,400}") {
            let _ = lines_for(&text, Path::new("f"), "gw.example").count();
        }

        #[test]
        fn a_pattern_without_wildcards_matches_itself_only(a in "[a-z.]{1,12}", b in "[a-z.]{1,12}") {
            proptest::prop_assert_eq!(wildcard(&a, &b), a == b);
        }
    }
}
