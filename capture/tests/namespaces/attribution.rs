//! From a connection to the program that opened it.

use crate::Case;
use crate::lab::{Helper, Puppet, hand_over, sh};

pub(crate) const CASES: &[Case] = &[
    ("owner_and_process", owner_and_process),
    (
        "captured_connections_are_attributed",
        captured_connections_are_attributed,
    ),
    ("a_binary_that_was_replaced", a_binary_that_was_replaced),
    ("a_path_of_another_namespace", a_path_of_another_namespace),
];

const USER: u32 = 1000;
const OTHER: u32 = 1001;

fn exe() -> String {
    std::env::current_exe().unwrap().display().to_string()
}

fn owner_and_process() {
    let mut server = Puppet::of_user(OTHER);
    server.expect("listen 127.0.0.1:7001 [::1]:7001 [::]:7002", "ok");
    let mut program = Puppet::of_user(USER);
    let mut asker = Puppet::of_user(USER);
    let mut stranger = Puppet::of_user(OTHER);
    for to in ["127.0.0.1:7001", "[::1]:7001"] {
        let from = program.expect(&format!("connect {to}"), "ok");
        let expected = format!("{USER} {} {}", program.pid(), exe());
        // Twice: found anew, and remembered.
        for _ in 0..2 {
            assert_eq!(asker.ask(&format!("owner {from} {to}")), expected);
        }
        // The other end of it is another socket, of another user: that user alone may look into it.
        assert_eq!(asker.ask(&format!("owner {to} {from}")), "none");
        server.expect(
            "accept 0",
            if to.starts_with('[') {
                "WouldBlock"
            } else {
                "ok"
            },
        );
        assert_eq!(
            stranger.ask(&format!("owner {from} {to}")),
            format!("{USER} unknown")
        );
    }
    // An IPv6 socket that speaks IPv4.
    let from = program
        .expect("connect [::ffff:127.0.0.1]:7001", "ok")
        .replace("::ffff:", "");
    let from = from.replace(['[', ']'], "");
    let owner = asker.ask(&format!("owner {from} 127.0.0.1:7001"));
    assert_eq!(owner, format!("{USER} {} {}", program.pid(), exe()));
    // A listener that would take such a connection is not its owner, and neither is a dead program.
    assert_eq!(asker.ask("owner 127.0.0.1:7001 127.0.0.1:9"), "none");
    assert_eq!(asker.ask("owner 127.0.0.1:9 127.0.0.1:7001"), "none");
    program.kill();
    assert_eq!(asker.ask(&format!("owner {from} 127.0.0.1:7001")), "none");
    println!("µs for owner, process: {}", bench(&mut asker));
}

fn bench(asker: &mut Puppet) -> String {
    let from = asker.expect("connect 127.0.0.1:7001", "ok");
    asker.ask(&format!("bench {from} 127.0.0.1:7001"))
}

fn captured_connections_are_attributed() {
    let _helper = Helper::start(&[]);
    let mut broker = Puppet::broker(USER, &hand_over(&["10.0.0.0/8", "fd00::/8"], "block"));
    let mut program = Puppet::of_user(USER);
    for (to, listener) in [("10.1.2.3:443", "0"), ("[fd00::1]:443", "1")] {
        program.expect(&format!("connect {to}"), "ok");
        let accepted = broker.expect(&format!("accept {listener}"), "ok");
        let owner = broker.ask(&format!("owner {accepted}"));
        assert_eq!(owner, format!("{USER} {} {}", program.pid(), exe()));
    }
}

fn a_binary_that_was_replaced() {
    let mut server = Puppet::of_user(USER);
    server.expect("listen 127.0.0.1:7001", "ok");
    sh("mkdir -m 755 /run/bin && cp $(command -v bash) /run/bin/shell && chmod 755 /run/bin/shell");
    // A shell of that user that holds a connection; its own binary is then removed.
    let mut child = std::process::Command::new("setpriv")
        .args([
            "--reuid",
            "1000",
            "--regid",
            "1000",
            "--clear-groups",
            "/run/bin/shell",
            "-c",
        ])
        .arg("exec 3<>/dev/tcp/127.0.0.1/7001; read -r line <&3")
        .spawn()
        .unwrap();
    let accepted = server.expect("accept 0", "ok");
    sh("rm /run/bin/shell");
    let from = accepted.split(' ').next().unwrap().to_owned();
    let owner = server.ask(&format!("owner {from} 127.0.0.1:7001"));
    assert_eq!(owner, format!("{USER} {} /run/bin/shell", child.id()));
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A process that sees something else at its binary's path than we do is not what that path says.
fn a_path_of_another_namespace() {
    let mut server = Puppet::of_user(USER);
    server.expect("listen 127.0.0.1:7001", "ok");
    sh("mkdir -m 755 /run/bin && cp $(command -v sleep) /run/bin/tool && chmod 755 /run/bin/tool");
    let connect = "exec 3<>/dev/tcp/127.0.0.1/7001; read -r line <&3";
    let user = "setpriv --reuid 1000 --regid 1000 --clear-groups";
    for (disguise, after, expected) in [
        (
            "mount --bind $(command -v bash) /run/bin/tool",
            "",
            "unknown",
        ),
        // Removed there: the path alone says nothing then.
        (
            "mount -t tmpfs -o mode=755 tmpfs /run/bin && cp -a $(command -v bash) /run/bin/tool",
            "nsenter --mount=/proc/PID/ns/mnt rm /run/bin/tool",
            "unknown",
        ),
        // A namespace of its own in which the path is what it is here.
        ("true", "", "/run/bin/tool"),
    ] {
        if expected != "unknown" {
            sh("cp $(command -v bash) /run/bin/tool");
        }
        let script = format!("{disguise}; exec {user} /run/bin/tool -c {connect:?}");
        let mut child = std::process::Command::new("unshare")
            .args(["--mount", "sh", "-ec", &script])
            .spawn()
            .unwrap();
        let accepted = server.expect("accept 0", "ok");
        sh(&after.replace("PID", &child.id().to_string()));
        let from = accepted.split(' ').next().unwrap().to_owned();
        let owner = server.ask(&format!("owner {from} 127.0.0.1:7001"));
        assert!(
            owner.ends_with(&format!(" {expected}")),
            "{disguise}: {owner}"
        );
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
