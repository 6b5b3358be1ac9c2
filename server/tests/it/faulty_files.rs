//! Files that the gateway's file names and that cannot be read or understood: who gets in meanwhile, and
//! that whoever looks after the gateway is told in time.
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::answers::{hash, secrets, try_with};
use crate::destinations::echo;
use crate::flows::Broker;
use crate::sessions::{ask, echoes, extra, sessions};
use crate::site::{Site, output};

const POLICY: &str = r#"[{name: loopback, users: [alice], allow: ["127.0.0.1:*"]}]"#;
const IN: &str = "subsystem request failed";
const OUT: &str = "Permission denied";

/// Breaks one file.
struct Break {
    what: fn(&Site),
    says: &'static str,
}

fn chmod(site: &Site, name: &str, mode: u32) {
    fs::set_permissions(site.path(name), fs::Permissions::from_mode(mode)).expect("chmod");
}

/// Each of the files that are read at a login, made useless.
const BREAKS: [Break; 10] = [
    Break {
        what: |site| drop(fs::remove_file(site.path("revoked"))),
        says: "what is revoked cannot be read, so nobody gets in",
    },
    Break {
        what: |site| drop(site.write("revoked", "serial: 7\n")),
        says: "what is revoked cannot be understood, so nobody gets in",
    },
    Break {
        what: |site| drop(fs::remove_file(site.path("ca.pub"))),
        says: "nobody's certificates are accepted",
    },
    Break {
        what: |site| drop(site.write("ca.pub", "# mine\nssh-ed25519 nonsense\n")),
        says: "ca.pub: line 2 is no public key",
    },
    Break {
        what: |site| fs::rename(site.path("audits"), site.path("moved")).expect("rename"),
        says: "audit.json: No such file or directory",
    },
    Break {
        what: |site| chmod(site, "host", 0o644),
        says: "can be read by others",
    },
    Break {
        what: |site| chmod(site, "passwords", 0o644),
        says: "nobody gets in by what this file should have",
    },
    Break {
        what: |site| drop(secrets(site, "passwords", &[("alice", ""), ("alice", "x")])),
        says: "line 2 is a second one for \"alice\"",
    },
    Break {
        what: |site| drop(secrets(site, "totp", &[("alice", "nonsense")])),
        says: "line 1, of \"alice\"",
    },
    Break {
        what: |site| fs::rename(site.path("keys"), site.path("elsewhere")).expect("rename"),
        says: "nobody's keys are used",
    },
];

/// All of them, as they should be; and what the gateway's file says of them.
fn files(site: &Site) -> String {
    let hash = hash("open sesame");
    let passwords = secrets(site, "passwords", &[("alice", &hash)]);
    let totp = secrets(site, "totp", &[("alice", crate::answers::SECRET)]);
    site.keygen("ca", "");
    fs::create_dir(site.path("audits")).expect("directory");
    let audit = site.path("audits/audit.json");
    let (ca, revoked) = (site.path("ca.pub"), site.write("revoked", ""));
    format!(
        "{passwords}{totp}user_ca: [{}]\nrevoked_keys: [{}]\n\
         methods: [publickey, \"password,totp\"]\naudit: {}\n{}",
        ca.display(),
        revoked.display(),
        audit.display(),
        extra(site)
    )
}

fn checked(config: &Path) -> Output {
    let mut check = Command::new(env!("CARGO_BIN_EXE_adit-server"));
    check.arg("--config").arg(config).arg("--check");
    output(check)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_check_reads_the_files_that_are_named_as_well() {
    for Break { what, says } in BREAKS {
        let site = Site::new();
        let config = site.config(POLICY, &files(&site));
        let good = checked(&config);
        assert!(good.status.success(), "{}", stderr(&good));
        what(&site);
        let bad = checked(&config);
        assert_eq!(bad.status.code(), Some(2), "{says}: {}", stderr(&bad));
        assert!(stderr(&bad).contains(says), "{says}: {}", stderr(&bad));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_with_a_file_that_cannot_be_used_changes_nothing_and_says_why() {
    for Break { what, says } in BREAKS {
        let site = Site::new();
        let extra = files(&site);
        let gateway = site.start(POLICY, &extra);
        let broker = Broker::connect(&site, gateway.address).await;
        let at = echo().await;
        let mut program = broker.flow(at).await;
        what(&site);
        site.config("[]", &extra);
        let reload = tokio::task::block_in_place(|| ask(&site, &["reload"]));
        assert_eq!(reload.status.code(), Some(1), "{says}: {reload:?}");
        assert!(
            stderr(&reload).contains(says),
            "{says}: {}",
            stderr(&reload)
        );
        echoes(&mut program).await;
        assert_eq!(sessions(&site).await.len(), 1, "{says}");
        // Under the old policy.
        drop(broker.flow(at).await);
    }
}

#[test]
fn who_has_no_key_does_not_get_in_either_where_it_cannot_be_told_what_is_revoked() {
    let site = Site::new();
    let passwords = secrets(&site, "passwords", &[("alice", &hash("open sesame"))]);
    let revoked = site.path("revoked");
    let extra = format!(
        "{passwords}methods: [password]\nrevoked_keys: [{}]",
        revoked.display()
    );
    let gateway = site.start(POLICY, &extra);
    // Said as soon as it starts.
    gateway.wait_log(|line| {
        let fault = line["fault"].as_str().unwrap_or_default();
        line["level"] == "ERROR" && fault.contains("what is revoked cannot be read")
    });
    let tries = || try_with(&site, &gateway, ("alice", "alice"), &["open sesame"]);
    tries().check(OUT);
    gateway.wait_log(|line| {
        let why = line["why"].as_str().unwrap_or_default();
        line["event"] == "login_refused" && why.contains("so nobody gets in")
    });
    site.write("revoked", "no key\n");
    tries().check(OUT);
    site.write("revoked", "");
    tries().check(IN);
}
