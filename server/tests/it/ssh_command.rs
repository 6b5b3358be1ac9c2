//! What the system's own `ssh` gets from a gateway.
use crate::site::{PATIENCE, Site, output};

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
        &format!("command=\"true\" {}", site.public_key("alice")),
    );
    site.authorize("carol", &site.public_key("mallory"));
    let policy = r#"[{name: loopback, users: [alice, bob, carol], allow: ["127.0.0.1:*"]}]"#;
    let gateway = site.start(policy, "");
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
fn a_file_of_keys_alone_makes_no_user() {
    let site = Site::new();
    for user in ["alice.bak", "dora"] {
        site.authorize(user, &site.public_key("alice"));
    }
    let gateway = site.start(POLICY, "groups: {staff: [dora]}");
    let check = |user, words| check(&site, &gateway, user, "alice", &["-s", "sftp"], words);
    check("alice.bak", "Permission denied (publickey)");
    // She may reach nothing yet, but is a user.
    check("dora", "subsystem request failed");
    gateway.wait_log(|line| {
        line["user"] == "alice.bak"
            && line["why"] == "a user that no entry or group of the policy names"
    });
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
    check(&["-W", "127.0.0.2:22"], "administratively prohibited");
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

#[test]
fn a_stranger_cannot_go_on_asking_which_keys_are_known() {
    let site = Site::new();
    let mut lines = String::new();
    let mut ssh_arguments = Vec::new();
    for number in 0..34 {
        let name = format!("known{number}");
        // Its secret half needs words that nobody gives: ssh only asks.
        site.keygen(&name, "secret words");
        lines += &site.public_key(&name);
        ssh_arguments.extend(["-i".to_owned(), site.path(&name).display().to_string()]);
    }
    site.authorize("alice", &lines);
    let gateway = site.start(POLICY, "");
    let mut ssh = site.ssh(gateway.address, "alice", "known0");
    ssh.args(&ssh_arguments);
    assert!(!output(ssh).status.success());
    gateway.wait_log(|line| line["error"] == "the client offered more than 32 keys or answers");
}

#[test]
fn what_strangers_do_fills_no_log_and_a_long_name_no_line() {
    let site = Site::new();
    let gateway = site.start(POLICY, "");
    let name = "x".repeat(300);
    check(&site, &gateway, &name, "alice", &[], "Permission denied");
    let cut = "x".repeat(64);
    gateway.wait_log(|line| line["message"] == "login refused" && line["user"] == cut.as_str());
    let connect = || std::net::TcpStream::connect(gateway.address).expect("connect");
    for _ in 0..200 {
        std::io::Write::write_all(&mut connect(), b"not ssh\r\n\r\n").expect("write");
    }
    let ended = |line: &serde_json::Value| line["message"] == "connection ended";
    // Once the second of the flood is over, a line is written again and says what is missing.
    let counted = |line: &serde_json::Value| ended(line) && line["left_out"].is_u64();
    let since = std::time::Instant::now();
    while !gateway.log_lines().iter().any(counted) {
        assert!(since.elapsed() < PATIENCE, "{:#?}", gateway.log_lines());
        drop(connect());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let said = gateway
        .log_lines()
        .iter()
        .filter(|line| ended(line))
        .count();
    assert!(said < 100, "{said} lines");
}
