use super::*;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use adit_rules::{Gateway, HostKeys};

use crate::gateway::Questions;
use crate::gateway::connection::client_config;
use crate::gateway::host_key::HostKeyCheck;

/// What sshd shows: its key, or that key in a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Key,
    /// For gw.example, by the authority.
    Certificate,
    /// The same, made with these words for ssh-keygen in the place of its principal and time.
    Odd(&'static str),
}
use Shown::{Certificate as Cert, Key as Plain, Odd};

/// Lines with `HOST`, `OTHER`, `CA` and `OTHERCA` for keys; whom ssh asks for; what it is shown.
#[rustfmt::skip]
const TABLE: &[(&str, &str, u16, Shown)] = &[
    ("", "gw.example", 22, Plain),
    ("# gw.example HOST", "gw.example", 22, Plain),
    ("gw.example HOST", "gw.example", 22, Plain),
    ("gw.example HOST a comment", "GW.Example", 22, Plain),
    ("GW.EXAMPLE HOST", "gw.example", 22, Plain),
    ("  gw.example\tHOST", "gw.example", 22, Plain),
    ("gw2.example,gw.example HOST", "gw.example", 22, Plain),
    ("gw2.example, gw.example HOST", "gw.example", 22, Plain),
    ("gw2.example HOST", "gw.example", 22, Plain),
    ("gw.example OTHER", "gw.example", 22, Plain),
    ("gw.example OTHER\ngw.example HOST", "gw.example", 22, Plain),
    ("gw.example OTHER\n*.example HOST", "gw.example", 22, Plain),
    ("192.0.2.1 HOST", "192.0.2.1", 22, Plain),
    ("2001:db8::1 HOST", "2001:db8::1", 22, Plain),
    ("[2001:db8::1]:443 HOST", "2001:db8::1", 443, Plain),
    ("[gw.example]:443 HOST", "gw.example", 443, Plain),
    ("[gw.example]:443 HOST", "gw.example", 22, Plain),
    ("[gw.example]:443 HOST", "gw.example", 444, Plain),
    ("[gw.example]:22 HOST", "gw.example", 22, Plain),
    ("gw.example HOST", "gw.example", 443, Plain),
    ("gw.example HOST\n[gw.example]:443 OTHER", "gw.example", 443, Plain),
    ("gw.example OTHER\n[gw.example]:443 HOST", "gw.example", 443, Plain),
    ("*.corp.example HOST", "a.corp.example", 22, Plain),
    ("*.corp.example HOST", "corp.example", 22, Plain),
    ("*.corp.example,!bad.corp.example HOST", "bad.corp.example", 22, Plain),
    ("!bad.corp.example,*.corp.example HOST", "bad.corp.example", 22, Plain),
    ("!b*d.corp.example,*.corp.example HOST", "good.corp.example", 22, Plain),
    ("!other.example HOST", "gw.example", 22, Plain),
    ("gw?.example HOST", "gw1.example", 22, Plain),
    ("gw?.example HOST", "gw.example", 22, Plain),
    ("[*.example]:443 HOST", "gw.example", 443, Plain),
    ("[*.example]:* HOST", "gw.example", 443, Plain),
    ("* HOST", "gw.example", 443, Plain),
    ("@revoked * HOST\ngw.example HOST", "gw.example", 22, Plain),
    ("gw.example HOST\n@revoked gw.example HOST", "gw.example", 22, Plain),
    ("gw.example HOST\n@revoked gw2.example HOST", "gw.example", 22, Plain),
    ("gw.example HOST\n@revoked * OTHER", "gw.example", 22, Plain),
    ("@revoked gw.example HOST", "gw.example", 22, Plain),
    ("@Revoked gw.example OTHER\ngw.example HOST", "gw.example", 22, Plain),
    ("@own gw.example HOST", "gw.example", 22, Plain),
    ("@revoked @revoked gw.example HOST\ngw.example HOST", "gw.example", 22, Plain),
    ("gw.example ssh-ed25519 AAAA\ngw.example HOST", "gw.example", 22, Plain),
    ("gw.example\ngw.example ssh-ed25519\ngw.example HOST", "gw.example", 22, Plain),
    ("@cert-authority gw.example HOST", "gw.example", 22, Plain),
    ("@cert-authority gw.example CA", "gw.example", 22, Plain),
    ("@cert-authority gw.example CA", "gw.example", 22, Cert),
    ("@cert-authority GW.* CA", "Gw.Example", 22, Cert),
    ("@cert-authority [gw.example]:443 CA", "gw.example", 443, Cert),
    ("@cert-authority gw.example CA", "gw.example", 443, Cert),
    ("@cert-authority gw2.example CA", "gw.example", 22, Cert),
    ("@cert-authority * CA", "gw2.example", 22, Cert),
    ("@cert-authority * OTHERCA", "gw.example", 22, Cert),
    ("@cert-authority * OTHERCA\n@cert-authority * CA", "gw.example", 22, Cert),
    ("@cert-authority * CA\n@revoked * CA", "gw.example", 22, Cert),
    ("@cert-authority * CA\n@revoked gw2.example CA", "gw.example", 22, Cert),
    ("@cert-authority * CA\n@revoked * HOST", "gw.example", 22, Cert),
    ("@cert-authority * CA\n@revoked * OTHERCA", "gw.example", 22, Cert),
    ("gw.example CA", "gw.example", 22, Cert),
    ("gw.example HOST", "gw.example", 22, Cert),
    ("@cert-authority * OTHERCA\ngw.example HOST", "gw.example", 22, Cert),
    ("@cert-authority * CA\ngw.example OTHER", "gw.example", 22, Cert),
    ("@cert-authority * CA", "gw.example", 22, Odd("")),
    ("@cert-authority * CA", "gw.example", 22, Odd("-n gw2.example,gw.example")),
    ("@cert-authority * CA", "gw.example", 22, Odd("-n GW.example")),
    ("@cert-authority * CA", "gw.example", 22, Odd("-n gw.example -V -2d:-1d")),
    ("@cert-authority * CA", "gw.example", 22, Odd("-n gw.example -V +1d:+2d")),
    ("@cert-authority * CA\ngw.example HOST", "gw.example", 22, Odd("-n gw.example -V +1d:+2d")),
    ("@cert-authority * CA", "gw.example", 22, Odd("-n gw.example -V always:forever")),
    ("@cert-authority * CA", "gw.example", 22, Odd("-n gw.example -O critical:place@example.com=zone")),
    ("@cert-authority * CA", "gw.example", 22, Odd("-n gw.example -O extension:place@example.com=zone")),
    ("@cert-authority * CA", "gw.example", 22, Odd("-n gw2.example")),
];

/// Keys by ssh-keygen, and an sshd that talks to whoever starts it.
struct Rig {
    directory: tempfile::TempDir,
}

fn done(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

impl Rig {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let rig = Self { directory };
        for name in ["HOST", "OTHER", "CA", "OTHERCA"] {
            rig.sh(&format!(
                "ssh-keygen -q -t ed25519 -N '' -C {name} -f {name}"
            ));
        }
        rig
    }

    fn sh(&self, line: &str) -> String {
        let mut command = Command::new("sh");
        command.args(["-ec", line]).current_dir(&self.directory);
        done(command.output().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes lines with the names of keys in their places.
    fn known_hosts(&self, lines: &str) -> PathBuf {
        let mut text = String::new();
        for word in lines.split_inclusive([' ', '\n', '\t']) {
            let (name, blank) = match word.char_indices().next_back() {
                Some((end, ' ' | '\n' | '\t')) => word.split_at(end),
                Some(_) | None => (word, ""),
            };
            let key = self.path(&format!("{name}.pub"));
            match std::fs::read_to_string(key) {
                Ok(key) => text.push_str(key.rsplit_once(' ').unwrap().0),
                Err(_) => text.push_str(name),
            }
            text.push_str(blank);
        }
        let file = self.path("known_hosts");
        std::fs::write(&file, text).unwrap();
        file
    }

    /// The line that starts sshd on standard input and output. Root's wants a directory that only a booted system has.
    fn sshd(&self, shown: Shown) -> String {
        let certified = |words: &str| {
            self.sh(&format!("ssh-keygen -q -h -s CA -I gw {words} HOST.pub"));
            format!("HostCertificate {}\n", self.path("HOST-cert.pub").display())
        };
        let more = match shown {
            Plain => String::new(),
            Cert => certified("-n gw.example"),
            Odd(words) => certified(words),
        };
        let host = self.path("HOST");
        let config = format!(
            "HostKey {}\nStrictModes no\nUsePAM no\n{more}",
            host.display()
        );
        let file = self.path("sshd_config");
        std::fs::write(&file, config).unwrap();
        let sshd = format!("/usr/sbin/sshd -i -f {}", file.display());
        if nix::unistd::geteuid().is_root() {
            let prepared = format!("mount -t tmpfs tmpfs /run; mkdir /run/sshd; exec {sshd}");
            return format!("exec unshare --mount sh -ec '{prepared}'");
        }
        format!("exec {sshd}")
    }

    /// Whether ssh goes on to authentication, which fails.
    fn ssh_trusts(&self, known: &Path, host: &str, port: u16, sshd: &str) -> bool {
        let script = self.path("proxy");
        std::fs::write(&script, sshd).unwrap();
        let mut ssh = Command::new("ssh");
        ssh.args([
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            "StrictHostKeyChecking=yes",
        ])
        .args([
            "-o",
            "GlobalKnownHostsFile=none",
            "-o",
            "UpdateHostKeys=no",
            "-o",
            "IdentityFile=none",
        ])
        .args(["-o", &format!("UserKnownHostsFile={}", known.display())])
        .args(["-o", &format!("ProxyCommand=sh {}", script.display())])
        .args(["-p", &port.to_string(), "-l", "nobody", host, "true"]);
        let said = ssh.env_remove("SSH_AUTH_SOCK").output().unwrap();
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        let trusts = said.contains("Permission denied");
        let refuses = said.contains("Host key verification failed");
        assert!(trusts != refuses, "{said}");
        trusts
    }

    /// Whether we do, with the same sshd.
    async fn we_trust(&self, known: &Path, host: &str, port: u16, sshd: &str) -> bool {
        let files = vec![known.to_owned()];
        let known = KnownHost::read(&files, host, port).unwrap();
        let config = Arc::new(client_config(&known));
        let mut child = tokio::process::Command::new("sh")
            .args(["-c", sshd])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let ends = child.stdout.take().zip(child.stdin.take());
        let (output, input) = ends.unwrap();
        let check = HostKeyCheck {
            gateway: Gateway {
                has_port: true,
                user: None,
                host: host.to_owned(),
                port,
            },
            files,
            known,
            unknown_is: HostKeys::Strict,
            questions: Questions::default(),
            announced: None,
            refusals: tokio::sync::mpsc::channel(1).0,
        };
        let socket = tokio::io::join(output, input);
        let connected = russh::client::connect_stream(config, socket, check).await;
        match connected {
            Ok(_) => true,
            Err(super::super::host_key::SessionError::HostKey(_)) => false,
            Err(other) => panic!("{other}"),
        }
    }
}

/// What ssh trusts, we do, and nothing else.
#[tokio::test]
async fn as_ssh_does() {
    let rig = Rig::new();
    let (mut trusted, mut wrong) = (0, Vec::new());
    for (lines, host, port, shown) in TABLE {
        let known = rig.known_hosts(lines);
        let sshd = rig.sshd(*shown);
        let expected = rig.ssh_trusts(&known, host, *port, &sshd);
        trusted += usize::from(expected);
        if rig.we_trust(&known, host, *port, &sshd).await != expected {
            wrong.push((lines, host, port, shown, expected));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(trusted > 20 && TABLE.len() - trusted > 20, "{trusted}");
}

/// The lines that `ssh-keygen -F` finds, hashed or not.
#[test]
fn finds_the_lines_that_ssh_keygen_finds() {
    let rig = Rig::new();
    let mut found = 0;
    // It also finds lines whose key it can't read.
    let readable = TABLE.iter().filter(|row| !row.0.contains("ssh-ed25519"));
    for (lines, host, port, _) in readable {
        let known = rig.known_hosts(lines);
        for hashed in [false, true] {
            if hashed {
                // What it can't hash it leaves as it is, and says so.
                let hash = format!("ssh-keygen -H -f {} 2>&1 || true", known.display());
                rig.sh(&hash);
            }
            let name = lookup_name(host, *port);
            let find = format!("ssh-keygen -F '{name}' -f {} || true", known.display());
            let expected: Vec<usize> = rig
                .sh(&find)
                .lines()
                .filter_map(|line| line.split_once("found: line "))
                .map(|(_, line)| line.split(' ').next().unwrap().parse().unwrap())
                .collect();
            found += expected.len();
            let ours = KnownHost::read(std::slice::from_ref(&known), host, *port).unwrap();
            let ours: Vec<usize> = ours.lines.0.iter().map(|line| line.place.line).collect();
            assert_eq!(ours, expected, "{host}:{port}, hashed: {hashed}, {lines}");
        }
    }
    assert!(found > 80, "{found}");
}

fn verdict(rig: &Rig, lines: &str, shown: &str) -> Verdict {
    let file = rig.known_hosts(lines);
    let known = KnownHost::read(&[file], "gw.example", 22).unwrap();
    let text = std::fs::read_to_string(rig.path(&format!("{shown}.pub"))).unwrap();
    known.judge(&PublicKey::from_openssh(&text).unwrap())
}

#[test]
fn a_changed_or_revoked_key_names_its_line() {
    let rig = Rig::new();
    let at = |line| Place {
        file: rig.path("known_hosts"),
        line,
    };
    let check = |lines: &str, expected: Verdict| {
        assert_eq!(verdict(&rig, lines, "HOST"), expected, "{lines}");
    };
    check("gw2.example HOST", Verdict::Unknown);
    check("\ngw.example OTHER\ngw.example CA", Verdict::Changed(at(2)));
    check("gw.example HOST\n@revoked * HOST", Verdict::Revoked(at(2)));
}

/// One byte of what was signed is another one: the certificate is for gx.example now.
#[test]
fn a_forged_certificate_is_refused() {
    let rig = Rig::new();
    rig.sshd(Cert);
    let text = std::fs::read_to_string(rig.path("HOST-cert.pub")).unwrap();
    let certificate = Certificate::from_openssh(&text).unwrap();
    let mut bytes = certificate.to_bytes().unwrap();
    let name = b"gw.example";
    let at = bytes.windows(name.len()).position(|it| it == name).unwrap();
    bytes[at + 1] = b'x';
    let forged = Certificate::from_bytes(&bytes).unwrap();
    let file = rig.known_hosts("@cert-authority * CA");
    let judge = |certificate: &Certificate, host: &str| {
        let known = KnownHost::read(std::slice::from_ref(&file), host, 22).unwrap();
        known.judge_certificate(certificate, SystemTime::now())
    };
    assert_eq!(judge(&certificate, "gw.example"), Certified::Trusted);
    let faulty = Certified::Faulty(CertificateFault::Signature);
    assert_eq!(judge(&forged, "gx.example"), faulty);
}

/// All files are read, and what the second says counts as much.
#[test]
fn several_files() {
    let rig = Rig::new();
    let text = std::fs::read_to_string(rig.path("HOST.pub")).unwrap();
    let key = PublicKey::from_openssh(&text).unwrap();
    let (first, second) = (rig.path("first"), rig.path("second"));
    std::fs::copy(rig.known_hosts("gw.example HOST"), &first).unwrap();
    std::fs::copy(rig.known_hosts("@revoked * HOST"), &second).unwrap();
    let judge = |files: &[PathBuf]| {
        let known = KnownHost::read(files, "gw.example", 22).unwrap();
        known.judge(&key)
    };
    let missing = rig.path("missing");
    assert_eq!(judge(std::slice::from_ref(&missing)), Verdict::Unknown);
    assert_eq!(judge(&[missing, first.clone()]), Verdict::Known);
    let revoked = Verdict::Revoked(Place {
        file: second.clone(),
        line: 1,
    });
    assert_eq!(judge(&[first, second]), revoked);
}

/// Where ssh notes them, and nowhere else (clientloop.c of OpenSSH).
#[test]
fn other_keys_are_noted_beside_a_plain_one_of_the_first_file() {
    let rig = Rig::new();
    let check = |first: &str, second: &str, expected: bool| {
        let first = rig.known_hosts(first);
        let own = rig.path("first");
        std::fs::rename(first, &own).unwrap();
        let files = [own.clone(), rig.known_hosts(second)];
        let known = KnownHost::read(&files, "gw.example", 443).unwrap();
        let [shown, other] = ["HOST.pub", "OTHER.pub"].map(|it| {
            PublicKey::from_openssh(&std::fs::read_to_string(rig.path(it)).unwrap()).unwrap()
        });
        let noted = known.others_beside(&shown, &own, vec![shown.clone(), other.clone()]);
        let expected = if expected { vec![other] } else { Vec::new() };
        assert_eq!(noted, expected, "{files:?}");
    };
    check("[gw.example]:443 HOST", "", true);
    check("[gw.example]:443,[192.0.2.1]:443 HOST", "", true);
    check("@revoked * CA\n[gw.example]:443 HOST", "", true);
    check("[gw.example]:443 CA", "", false);
    check("gw.example HOST", "", false);
    check("", "[gw.example]:443 HOST", false);
    check("[*.example]:443 HOST", "", false);
    check("[gw.example]:443,a,b HOST", "", false);
    check("@cert-authority * CA\n[gw.example]:443 HOST", "", false);
    check(
        "[gw.example]:443 HOST",
        "@cert-authority gw.example CA",
        false,
    );
    check("[gw.example]:443 HOST\n@revoked * OTHER", "", false);
    check("[gw.example]:443 HOST", "[gw.example]:443 OTHER", false);
}

#[test]
fn a_file_that_is_too_large_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("known_hosts");
    std::fs::File::create(&file)
        .unwrap()
        .set_len(MAX_FILE + 1)
        .unwrap();
    let read = KnownHost::read(&[file], "gw.example", 22);
    assert!(matches!(read, Err(KnownHostsError::TooLarge { .. })));
}

proptest::proptest! {
    /// Whatever stands in the file, a line that is right is found, at its place.
    #[test]
    fn any_file_is_survived(before in "(\\PC{0,60}\n){0,20}") {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
        let text = format!("{before}\ngw.example {key}\n");
        let lines = lines_for(&text, Path::new("f"), "gw.example");
        proptest::prop_assert_eq!(lines.last().map(|line| line.place.line), Some(text.lines().count()));
    }
}
