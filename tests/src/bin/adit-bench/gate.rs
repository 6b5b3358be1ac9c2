//! What a run has to reach.

use std::fmt;

use serde::Serialize;

use crate::figure::Figure;
use crate::path::Tool;
use crate::results::Results;

/// A bound on one number of Adit, absolute or against another tool in the same round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gate {
    of: Tool,
    figure: Figure,
    number: &'static str,
    against: Against,
    bound: Bound,
    label: &'static str,
    unit: &'static str,
}

#[derive(Debug, Clone, Copy)]
enum Against {
    Nothing,
    Ratio(Tool),
    Difference(Tool),
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
        let own = results.of(self.figure, self.of)?;
        let unit = self.unit;
        let bound = match self.bound {
            Bound::AtLeast(least) => format!(">= {least}{unit}"),
            Bound::AtMost(most) => format!("<= {most}{unit}"),
        };
        let value = match self.against {
            Against::Nothing => results.median(self.figure, self.of, self.number),
            Against::Ratio(other) => results.median_ratio(self.figure, self.number, self.of, other),
            Against::Difference(other) => {
                results.median_difference(self.figure, self.number, self.of, other)
            }
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
    of: Tool,
    figure: Figure,
    number: &'static str,
    against: Against,
    bound: Bound,
    label: &'static str,
) -> Gate {
    let unit = match (against, figure) {
        (Against::Nothing, Figure::Hold) => " s",
        (Against::Difference(_), _) => " µs",
        (Against::Nothing | Against::Ratio(_), _) => "×",
    };
    Gate {
        of,
        figure,
        number,
        against,
        bound,
        label,
        unit,
    }
}

const REDSOCKS: Against = Against::Ratio(Tool::Redsocks);
const SSHUTTLE: Against = Against::Ratio(Tool::Sshuttle);
const DIRECT: Against = Against::Ratio(Tool::Direct);
const FORWARD: Against = Against::Ratio(Tool::Forward);

pub(crate) const GATES: [Gate; 18] = [
    gate(
        Tool::Adit,
        Figure::Up,
        "gbit_per_s",
        REDSOCKS,
        Bound::AtLeast(1.0),
        "one flow up, to redsocks",
    ),
    gate(
        Tool::Adit,
        Figure::Down,
        "gbit_per_s",
        REDSOCKS,
        Bound::AtLeast(1.0),
        "one flow down, to redsocks",
    ),
    gate(
        Tool::Adit,
        Figure::Up,
        "gbit_per_s",
        SSHUTTLE,
        Bound::AtLeast(12.0),
        "one flow up, to sshuttle",
    ),
    gate(
        Tool::Adit,
        Figure::Down,
        "gbit_per_s",
        SSHUTTLE,
        Bound::AtLeast(12.0),
        "one flow down, to sshuttle",
    ),
    gate(
        Tool::Adit,
        Figure::ConnectSerial,
        "p50_us",
        REDSOCKS,
        Bound::AtMost(1.0),
        "connect + one byte, p50, to redsocks",
    ),
    gate(
        Tool::Adit,
        Figure::Connect32,
        "connections_per_s",
        REDSOCKS,
        Bound::AtLeast(1.0),
        "32 at once, connections per s, to redsocks",
    ),
    gate(
        Tool::AditEarly,
        Figure::Connect32,
        "connections_per_s",
        REDSOCKS,
        Bound::AtLeast(1.2),
        "32 at once, early, connections per s, to redsocks",
    ),
    gate(
        Tool::Adit,
        Figure::ConnectSerial,
        "p50_us",
        Against::Difference(Tool::AditEarly),
        Bound::AtMost(100.0),
        "connect + one byte, p50, over early",
    ),
    gate(
        Tool::Adit,
        Figure::PassUp,
        "gbit_per_s",
        DIRECT,
        Bound::AtLeast(0.97),
        "passed, one flow up, to direct",
    ),
    gate(
        Tool::Adit,
        Figure::PassDown,
        "gbit_per_s",
        DIRECT,
        Bound::AtLeast(0.97),
        "passed, one flow down, to direct",
    ),
    gate(
        Tool::Adit,
        Figure::PassConnect,
        "connect_p50_us",
        Against::Difference(Tool::Direct),
        Bound::AtMost(80.0),
        "passed, connect() alone, p50, over direct",
    ),
    gate(
        Tool::Adit,
        Figure::KernelPassUp,
        "gbit_per_s",
        DIRECT,
        Bound::AtLeast(0.97),
        "passed by the kernel alone, one flow up, to direct",
    ),
    gate(
        Tool::Adit,
        Figure::KernelPassDown,
        "gbit_per_s",
        DIRECT,
        Bound::AtLeast(0.97),
        "passed by the kernel alone, one flow down, to direct",
    ),
    gate(
        Tool::Adit,
        Figure::Hold,
        "open_s",
        Against::Nothing,
        Bound::AtMost(2.0),
        "2,000 flows opened and held",
    ),
    gate(
        Tool::Adit,
        Figure::PausedDown,
        "to_idle_times",
        Against::Nothing,
        Bound::AtMost(2.0),
        "round trip beside a paused download, to idle",
    ),
    gate(
        Tool::Adit,
        Figure::PausedUp,
        "to_idle_times",
        Against::Nothing,
        Bound::AtMost(2.0),
        "round trip beside a paused upload, to idle",
    ),
    gate(
        Tool::AditHanded,
        Figure::Up,
        "gbit_per_s",
        FORWARD,
        Bound::AtLeast(0.9),
        "handed over at a stock sshd, one flow up, to ssh -L",
    ),
    gate(
        Tool::AditHanded,
        Figure::Down,
        "gbit_per_s",
        FORWARD,
        Bound::AtLeast(0.9),
        "handed over at a stock sshd, one flow down, to ssh -L",
    ),
];
