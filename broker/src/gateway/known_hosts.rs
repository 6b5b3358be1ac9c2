//! Which host keys are trusted: the `known_hosts` files of OpenSSH (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT").
//!
//! Understood: several names a line, `[host]:port`, wildcards and negation, hashed names, `@cert-authority`, `@revoked`.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use russh::keys::ssh_key::Certificate;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Algorithm, HashAlg, PublicKey};
use tokio::task::spawn_blocking;

use super::host_certificate::{self, CertificateFault};
use super::known_hosts_line::{self, Marker};

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

/// What the files say of a certificate that a host showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Certified {
    /// Signed for this host by an authority that a line for it names.
    Trusted,
    /// No line for this host names who signed it: it says no more than its plain key.
    NoAuthority,
    /// Signed by such an authority, and not good.
    Faulty(CertificateFault),
    /// A `@revoked` line holds its key, or the one that signed it.
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
    /// The thread that reads them has ended.
    #[error("cannot read the known hosts: {0}")]
    Aside(tokio::task::JoinError),
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
    host: String,
    lines: Lines,
    /// Those that name it without its port: asked when none names it with, as ssh does (sshconnect.c, `check_host_key`).
    portless: Lines,
}

/// Lines that name a host in one way.
#[derive(Debug, Default)]
struct Lines(Vec<Line>);

#[derive(Debug)]
struct Line {
    place: Place,
    marker: Marker,
    key: PublicKey,
    is_of_one_host: bool,
}

impl KnownHost {
    /// Reads what `files` say of `host` at `port`. A file that does not exist says nothing; a line that can't be read is passed
    /// over, with a warning.
    pub fn read(files: &[PathBuf], host: &str, port: u16) -> Result<Self, KnownHostsError> {
        let (mut lines, mut portless) = (Lines::default(), Lines::default());
        let (with_port, host) = (lookup_name(host, port), host.to_ascii_lowercase());
        for file in files {
            let text = read_bounded(file)?;
            lines.0.extend(lines_for(&text, file, &with_port));
            if port != 22 {
                portless.0.extend(lines_for(&text, file, &host));
            }
        }
        Ok(Self {
            host,
            lines,
            portless,
        })
    }

    /// The same on a thread of its own: the files may be large, and each hashed line of them costs.
    pub(super) async fn read_aside(
        files: &[PathBuf],
        host: &str,
        port: u16,
    ) -> Result<Self, KnownHostsError> {
        let (files, host) = (files.to_owned(), host.to_owned());
        let reading = spawn_blocking(move || Self::read(&files, &host, port));
        reading.await.map_err(KnownHostsError::Aside)?
    }

    /// Judges the key that the host showed.
    pub fn judge(&self, key: &PublicKey) -> Verdict {
        let verdict = self.lines.judge(key);
        if verdict != Verdict::Unknown {
            return verdict;
        }
        match self.portless.judge(key) {
            Verdict::Changed(_) => Verdict::Unknown,
            verdict @ (Verdict::Known | Verdict::Unknown | Verdict::Revoked(_)) => verdict,
        }
    }

    /// Judges the certificate that the host showed.
    pub fn judge_certificate(&self, certificate: &Certificate, now: SystemTime) -> Certified {
        if let Some(place) = self.revocation_of(certificate) {
            return Certified::Revoked(place);
        }
        if !self.lines.vouch_for(certificate) && !self.portless.vouch_for(certificate) {
            return Certified::NoAuthority;
        }
        match host_certificate::check(certificate, &self.host, now) {
            Ok(()) => Certified::Trusted,
            Err(fault) => Certified::Faulty(fault),
        }
    }

    /// The line that revokes the certified key, or the one that signed it.
    fn revocation_of(&self, certificate: &Certificate) -> Option<Place> {
        let keys = [certificate.public_key(), certificate.signature_key()];
        let mut revocations = keys.into_iter().flat_map(|key| {
            [
                self.lines.revocation_of(key),
                self.portless.revocation_of(key),
            ]
        });
        revocations.find_map(|place| place)
    }

    /// Whether certificates of this host can be judged: some line names an authority.
    pub fn has_authorities(&self) -> bool {
        let all = self.lines.0.iter().chain(&self.portless.0);
        all.clone().any(|line| line.marker == Marker::Authority)
    }

    /// Those of `keys` that no line knows or revokes, of a host that was trusted for the key `shown`, if they may be noted in `file`
    /// beside that, as ssh would (clientloop.c, `client_input_hostkeys`): it knows the host by that very key, under its full name, and
    /// nobody has written down more than ssh writes, such as an authority or a pattern.
    pub(super) fn others_beside(
        &self,
        shown: &PublicKey,
        file: &Path,
        keys: Vec<PublicKey>,
    ) -> Vec<PublicKey> {
        let is_shown =
            |line: &Line| line.place.file == file && line.key.key_data() == shown.key_data();
        let is_plain = |line: &Line| line.marker == Marker::Revoked || line.is_of_one_host;
        let is_by_ssh = self.lines.0.iter().all(is_plain) && !self.has_authorities();
        if !is_by_ssh || !self.lines.host_keys().any(is_shown) {
            return Vec::new();
        }
        let mut keys = keys;
        keys.retain(|key| matches!(self.judge(key), Verdict::Changed(_)));
        keys
    }

    /// Algorithms that the known keys of this host have: to be offered first, or a host that also has
    /// a key of another kind would show that one.
    pub fn algorithms(&self) -> Vec<Algorithm> {
        let lines = if self.lines.host_keys().next().is_some() {
            &self.lines
        } else {
            &self.portless
        };
        let mut found = Vec::new();
        for line in lines.host_keys() {
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

impl Lines {
    fn judge(&self, key: &PublicKey) -> Verdict {
        if let Some(place) = self.revocation_of(key.key_data()) {
            return Verdict::Revoked(place);
        }
        let same = |line: &Line| line.key.key_data() == key.key_data();
        if self.host_keys().any(same) {
            return Verdict::Known;
        }
        match self.host_keys().next() {
            Some(line) => Verdict::Changed(line.place.clone()),
            None => Verdict::Unknown,
        }
    }

    fn host_keys(&self) -> impl Iterator<Item = &Line> {
        self.marked(Marker::HostKey)
    }

    fn marked(&self, marker: Marker) -> impl Iterator<Item = &Line> {
        self.0.iter().filter(move |line| line.marker == marker)
    }

    fn revocation_of(&self, key: &KeyData) -> Option<Place> {
        let mut revoked = self.marked(Marker::Revoked);
        let line = revoked.find(|line| line.key.key_data() == key);
        line.map(|line| line.place.clone())
    }

    fn vouch_for(&self, certificate: &Certificate) -> bool {
        let mut authorities = self.marked(Marker::Authority);
        authorities.any(|line| line.key.key_data() == certificate.signature_key())
    }
}

/// The name that OpenSSH looks a host up by (sshd(8)).
pub(super) fn lookup_name(host: &str, port: u16) -> String {
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

fn lines_for(text: &str, file: &Path, name: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    for (index, text) in text.lines().enumerate() {
        let place = Place {
            file: file.to_owned(),
            line: index + 1,
        };
        match known_hosts_line::read(text, name) {
            Ok(Some((marker, key))) => lines.push(Line {
                place,
                marker,
                key,
                is_of_one_host: known_hosts_line::is_of_one_host(text),
            }),
            Ok(None) => {}
            Err(why) => tracing::warn!("passing over {place}: {why}"),
        }
    }
    lines
}

#[cfg(test)]
#[path = "known_hosts_tests.rs"]
mod tests;
