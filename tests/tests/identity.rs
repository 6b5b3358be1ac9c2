//! Who is let in with what, and whose connections `adit up` takes.

use std::time::Duration;

use adit_tests::{Gateway, Lab, Process, User, address, as_before, kernel_state, service};
use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

const PATIENCE: Duration = Duration::from_secs(15);
const AGENT: &str = "/run/lab/home/adit-alice/agent.sock";

fn ends_cleanly(lab: &Lab, mut up: Process, before: &str) -> Result<()> {
    up.signal(Signal::SIGINT)?;
    let status = up.end(PATIENCE)?;
    ensure!(status.success(), "it ended with {status}: {}", up.tale());
    as_before(lab, before)?;
    Ok(())
}

fn server_sees(lab: &Lab, user: User) -> Result<String> {
    let url = format!("http://{}/whoami", address::SERVER);
    let seen = lab.client().user(user).argv(&["curl", "-sS", &url])?;
    Ok(seen.ok()?.trim().to_owned())
}

/// An agent holds the only copy of the key. sudo hides where the agent is.
#[test]
fn the_callers_agent_is_found_behind_sudo() -> Result<()> {
    let lab = Lab::new()?;
    let before = kernel_state(&lab)?;
    let _web = service::web(&lab)?;
    let _gateway = Gateway::start(&lab)?;
    let alice = lab.client();
    let _agent = alice.start("agent", &["ssh-agent", "-D", "-a", AGENT])?;
    adit_tests::until("the agent", PATIENCE, || Ok(lab.outside(AGENT).exists()))?;
    let key = format!("{}/.ssh/id_ed25519", User::Alice.home());
    let shell = lab.client().env("SSH_AUTH_SOCK", AGENT);
    shell.sh(&format!("ssh-add -q {key} && rm {key}"))?.ok()?;
    let line = format!(
        "exec sudo adit up {} {}",
        Gateway::for_user(User::Alice),
        address::ZONE
    );
    let mut up = shell.start("up", &["sh", "-c", &line])?;
    up.line_with("now go through", PATIENCE)?;
    ensure!(server_sees(&lab, User::Alice)? == address::GATEWAY_INSIDE);
    let flows = lab.client().sh("adit flows")?.ok()?;
    let to = format!("{}:80", address::SERVER);
    ensure!(flows.contains(&to), "the usual control socket: {flows}");
    lab.client().sh("adit down")?.ok()?;
    let status = up.end(PATIENCE)?;
    ensure!(status.success(), "it ended with {status}: {}", up.tale());
    as_before(&lab, &before)?;
    Ok(())
}

/// Starts `adit up` as root with these words behind the gateway and the zone.
fn up_as_root(lab: &Lab, words: &[&str]) -> Result<Process> {
    let gateway = Gateway::for_user(User::Alice);
    let home = User::Alice.home();
    let (identity, known) = (
        format!("{home}/.ssh/id_ed25519"),
        format!("{home}/.ssh/known_hosts"),
    );
    let start = [
        "adit",
        "up",
        &gateway,
        address::ZONE,
        "--identity",
        &identity,
    ];
    let argv = [&start[..], &["--known-hosts", &known], words].concat();
    lab.client().user(User::Root).start("up", &argv)
}

#[test]
fn as_names_whose_connections_are_taken() -> Result<()> {
    let lab = Lab::new()?;
    let before = kernel_state(&lab)?;
    let _web = service::web(&lab)?;
    let _gateway = Gateway::start(&lab)?;
    for (name, taken, free) in [
        ("adit-alice", User::Alice, User::Root),
        ("root", User::Root, User::Alice),
    ] {
        let mut up = up_as_root(&lab, &["--as", name])?;
        up.line_with(&format!("connections of {name} to"), PATIENCE)?;
        ensure!(server_sees(&lab, taken)? == address::GATEWAY_INSIDE);
        ensure!(server_sees(&lab, free).is_err(), "{free:?} was taken too");
        ends_cleanly(&lab, up, &before)?;
    }
    Ok(())
}

/// Ends with 1, says why, and nothing is left.
fn check_not_let_in(lab: &Lab, key: &str, why: &str) -> Result<()> {
    let before = kernel_state(lab)?;
    let mut up = up_as_root(lab, &["--as", "adit-alice"])?;
    let status = up.end(PATIENCE)?;
    ensure!(status.code() == Some(1), "{key}: it ended with {status}");
    let told = up.stderr();
    ensure!(told.contains(why), "{key}: it says {told}");
    as_before(lab, &before)?;
    Ok(())
}

#[test]
fn a_key_that_does_not_fit_or_cannot_be_read_is_told() -> Result<()> {
    let lab = Lab::new()?;
    let _gateway = Gateway::start(&lab)?;
    let key = format!("{}/.ssh/id_ed25519", User::Alice.home());
    let make = |how: &str| {
        let line = format!("rm -f {key} {key}.pub; ssh-keygen -q -t ed25519 {how} -f {key}");
        lab.client().sh(&line)?.ok()
    };
    make("-N ''")?;
    check_not_let_in(&lab, "a stranger's", "the gateway refused user adit-alice")?;
    make("-N 'a passphrase'")?;
    check_not_let_in(&lab, "one with a passphrase", "ssh-add")?;
    lab.client().sh(&format!("rm {key}"))?.ok()?;
    check_not_let_in(&lab, "none", "cannot use the key")?;
    Ok(())
}
