//! What a run has to reach.

use std::fmt;

use serde::Serialize;

use crate::figure::Figure;
use crate::path::Tool;
use crate::results::Results;

/// A bound on one number of Adit, absolute or against a peer in the same round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gate {
    figure: Figure,
    number: &'static str,
    against: Option<Tool>,
    bound: Bound,
    label: &'static str,
    unit: &'static str,
}

#[derive(Debug, Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// What became of a gate.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Judged {
    gate: String,
    outcome: Outcome,
    value: Option<f64>,
    said: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Outcome {
    Pass,
    Miss,
    /// The peer, or this measure of it, was not part of the run.
    None,
}

impl Gate {
    /// Judges Adit's results; nothing when the figure, or Adit, was not part of the run.
    pub(crate) fn judge(self, results: &Results) -> Option<Judged> {
        let own = results.of(self.figure, Tool::Adit)?;
        let unit = self.unit;
        let bound = match self.bound {
            Bound::AtLeast(least) => format!(">= {least}{unit}"),
            Bound::AtMost(most) => format!("<= {most}{unit}"),
        };
        let value = match self.against {
            None => results.median(self.figure, Tool::Adit, self.number),
            Some(peer) => results.median_ratio(self.figure, self.number, Tool::Adit, peer),
        };
        let (outcome, said) = match (value, &own.failed) {
            (_, Some(why)) => (Outcome::Miss, format!("fails: {why}")),
            (Some(value), None) => (self.bound.outcome(value), format!("{value:.2}{unit}")),
            (None, None) => (Outcome::None, "nothing to compare with".to_owned()),
        };
        Some(Judged {
            gate: format!("{} {bound}", self.label),
            outcome,
            value,
            said,
        })
    }
}

impl Bound {
    fn outcome(self, value: f64) -> Outcome {
        let holds = match self {
            Bound::AtLeast(least) => value >= least,
            Bound::AtMost(most) => value <= most,
        };
        if holds { Outcome::Pass } else { Outcome::Miss }
    }
}

impl Judged {
    pub(crate) fn passed(&self) -> bool {
        self.outcome == Outcome::Pass
    }
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = match self.outcome {
            Outcome::Pass => "PASS",
            Outcome::Miss => "MISS",
            Outcome::None => "NONE",
        };
        write!(f, "{outcome}  {}: {}", self.gate, self.said)
    }
}

const fn gate(
    figure: Figure,
    number: &'static str,
    against: Option<Tool>,
    bound: Bound,
    label: &'static str,
) -> Gate {
    let unit = match (against, figure) {
        (None, Figure::Hold) => " s",
        _ => "×",
    };
    Gate {
        figure,
        number,
        against,
        bound,
        label,
        unit,
    }
}

const REDSOCKS: Option<Tool> = Some(Tool::Redsocks);
const SSHUTTLE: Option<Tool> = Some(Tool::Sshuttle);

pub(crate) const GATES: [Gate; 9] = [
    gate(
        Figure::Up,
        "gbit_per_s",
        REDSOCKS,
        Bound::AtLeast(1.0),
        "one flow up, to redsocks",
    ),
    gate(
        Figure::Down,
        "gbit_per_s",
        REDSOCKS,
        Bound::AtLeast(1.0),
        "one flow down, to redsocks",
    ),
    gate(
        Figure::Up,
        "gbit_per_s",
        SSHUTTLE,
        Bound::AtLeast(12.0),
        "one flow up, to sshuttle",
    ),
    gate(
        Figure::Down,
        "gbit_per_s",
        SSHUTTLE,
        Bound::AtLeast(12.0),
        "one flow down, to sshuttle",
    ),
    gate(
        Figure::ConnectSerial,
        "p50_us",
        REDSOCKS,
        Bound::AtMost(1.0),
        "connect + one byte, p50, to redsocks",
    ),
    gate(
        Figure::Connect32,
        "connections_per_s",
        REDSOCKS,
        Bound::AtLeast(1.2),
        "32 at once, connections per s, to redsocks",
    ),
    gate(
        Figure::Hold,
        "open_s",
        None,
        Bound::AtMost(2.0),
        "2,000 flows opened and held",
    ),
    gate(
        Figure::PausedDown,
        "to_idle_times",
        None,
        Bound::AtMost(2.0),
        "round trip beside a paused download, to idle",
    ),
    gate(
        Figure::PausedUp,
        "to_idle_times",
        None,
        Bound::AtMost(2.0),
        "round trip beside a paused upload, to idle",
    ),
];
