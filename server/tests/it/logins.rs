//! Who gets in: options of keys, certificates, and what is revoked. Everything is made by `ssh-keygen`
//! and shown by `ssh`.
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use adit_link::RefusalReason;

use crate::destinations::echo;
use crate::flows::Broker;
use crate::site::{Running, Site, output};

const POLICY: &str = r#"[{name: loopback, users: [alice, bob], allow: ["127.0.0.1:*"]}]"#;
const IN: &str = "subsystem request failed";
const OUT: &str = "Permission denied (publickey)";

/// Asks for a subsystem that is not there: how far that gets says who gets in.
fn check(site: &Site, gateway: &Running, user: &str, certificate: Option<&str>, words: &str) {
    let mut ssh = site.ssh(gateway.address, user, "alice");
    if let Some(name) = certificate {
        let file = site.path(name);
        ssh.arg("-o")
            .arg(format!("CertificateFile={}", file.display()));
    }
    let output = output({
        ssh.args(["-s", "sftp"]);
        ssh
    });
    let stderr = String::from_utf8_lossy(&output.stderr);
    let log = gateway.log_lines();
    assert!(
        stderr.contains(words),
        "{user} {certificate:?}: {stderr}\n{log:#?}"
    );
}

pub(crate) fn keygen(site: &Site, arguments: &[&str]) {
    let mut keygen = Command::new("ssh-keygen");
    keygen.arg("-q").args(arguments).current_dir(site.path(""));
    let output = output(keygen);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

/// Signs alice's key with these arguments; the certificate gets this name.
pub(crate) fn sign(site: &Site, name: &str, arguments: &[&str]) {
    keygen(
        site,
        &[&["-s", "ca", "-I", name], arguments, &["alice.pub"]].concat(),
    );
    fs::rename(site.path("alice-cert.pub"), site.path(name)).expect("rename");
}

#[test]
fn options_of_a_key_are_kept() {
    let site = Site::new();
    let gateway = site.start(POLICY, "");
    let key = site.public_key("alice");
    for (options, words) in [
        ("restrict", IN),
        ("from=\"127.0.0.0/8\"", IN),
        ("from=\"!127.0.0.1,127.*\"", OUT),
        ("from=\"192.0.2.1\"", OUT),
        ("from=\"localhost\"", OUT),
        ("expiry-time=\"20991231Z\"", IN),
        ("expiry-time=\"20200101\"", OUT),
        ("command=\"/bin/true\"", OUT),
        ("restrict,tunnel=\"0\"", OUT),
        ("cert-authority", OUT),
        ("pty,permitopen=\"127.0.0.1:22\"", IN),
    ] {
        site.authorize("alice", &format!("{options} {key}"));
        check(&site, &gateway, "alice", None, words);
    }
    gateway.wait_log(|line| {
        line["why"]
            .as_str()
            .is_some_and(|why| why.contains("\"command\""))
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn permitopen_narrows_what_the_policy_allows_also_on_a_link() {
    let site = Site::new();
    let (permitted, other) = (echo().await, echo().await);
    let key = site.public_key("alice");
    site.authorize(
        "alice",
        &format!("permitopen=\"{permitted}\",permitopen=\"192.0.2.1:80\" {key}"),
    );
    let gateway = site.start(POLICY, "");
    let broker = Broker::connect(&site, gateway.address).await;
    broker.flow(permitted).await;
    let refusal = broker.refusal("127.0.0.1", other.port()).await;
    assert_eq!(refusal.reason, RefusalReason::Denied, "{refusal}");
    assert!(refusal.detail.contains("does not permit"), "{refusal}");
    // The policy has its say all the same.
    let refusal = broker.refusal("192.0.2.1", 80).await;
    assert!(refusal.detail.contains("no entry"), "{refusal}");
    let asked = other.to_string();
    gateway.wait_log(|line| line["event"] == "refuse" && line["asked"] == asked.as_str());
}

#[test]
fn certificates_log_in_whom_they_name() {
    let site = Site::new();
    site.keygen("ca", "");
    site.keygen("other", "");
    sign(&site, "good", &["-n", "alice", "-V", "-1h:+1h", "-z", "7"]);
    sign(&site, "bobs", &["-n", "bob"]);
    sign(&site, "nobodys", &[]);
    sign(&site, "a-hosts", &["-h", "-n", "alice"]);
    sign(&site, "old", &["-n", "alice", "-V", "-2h:-1h"]);
    sign(&site, "to-come", &["-n", "alice", "-V", "+1h:+2h"]);
    sign(
        &site,
        "here",
        &["-n", "alice", "-O", "source-address=127.0.0.1"],
    );
    sign(
        &site,
        "elsewhere",
        &["-n", "alice", "-O", "source-address=192.0.2.0/24"],
    );
    sign(
        &site,
        "command",
        &["-n", "alice", "-O", "force-command=/bin/true"],
    );
    sign(
        &site,
        "unknown",
        &["-n", "alice", "-O", "critical:odd@adit.example=1"],
    );
    keygen(
        &site,
        &["-s", "other", "-I", "others", "-n", "alice", "alice.pub"],
    );
    fs::rename(site.path("alice-cert.pub"), site.path("others")).expect("rename");
    fs::remove_file(site.path("keys/alice")).expect("remove");
    let extra = format!("user_ca: [{}]", site.path("ca.pub").display());
    let gateway = site.start(POLICY, &extra);
    let check = |user, name, words| check(&site, &gateway, user, Some(name), words);
    check("alice", "good", IN);
    let line = gateway.wait_log(|line| line["message"] == "logged in");
    let certificate = line["certificate"].as_str().expect("certificate");
    assert!(
        certificate.starts_with("ID \"good\" serial 7 CA SHA256:"),
        "{line}"
    );
    check("bob", "bobs", IN);
    check("alice", "here", IN);
    check("alice", "bobs", OUT);
    check("bob", "good", OUT);
    check("mallory", "good", OUT);
    for name in [
        "nobodys",
        "a-hosts",
        "old",
        "to-come",
        "elsewhere",
        "command",
        "unknown",
        "others",
    ] {
        check("alice", name, OUT);
    }
    // The file is asked each time, and an authority that others could replace is none.
    fs::set_permissions(site.path("ca.pub"), fs::Permissions::from_mode(0o666)).expect("chmod");
    check("alice", "good", OUT);
}

#[test]
fn an_authority_can_be_one_users() {
    let site = Site::new();
    site.keygen("ca", "");
    sign(&site, "alices", &["-n", "alice"]);
    sign(&site, "operators", &["-n", "dba,ops"]);
    let authority = site.public_key("ca");
    site.authorize("alice", &format!("cert-authority {authority}"));
    site.authorize(
        "bob",
        &format!("cert-authority,principals=\"web,ops\",from=\"127.0.0.1\" {authority}"),
    );
    let gateway = site.start(POLICY, "");
    let check = |user, name, words| check(&site, &gateway, user, Some(name), words);
    check("alice", "alices", IN);
    check("alice", "operators", OUT);
    check("bob", "operators", IN);
    check("bob", "alices", OUT);
    site.authorize(
        "bob",
        &format!("cert-authority,principals=\"ops\",from=\"192.0.2.1\" {authority}"),
    );
    check("bob", "operators", OUT);
    // Its own key is no one's.
    fs::copy(site.path("ca"), site.path("alice")).expect("copy");
    fs::copy(site.path("ca.pub"), site.path("alice.pub")).expect("copy");
    super::logins::check(&site, &gateway, "alice", None, OUT);
}

#[test]
fn what_is_revoked_gets_nobody_in() {
    let site = Site::new();
    site.keygen("ca", "");
    sign(&site, "one", &["-n", "alice", "-z", "1"]);
    sign(&site, "two", &["-n", "alice", "-z", "2"]);
    site.authorize("bob", &site.public_key("alice"));
    fs::remove_file(site.path("keys/alice")).expect("remove");
    let (ca, revoked) = (site.path("ca.pub"), site.path("revoked"));
    let extra = format!(
        "user_ca: [{}]\nrevoked_keys: [{}]",
        ca.display(),
        revoked.display()
    );
    let gateway = site.start(POLICY, &extra);
    let check = |user, name, words| check(&site, &gateway, user, name, words);
    // It is not there: nobody gets in.
    check("alice", Some("one"), OUT);
    check("bob", None, OUT);
    gateway.wait_log(|line| {
        line["why"]
            .as_str()
            .is_some_and(|why| why.contains("nobody gets in"))
    });
    site.write("revoked", "");
    check("alice", Some("one"), IN);
    check("bob", None, IN);
    // A list of OpenSSH's: one certificate.
    site.write("specification", "serial: 1\n");
    keygen(
        &site,
        &["-k", "-f", "revoked", "-s", "ca.pub", "specification"],
    );
    check("alice", Some("one"), OUT);
    check("alice", Some("two"), IN);
    check("bob", None, IN);
    // The authority, and with it all it signed.
    fs::remove_file(site.path("revoked")).expect("remove");
    keygen(&site, &["-k", "-f", "revoked", "ca.pub"]);
    check("alice", Some("two"), OUT);
    check("bob", None, IN);
    // The key itself, as plain text.
    site.write("revoked", &site.public_key("alice"));
    check("alice", Some("two"), OUT);
    check("bob", None, OUT);
    site.write("revoked", "SSHKRL\n\0 that is none");
    check("bob", None, OUT);
}
