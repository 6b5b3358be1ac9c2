use std::fs;
use std::path::Path;
use std::process::Command;

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;

/// Seconds by `date -u -d … +%s`: the time of all attempts here, within what is signed.
const NOW: i64 = 1_767_312_000;
const VALID: &[&str] = &["-V", "20260101000000Z:20260103000000Z"];

/// Keys made by `ssh-keygen`.
struct Authority {
    directory: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("directory");
        keygen(directory.path(), &["-t", "ed25519", "-N", "", "-f", "ca"]);
        keygen(directory.path(), &["-t", "ed25519", "-N", "", "-f", "key"]);
        Self { directory }
    }

    /// What `ssh-keygen -s` makes with these arguments.
    fn sign(&self, arguments: &[&str]) -> Certificate {
        let mut all = vec!["-s", "ca", "-I", "alice's laptop"];
        all.extend(arguments);
        all.push("key.pub");
        keygen(self.directory.path(), &all);
        let made = fs::read_to_string(self.directory.path().join("key-cert.pub"));
        Certificate::from_openssh(&made.expect("read")).expect("certificate")
    }
}

fn keygen(directory: &Path, arguments: &[&str]) {
    let mut command = Command::new("ssh-keygen");
    let output = command
        .arg("-q")
        .args(arguments)
        .current_dir(directory)
        .output();
    let output = output.expect("ssh-keygen runs");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

fn attempt(from: &str, seconds: i64) -> Attempt {
    Attempt {
        from: from.parse().expect("address"),
        now: Timestamp::from_second(seconds).expect("time"),
    }
}

fn judge_now(certificate: &Certificate) -> Result<Permissions, BadCertificate> {
    judge(certificate, &["alice"], attempt("192.0.2.1", NOW))
}

#[test]
fn a_certificate_is_for_those_it_names() {
    let authority = Authority::new();
    let sign = |principals| authority.sign(&[&["-n", principals], VALID].concat());
    assert!(judge_now(&sign("bob,alice")).is_ok_and(|left| left.forwarding));
    let other = BadCertificate::OtherPrincipal("alice".to_owned());
    assert_eq!(judge_now(&sign("bob,alice2")), Err(other));
    let dba = judge(&sign("dba"), &["ops", "dba"], attempt("192.0.2.1", NOW));
    assert!(dba.is_ok());
    let nobody = authority.sign(VALID);
    assert_eq!(judge_now(&nobody), Err(BadCertificate::Principals));
    let host = authority.sign(&[&["-h", "-n", "alice"], VALID].concat());
    assert_eq!(judge_now(&host), Err(BadCertificate::Host));
}

#[test]
fn a_certificate_is_good_within_its_time() {
    let authority = Authority::new();
    let certificate = authority.sign(&[&["-n", "alice"], VALID].concat());
    let day = 24 * 3600;
    // PROTOCOL.certkeys: valid after <= current time < valid before.
    for (seconds, good) in [
        (NOW - day - 1, false),
        (NOW - day, true),
        (NOW + day - 1, true),
        (NOW + day, false),
    ] {
        let judged = judge(&certificate, &["alice"], attempt("192.0.2.1", seconds));
        assert_eq!(judged.is_ok(), good, "{seconds}: {judged:?}");
    }
    let forever = authority.sign(&["-n", "alice", "-V", "always:forever"]);
    assert!(judge_now(&forever).is_ok());
}

#[test]
fn critical_options_are_kept_or_the_certificate_is_not_good() {
    let authority = Authority::new();
    let sign = |options: &[&str]| authority.sign(&[&["-n", "alice"], VALID, options].concat());
    let sources = sign(&["-O", "source-address=10.0.0.0/8,192.0.2.1"]);
    assert!(judge_now(&sources).is_ok());
    let elsewhere = judge(&sources, &["alice"], attempt("192.0.2.2", NOW));
    assert_eq!(elsewhere, Err(BadCertificate::Source));
    let command = sign(&["-O", "force-command=/bin/true"]);
    assert_eq!(judge_now(&command), Err(BadCertificate::Command));
    let unknown = sign(&["-O", "critical:two-people@adit.example=yes"]);
    let name = "two-people@adit.example".to_owned();
    assert_eq!(judge_now(&unknown), Err(BadCertificate::Critical(name)));
    let touch = sign(&["-O", "verify-required"]);
    assert!(judge_now(&touch).is_err());
    // Extensions are none of these.
    let clear = sign(&["-O", "clear", "-O", "extension:color@adit.example=blue"]);
    assert!(judge_now(&clear).is_ok_and(|left| !left.forwarding));
}

#[test]
fn the_signature_and_who_made_it_have_to_be_strong() {
    let authority = Authority::new();
    let certificate = authority.sign(&[&["-n", "alice"], VALID].concat());
    let mut bytes = certificate.to_bytes().expect("bytes");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let forged = Certificate::from_bytes(&bytes).expect("well-formed");
    assert_eq!(judge_now(&forged), Err(BadCertificate::Invalid));

    let directory = authority.directory.path();
    for name in ["ca", "ca.pub"] {
        fs::remove_file(directory.join(name)).expect("remove");
    }
    keygen(
        directory,
        &["-t", "rsa", "-b", "2048", "-N", "", "-f", "ca"],
    );
    let sign = |with: &[&str]| authority.sign(&[&["-n", "alice"], VALID, with].concat());
    assert!(judge_now(&sign(&["-t", "rsa-sha2-256"])).is_ok());
    assert_eq!(
        judge_now(&sign(&["-t", "ssh-rsa"])),
        Err(BadCertificate::Sha1)
    );
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        // Made with `ssh-keygen -s`.
        let good = Certificate::from_openssh(CERTIFICATE).expect("certificate");
        let mut bytes = good.to_bytes().expect("bytes");
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(changed) = Certificate::from_bytes(&bytes) {
            // Whatever was changed, the signature is none any more; a byte can have got its own value.
            let judged = judge(&changed, &["alice"], attempt("10.0.0.1", NOW));
            let same = bytes == good.to_bytes().expect("bytes");
            prop_assert!(judged.is_err() != same);
        }
    }
}

/// `ssh-keygen -s ca -I "alice laptop" -n alice,dba -z 7 -V 20260101000000Z:20260103000000Z -O
/// source-address=10.0.0.0/8,192.0.2.1 u.pub`
const CERTIFICATE: &str = "ssh-ed25519-cert-v01@openssh.com AAAAIHNzaC1lZDI1NTE5LWNlcnQtdjAxQG9wZW5zc2guY29tAAAAICNz4dps6pbAduTaWk72TysYiM1KVtjxBSRP0/EefDkfAAAAIAIXc2XgNVYXeE57n2nlFBW2lKgNVq7Bqt+dqeSiIIRtAAAAAAAAAAcAAAABAAAADGFsaWNlIGxhcHRvcAAAABAAAAAFYWxpY2UAAAADZGJhAAAAAGlVuQAAAAAAaVhcAAAAAC4AAAAOc291cmNlLWFkZHJlc3MAAAAYAAAAFDEwLjAuMC4wLzgsMTkyLjAuMi4xAAAAggAAABVwZXJtaXQtWDExLWZvcndhcmRpbmcAAAAAAAAAF3Blcm1pdC1hZ2VudC1mb3J3YXJkaW5nAAAAAAAAABZwZXJtaXQtcG9ydC1mb3J3YXJkaW5nAAAAAAAAAApwZXJtaXQtcHR5AAAAAAAAAA5wZXJtaXQtdXNlci1yYwAAAAAAAAAAAAAAMwAAAAtzc2gtZWQyNTUxOQAAACAQczoOa+CYNlQe+3JviRjer1YB39a8qL0hIvU7GqA+GwAAAFMAAAALc3NoLWVkMjU1MTkAAABAzooRBU5/woMuM0kGJzSoGHWWaieRU9aEO0Zv224qcnnzX0DHAA0Fdx8eXAcfHlOSn9FMxlNZ+Vo2wvbtUTu3AQ== u";
