//! A stock sshd that runs our program: all that a gateway has to do, as a subsystem and as the only command of its users.

use adit_tests::{
    AsDirect, Gateway, GatewayKind, Lab, RunningAdit, User, address, rules_for_networks,
};
use anyhow::{Result, ensure};

/// With new keys after every 8 MiB.
fn does_it_all(kind: GatewayKind) -> Result<()> {
    let lab = Lab::new()?;
    let gateway = Gateway::allowing(&lab, kind, &["198.51.100.0/24:*"])?;
    let rules = rules_for_networks(User::Alice, &[address::ZONE]);
    let adit = RunningAdit::with(&lab, gateway, &rules)?;
    let gateway = AsDirect {
        lab: &lab,
        broker: &adit.broker,
    };
    gateway.does_it_all()?;
    let zone = adit.broker.status(&lab)?["zones"][0].take();
    ensure!(zone["state"] == "up", "{zone}");
    // 64 MiB went either way.
    let log = adit.gateway.process.stderr();
    let renewals = log.matches("set_newkeys: rekeying out").count();
    ensure!(renewals >= 8, "keys were renewed {renewals} times:\n{log}");
    Ok(())
}

#[test]
fn as_a_subsystem() -> Result<()> {
    does_it_all(GatewayKind::Sshd { rekey_mib: 8 })
}

#[test]
fn as_the_only_command() -> Result<()> {
    does_it_all(GatewayKind::ForcingSshd("8M"))
}
