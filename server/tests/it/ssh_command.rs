//! What the system's own `ssh` gets from a gateway.
use crate::site::{Site, output};

const POLICY: &str = r#"[{name: loopback, users: [alice], allow: ["127.0.0.1:*"]}]"#;

/// Runs `ssh` with these arguments and expects its failure, with these words on stderr.
fn check(
    site: &Site,
    gateway: &crate::site::Running,
    user: &str,
    key: &str,
    arguments: &[&str],
    words: &str,
) {
    let mut ssh = site.ssh(gateway.address, user, key);
    // Options may follow the host.
    ssh.args(arguments);
    let output = output(ssh);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{user} {arguments:?} succeeded");
    assert!(stderr.contains(words), "{user} {arguments:?}: {stderr}");
    assert!(
        output.stdout.is_empty(),
        "{user} {arguments:?}: {:?}",
        output.stdout
    );
}

#[test]
fn only_an_authorized_key_of_that_user_logs_in() {
    let site = Site::new();
    site.authorize(
        "bob",
        &format!("from=\"127.0.0.1\" {}", site.public_key("alice")),
    );
    site.authorize("carol", &site.public_key("mallory"));
    let gateway = site.start(POLICY, "");
    let denied = "Permission denied (publickey)";
    check(
        &site,
        &gateway,
        "alice",
        "mallory",
        &["-s", "adit-link"],
        denied,
    );
    check(
        &site,
        &gateway,
        "nobody",
        "alice",
        &["-s", "adit-link"],
        denied,
    );
    check(
        &site,
        &gateway,
        "../keys/alice",
        "alice",
        &["-s", "adit-link"],
        denied,
    );
    // Options that the server cannot keep make a line useless.
    check(
        &site,
        &gateway,
        "bob",
        "alice",
        &["-s", "adit-link"],
        denied,
    );
    check(
        &site,
        &gateway,
        "carol",
        "alice",
        &["-s", "adit-link"],
        denied,
    );
    check(
        &site,
        &gateway,
        "alice",
        "alice",
        &["-o", "PreferredAuthentications=password", "-s", "adit-link"],
        denied,
    );
    assert!(
        !gateway
            .log_lines()
            .iter()
            .any(|line| line["message"] == "logged in")
    );
}

#[test]
fn a_session_is_for_links_only() {
    let site = Site::new();
    let gateway = site.start(POLICY, "");
    let check =
        |arguments: &[&str], words| check(&site, &gateway, "alice", "alice", arguments, words);
    check(&[], "shell request failed");
    check(&["id"], "exec request failed");
    check(&["-tt"], "PTY allocation request failed");
    check(&["-s", "sftp"], "subsystem request failed");
    check(&["-W", "127.0.0.1:22"], "administratively prohibited");
    check(
        &[
            "-o",
            "ExitOnForwardFailure=yes",
            "-N",
            "-R",
            "0:127.0.0.1:22",
        ],
        "remote port forwarding failed",
    );
    gateway.wait_log(|line| line["message"] == "logged in" && line["user"] == "alice");
}

#[test]
fn a_changed_host_key_is_noticed_by_the_client() {
    let site = Site::new();
    let gateway = site.start(POLICY, "");
    std::fs::copy(site.path("mallory.pub"), site.path("host.pub")).expect("copy");
    check(
        &site,
        &gateway,
        "alice",
        "alice",
        &["-s", "adit-link"],
        "Host key verification failed",
    );
}
