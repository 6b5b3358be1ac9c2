//! What connect() tells a program through each tool, beside what it tells where a router is in the gateway's place.
//!
//! Prints a table in Markdown. Needs the peers: `tests/packages.sh bench` installs them.

#![forbid(unsafe_code)]

#[path = "adit-bench/peer.rs"]
mod peer;

use std::io::{self, Write};

use adit_tests::connect::{Family, Target, Targets, Told, gateway, honestly, told};
use adit_tests::{Lab, Routing, RunningAdit, User, connecting};
use anyhow::{Context, Result, ensure};
use peer::{Redsocks, Sshuttle};

/// The probe's own time-out in ms: longer than a host takes to find out that a neighbour is not there.
const WITHIN: &str = "5000";
const TARGETS: [(Target, &str); 5] = [
    (Target::Open, "open port"),
    (Target::Closed, "closed port"),
    (Target::Filtered, "filtered port"),
    (Target::Rejected, "host unreachable, says its router"),
    (Target::Nobody, "host that is not there"),
];

enum Tool {
    Direct,
    Adit,
    Early,
    Redsocks,
    Sshuttle,
}

fn main() -> Result<()> {
    let tools = [
        ("direct", Tool::Direct),
        ("Adit", Tool::Adit),
        ("Adit, `connect: early`", Tool::Early),
        ("redsocks + `ssh -D`", Tool::Redsocks),
        ("sshuttle", Tool::Sshuttle),
    ];
    let mut out = io::stdout();
    let heads: String = TARGETS.map(|(_, label)| format!(" {label} |")).concat();
    writeln!(out, "| connect() through |{heads}")?;
    writeln!(out, "| --- |{}", " --- |".repeat(TARGETS.len()))?;
    for (name, tool) in tools {
        let cells = probe(&tool).with_context(|| name.to_owned())?;
        writeln!(out, "| {name} |{cells}")?;
        out.flush()?;
    }
    Ok(())
}

/// A row of the table.
fn probe(tool: &Tool) -> Result<String> {
    let lab = Lab::with(match tool {
        Tool::Direct => Routing::Open,
        Tool::Adit | Tool::Early | Tool::Redsocks | Tool::Sshuttle => Routing::Wire,
    })?;
    let _targets = Targets::start(&lab)?;
    // Held until all was asked.
    let (_adit, _redsocks, _sshuttle) = match tool {
        Tool::Direct => (None, None, None),
        Tool::Adit => (Some(adit(&lab, "honest")?), None, None),
        Tool::Early => (Some(adit(&lab, "early")?), None, None),
        Tool::Redsocks => (None, Some(Redsocks::start(&lab)?), None),
        Tool::Sshuttle => (None, None, Some(Sshuttle::start(&lab)?)),
    };
    let ask = |target: Target| -> Result<Told> {
        let to = target.at(Family::V4).to_string();
        let words = ["adit-connect", "to", &to, "--read", "--within", WITHIN];
        let text = lab.client().argv(&words)?.ok()?;
        told(&text)?.pop().context("it told nothing")
    };
    // What is learned with the first connection of all is no tool's business.
    let first = ask(Target::Open)?;
    ensure!(
        first.then.as_deref() == Some("data"),
        "no way there: {first:?}"
    );
    let mut row = String::new();
    for (target, _) in TARGETS {
        row.push_str(&format!(" {} |", cell(&ask(target)?)));
    }
    Ok(row)
}

fn adit(lab: &Lab, word: &str) -> Result<RunningAdit> {
    let rules = connecting(word, &honestly(User::Alice));
    RunningAdit::with(lab, gateway(lab)?, &rules)
}

fn cell(one: &Told) -> String {
    let said = match (one.outcome.as_str(), one.then.as_deref()) {
        (outcome, Some("data")) => outcome.to_owned(),
        (outcome, Some(then)) => format!("{outcome}, then {then}"),
        ("gave up", _) => "no answer".to_owned(),
        (outcome, None) => outcome.to_owned(),
    };
    format!("{said} ({:.1} ms)", one.us as f64 / 1e3)
}
