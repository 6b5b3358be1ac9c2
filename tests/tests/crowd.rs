//! Two thousand programs that connect and exit at once, each with a binary of its own: who is found is never another.

use std::collections::BTreeMap;

use adit_tests::{Gateway, Lab, RunningAdit, User, connecting, rules_with};
use anyhow::{Result, ensure};

const HOME: &str = "/run/lab/home/adit-alice";
/// The broker remembers a thousand flows that have ended.
const ROUNDS: usize = 4;
const AT_ONCE: usize = 500;
/// The port tells which program it was.
const FIRST_PORT: usize = 20_000;
const RULES: &str = r#"  - {name: the crowd, app: "/run/lab/home/adit-alice/crowd/*", to: 198.51.100.10, action: tunnel, zone: lab}
  - {name: unknown, app: unknown, to: 198.51.100.10, action: block}
"#;

/// What became of so many: found, and `unknown`. Fails at the first that was taken for another.
fn count(order: &str) -> Result<(usize, usize)> {
    let lab = Lab::new()?;
    let gateway = Gateway::start(&lab)?;
    let rules = connecting(order, &rules_with(User::Alice, RULES));
    let adit = RunningAdit::with(&lab, gateway, &rules)?;
    // One file, and a path of its own for each.
    let links = format!(
        "mkdir crowd && cp /bin/bash crowd/0
        for i in $(seq {}); do ln crowd/0 crowd/$i; done",
        AT_ONCE - 1
    );
    lab.client().sh(&links)?.ok()?;
    let (mut found, mut unknown) = (0, 0);
    for round in 0..ROUNDS {
        let first = FIRST_PORT + round * AT_ONCE;
        let start = format!(
            "for i in $(seq 0 {}); do
                crowd/$i -c \"exec 3<>/dev/tcp/198.51.100.10/$(({first} + i))\" 2>/dev/null &
            done; wait",
            AT_ONCE - 1
        );
        lab.client().argv(&["bash", "-c", &start])?.ok()?;
        let mut by_port = BTreeMap::new();
        adit_tests::until("all of their flows to end", PATIENCE, || {
            by_port.clear();
            for flow in adit.broker.flows(&lab)? {
                let port = flow.destination.rsplit(':').next().unwrap_or_default();
                by_port.insert(port.parse::<usize>()?, flow);
            }
            let ended = (first..first + AT_ONCE).filter(|port| {
                let flow = by_port.get(port);
                flow.is_some_and(|flow| {
                    ["refused", "closed", "failed"].contains(&flow.state.as_str())
                })
            });
            Ok(ended.count() == AT_ONCE)
        })?;
        for (number, port) in (first..first + AT_ONCE).enumerate() {
            let flow = &by_port[&port];
            let own = format!("{HOME}/crowd/{number}");
            match flow.application.as_deref() {
                None => unknown += 1,
                Some(application) => {
                    ensure!(application == own, "taken for another: {own} by {flow:?}");
                    ensure!(flow.rule.as_deref() == Some("the crowd"), "{flow:?}");
                    found += 1;
                }
            }
        }
    }
    eprintln!(
        "connect: {order}: {found} of {} found, {unknown} unknown",
        found + unknown
    );
    ensure!(found + unknown == ROUNDS * AT_ONCE);
    Ok((found, unknown))
}

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

#[test]
fn whoever_is_decided_at_the_syn_is_found() -> Result<()> {
    let (found, unknown) = count("honest")?;
    ensure!(found * 1000 >= (found + unknown) * 999, "{unknown} unknown");
    Ok(())
}

#[test]
fn whoever_is_accepted_early_is_found() -> Result<()> {
    let (found, unknown) = count("early")?;
    ensure!(found * 100 >= (found + unknown) * 95, "{unknown} unknown");
    Ok(())
}
