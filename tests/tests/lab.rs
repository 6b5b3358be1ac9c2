//! The lab itself, without Adit: what it promises to the other tests.

use std::fs;
use std::path::Path;
use std::time::Duration;

use adit_tests::{Host, Lab, Routing, User, Witness, address, until};
use anyhow::{Result, ensure};

#[test]
fn gone_without_a_trace_when_dropped() -> Result<()> {
    let lab = Lab::new()?;
    let first = lab.first_process();
    let daemon = lab.server().start("sleeper", &["sleep", "1000"])?;
    let pid = daemon.pid();
    drop(lab);
    for pid in [first, pid] {
        until("its processes to vanish", Duration::from_secs(5), || {
            Ok(!Path::new(&format!("/proc/{pid}")).exists())
        })?;
    }
    Ok(())
}

#[test]
fn client_has_no_way_into_the_zone() -> Result<()> {
    let lab = Lab::new()?;
    for address in [address::SERVER, address::SERVER6] {
        let said = lab
            .client()
            .argv(&["ip", "route", "get", address])?
            .failed()?;
        ensure!(said.contains("unreachable"), "ip said {said}");
    }
    lab.direct()
        .argv(&["ip", "route", "get", address::SERVER])?
        .ok()?;
    Ok(())
}

#[test]
fn commands_run_as_whom_they_should() -> Result<()> {
    let lab = Lab::new()?;
    let id = |host, user| {
        lab.on(host)
            .user(user)
            .sh("id -un; id -u; id -G; pwd; hostname")
    };
    let alice = id(Host::Client, User::Alice)?.ok()?;
    ensure!(
        alice == "adit-alice\n61001\n61001\n/run/lab/home/adit-alice\nadit-lab\n",
        "{alice}"
    );
    let root = id(Host::Server, User::Root)?.ok()?;
    ensure!(root.starts_with("root\n0\n0\n"), "{root}");
    Ok(())
}

#[test]
fn witness_sees_what_leaves_in_clear() -> Result<()> {
    let lab = Lab::with(Routing::Wire)?;
    let witness = Witness::start(&lab)?;
    let line = format!(
        "timeout 0.2 bash -c 'echo . >/dev/tcp/{}/80'",
        address::SERVER
    );
    lab.client().sh(&line)?.failed().unwrap_or_default();
    let seen = witness.finish(&lab)?;
    ensure!(seen.nothing().is_err(), "a SYN to the zone was on the wire");
    Ok(())
}

#[test]
fn witness_of_silence_sees_nothing() -> Result<()> {
    let lab = Lab::with(Routing::Wire)?;
    Witness::start(&lab)?.finish(&lab)?.nothing()
}

#[test]
fn a_command_that_hangs_is_ended() -> Result<()> {
    let lab = Lab::new()?;
    let ended = lab
        .client()
        .timeout(Duration::from_millis(200))
        .sh("sleep 1000")?;
    ensure!(ended.failed().is_err() && fs::exists("/proc/self")?);
    Ok(())
}
