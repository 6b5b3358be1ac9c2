//! Files and certificates that nobody would make, out of those that `ssh-keygen` does: whatever they are,
//! reading them ends, without a panic and soon, and lets in nobody whom they did not let in before.
//!
//! `make test` tries a few thousand, `make fuzz` goes on for as long as it is told (`ADIT_FUZZ_SECONDS`). What
//! is found is kept in a file, as the keys behind it are new each time.
#![allow(clippy::expect_used, clippy::panic, reason = "tests")]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use adit_server::authorized_keys::{Attempt, parse_line};
use adit_server::certificate::judge;
use adit_server::krl::Krl;
use jiff::tz::TimeZone;
use russh::keys::Certificate;

/// How many a run without a word about its length tries.
const FEW: u64 = 3000;
/// What grows is cut off here.
const LONGEST: usize = 64 << 10;
/// Of processor time. [`LONGEST`] takes a few milliseconds; this is no accident of the machine.
const FAR_TOO_SLOW: Duration = Duration::from_secs(2);

/// splitmix64: any seed is as good as another.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound.max(1)).unwrap_or(u64::MAX);
        usize::try_from(self.next() % bound).unwrap_or(0)
    }
}

/// What `ssh-keygen` made.
struct Corpus {
    lines: Vec<Vec<u8>>,
    certificates: Vec<Vec<u8>>,
    revoked: Vec<Vec<u8>>,
}

fn keygen(directory: &Path, arguments: &[&str]) {
    let mut keygen = Command::new("ssh-keygen");
    let keygen = keygen.arg("-q").args(arguments).current_dir(directory);
    assert!(
        keygen.status().expect("ssh-keygen runs").success(),
        "{arguments:?}"
    );
}

fn corpus() -> Corpus {
    let directory = tempfile::tempdir().expect("directory");
    let at = directory.path();
    let read = |name: &str| fs::read(at.join(name)).expect("a file");
    keygen(at, &["-t", "ed25519", "-N", "", "-C", "ca", "-f", "ca"]);
    let (mut lines, mut certificates, mut revoked) = (Vec::new(), Vec::new(), Vec::new());
    for kind in ["ed25519", "ecdsa", "rsa"] {
        keygen(at, &["-t", kind, "-N", "", "-C", kind, "-f", kind]);
        let public = read(&format!("{kind}.pub"));
        for options in [
            "",
            "restrict,from=\"10.0.0.0/8,!10.9.0.0/16\",expiry-time=\"20991231Z\" ",
            "permitopen=\"db.corp:5432\",permitlisten=\"localhost:*\",no-pty ",
            "cert-authority,principals=\"alice,o\\\"ps\" ",
        ] {
            lines.push([options.as_bytes(), &public].concat());
        }
        let key = format!("{kind}.pub");
        for limits in [
            &[][..],
            &["-O", "source-address=10.0.0.0/8"],
            &["-O", "clear", "-V", "+1w"],
        ] {
            let signed = [
                &["-s", "ca", "-I", "id", "-n", "alice", "-z", "7"],
                limits,
                &[&key],
            ];
            keygen(at, &signed.concat());
            let text = read(&format!("{kind}-cert.pub"));
            let text = String::from_utf8(text).expect("text");
            let certificate = Certificate::from_openssh(&text).expect("a certificate");
            certificates.push(certificate.to_bytes().expect("bytes"));
        }
    }
    for what in [
        "serial: 7\nserial: 9-1000\n",
        "id: id\n",
        "serial: 1\nserial: 900000\nid: x\n",
    ] {
        fs::write(at.join("what"), what).expect("write");
        keygen(at, &["-k", "-f", "list", "-s", "ca.pub", "what"]);
        revoked.push(read("list"));
        keygen(at, &["-k", "-u", "-f", "list", "rsa.pub", "ecdsa.pub"]);
        revoked.push(read("list"));
        fs::remove_file(at.join("list")).expect("remove");
    }
    Corpus {
        lines,
        certificates,
        revoked,
    }
}

/// Some bytes of one of them changed, left out, put in, or many times over; or two of them in one.
fn made(chance: &mut Chance, all: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = all[chance.below(all.len())].clone();
    for _ in 0..=chance.below(4) {
        let start = chance.below(bytes.len() + 1);
        let end = (start + chance.below(20)).min(bytes.len());
        match chance.below(6) {
            // Lengths and counts are what is most worth it.
            0 => drop(bytes.splice(
                start..end,
                [[0; 4], [0xff; 4], [0, 0, 0, 1]][chance.below(3)],
            )),
            1 => {
                if let Some(byte) = bytes.get_mut(start) {
                    *byte ^= 1 << chance.below(8);
                }
            }
            2 => drop(bytes.drain(start..end)),
            3 => {
                let piece = bytes[start..end].repeat(1 + chance.below(2000));
                drop(bytes.splice(start..end, piece));
            }
            4 => {
                let other = &all[chance.below(all.len())];
                let from = chance.below(other.len());
                bytes.truncate(start);
                bytes.extend(&other[from..]);
            }
            _ => bytes.truncate(start),
        }
        bytes.truncate(LONGEST);
    }
    bytes
}

fn attempt() -> Attempt {
    Attempt {
        from: "10.1.2.3".parse().expect("address"),
        now: jiff::Timestamp::now(),
    }
}

/// A line that is used has the key that stands in it.
fn line(bytes: &[u8]) {
    for line in String::from_utf8_lossy(bytes).lines() {
        if let Ok(Some((_, key))) = parse_line(line, &TimeZone::UTC) {
            let text = key.to_openssh().expect("text");
            let encoded = text.split(' ').nth(1).expect("a key");
            assert!(line.contains(encoded), "{line:?} is used as {text}");
        }
    }
}

/// One that is accepted is one of those that were signed.
fn certificate(bytes: &[u8], signed: &[Vec<u8>]) {
    let Ok(certificate) = Certificate::from_bytes(bytes) else {
        return;
    };
    if judge(&certificate, &["alice"], attempt()).is_ok() {
        let same = certificate.to_bytes().expect("bytes");
        assert!(signed.contains(&same), "a forged certificate: {bytes:02x?}");
    }
}

/// Looked into once it is read.
fn revoked(bytes: &[u8]) {
    if let Ok(list) = Krl::parse(bytes) {
        list.revokes_key(&[7; 51]);
        for serial in [0, 7, 1000, u64::MAX] {
            list.revokes_certificate(&[7; 51], serial, "id");
        }
    }
}

fn try_out(seed: u64, corpus: &Corpus) {
    let mut chance = Chance(seed);
    let (kind, bytes) = match chance.below(3) {
        0 => ("line", made(&mut chance, &corpus.lines)),
        1 => ("certificate", made(&mut chance, &corpus.certificates)),
        _ => ("revoked", made(&mut chance, &corpus.revoked)),
    };
    let began = processor_time();
    let outcome = catch_unwind(AssertUnwindSafe(|| match kind {
        "line" => line(&bytes),
        "certificate" => certificate(&bytes, &corpus.certificates),
        _ => revoked(&bytes),
    }));
    let took = processor_time().saturating_sub(began);
    if outcome.is_err() || took > FAR_TOO_SLOW {
        let file = std::env::temp_dir().join(format!("adit-fuzz-{kind}-{seed}"));
        fs::write(&file, &bytes).expect("write");
        panic!("{outcome:?} after {took:?}: {}", file.display());
    }
}

/// Of this thread, so that what else runs here does not count (schedstat of proc(5): nanoseconds).
fn processor_time() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = stat
        .split_whitespace()
        .next()
        .and_then(|it| it.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

#[test]
fn whatever_says_who_gets_in_is_read_or_refused() {
    let corpus = corpus();
    // As they were made, each is what it is.
    for bytes in &corpus.lines {
        let line = String::from_utf8_lossy(bytes);
        let read = parse_line(line.trim(), &TimeZone::UTC);
        assert!(matches!(read, Ok(Some(_))), "{line}: {read:?}");
    }
    for bytes in &corpus.certificates {
        let good = Certificate::from_bytes(bytes).expect("a certificate");
        judge(&good, &["alice"], attempt()).expect("accepted");
    }
    assert!(corpus.revoked.iter().all(|list| Krl::parse(list).is_ok()));
    let seconds = std::env::var("ADIT_FUZZ_SECONDS").ok();
    let Some(seconds) = seconds.and_then(|seconds| seconds.parse().ok()) else {
        return (0..FEW).for_each(|seed| try_out(seed, &corpus));
    };
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a time");
    let (since, first) = (Instant::now(), now.as_secs() << 24);
    let mut seed = first;
    while since.elapsed() < Duration::from_secs(seconds) {
        try_out(seed, &corpus);
        seed += 1;
    }
    eprintln!("{} tried", seed - first);
}
