//! What connect() tells a program through each tool, beside what it tells where a router is in the gateway's place.
//!
//! Prints a table in Markdown. Needs the peers: `tests/packages.sh bench` installs them.

#![forbid(unsafe_code)]

#[path = "adit-bench/peer.rs"]
mod peer;

use std::io::{self, Write};

use adit_tests::connect::{Family, GAVE_UP, Target, Targets, Told, gateway, honestly, told};
use adit_tests::{Lab, Routing, RunningAdit, User, connecting};
use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use peer::{Redsocks, Sshuttle};

/// The probe's own time-out in ms: longer than a host takes to find out that a neighbour is not there.
const WITHIN: &str = "5000";
const TARGETS: [(Target, &str); 5] = [
    (Target::Open, "open"),
    (Target::Closed, "closed"),
    (Target::Filtered, "filtered"),
    (Target::Rejected, "the server says: host unreachable"),
    (Target::Nobody, "nobody has the address"),
];

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Tool {
    /// Nothing is in between.
    Direct,
    /// Adit, as it comes.
    Adit,
    /// Adit, with `connect: early`.
    AditEarly,
    /// redsocks before `ssh -D`.
    Redsocks,
    /// sshuttle.
    Sshuttle,
}

impl Tool {
    fn name(self) -> &'static str {
        match self {
            Tool::Direct => "nothing: direct",
            Tool::Adit => "Adit",
            Tool::AditEarly => "Adit with `connect: early`",
            Tool::Redsocks => "redsocks + `ssh -D`",
            Tool::Sshuttle => "sshuttle",
        }
    }
}

/// Tells what connect() tells a program through each tool.
#[derive(Parser)]
struct Arguments {
    /// Only these tools.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "TOOL,…")]
    only: Vec<Tool>,
}

fn main() -> Result<()> {
    let Arguments { only } = Arguments::parse();
    let mut out = io::stdout();
    let heads: String = TARGETS.map(|(_, label)| format!(" {label} |")).concat();
    writeln!(out, "| connect() through |{heads}")?;
    writeln!(out, "| --- |{}", " --- |".repeat(TARGETS.len()))?;
    for tool in Tool::value_variants() {
        if only.is_empty() || only.contains(tool) {
            let cells = probe(*tool).with_context(|| tool.name())?;
            writeln!(out, "| {} |{cells}", tool.name())?;
            out.flush()?;
        }
    }
    Ok(())
}

/// A row of the table.
fn probe(tool: Tool) -> Result<String> {
    let lab = Lab::with(match tool {
        Tool::Direct => Routing::Open,
        Tool::Adit | Tool::AditEarly | Tool::Redsocks | Tool::Sshuttle => Routing::Wire,
    })?;
    let _targets = Targets::start(&lab)?;
    // Held until all was asked.
    let (_adit, _redsocks, _sshuttle) = match tool {
        Tool::Direct => (None, None, None),
        Tool::Adit => (Some(adit(&lab, "honest")?), None, None),
        Tool::AditEarly => (Some(adit(&lab, "early")?), None, None),
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
    let said = match one.then.as_deref() {
        None | Some("data") => word(&one.outcome).to_owned(),
        Some(then) => format!("{}, then {}", word(&one.outcome), word(then)),
    };
    format!("{said} ({:.1} ms)", one.us as f64 / 1e3)
}

/// What people call it.
fn word(outcome: &str) -> &str {
    match outcome {
        GAVE_UP => "no answer",
        "ECONNREFUSED" => "refused",
        "ECONNRESET" => "reset",
        "EHOSTUNREACH" => "no route to host",
        other => other,
    }
}
