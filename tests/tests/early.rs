//! `connect: early`: a program may send before anyone has answered for its destination.

use std::time::Duration;

use adit_tests::{Conversation, Exchange, Gateway, Lab, Routing, RunningAdit, User};
use adit_tests::{address, connecting, rules_for_networks, sights, until};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

const PATIENCE: Duration = Duration::from_secs(20);
/// Of the program's own, in bytes: what waits for the gateway to read is that and some more.
const PAYLOAD: u64 = 20 << 10;

/// Bytes that have come to the gateway's port and were not read.
fn unread(lab: &Lab) -> Result<u64> {
    let line = "ss -Htn state established 'sport = :443'";
    let listed = lab.gateway().sh(line)?.ok()?;
    let queued = listed.lines().map(|line| {
        let first = line.split_whitespace().next().unwrap_or_default();
        first.parse::<u64>().with_context(|| line.to_owned())
    });
    queued.sum()
}

/// A gateway that stands still answers nothing, so what comes to it was not held back for an answer.
#[test]
fn payload_rides_with_the_opening() -> Result<()> {
    let lab = Lab::with(Routing::Wire)?;
    let gateway = Gateway::start(&lab)?;
    let rules = rules_for_networks(User::Alice, &[address::ZONE, address::ZONE6]);
    let adit = RunningAdit::with(&lab, gateway, &connecting("early", &rules))?;
    for server in [address::SERVER, address::SERVER6] {
        let talk = Conversation::new(
            "send 20K; finish; expect 5K; end",
            "expect 20K; end; send 5K",
        );
        let talk = talk.at(server);
        let direct = talk.hold(&lab, &lab.direct())?;
        // The link is up.
        talk.hold(&lab, &lab.client())?.same_as(&direct)?;
        adit.gateway.process.signal(Signal::SIGSTOP)?;
        let before = unread(&lab)?;
        let (mut listener, to) = talk.listen(&lab)?;
        let mut dialler = talk.dial(&lab.client(), to)?;
        let mut waiting = 0;
        let came = until("the payload to be at the gateway", PATIENCE, || {
            waiting = unread(&lab)? - before;
            Ok(waiting >= PAYLOAD)
        });
        came.with_context(|| format!("{waiting} bytes are; {}", dialler.tale()))?;
        ensure!(sights(&listener.stdout())?.is_empty());
        adit.gateway.process.signal(Signal::SIGCONT)?;
        for end in [&mut dialler, &mut listener] {
            ensure!(end.end(PATIENCE)?.success(), "{}", end.tale());
        }
        let through = Exchange {
            client: sights(&dialler.stdout())?,
            server: sights(&listener.stdout())?,
        };
        through.same_as(&direct)?;
    }
    Ok(())
}
