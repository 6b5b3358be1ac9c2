//! What is told of a reload. Its JSON form is what programs read: see docs/PROTOCOL.control.md.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What a reload did, or would do.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Reloaded {
    /// Nothing was done: it was only asked what would be.
    pub dry_run: bool,
    /// The rule files.
    pub files: Vec<PathBuf>,
    /// What became of the zones.
    pub zones: ZoneChanges,
    /// What the kernel decides alone, or hands over, is another.
    pub kernel_changed: bool,
    /// Flows that go on as they are.
    pub kept: usize,
    /// Flows that get something else now.
    pub changed: Vec<ChangedFlow>,
    /// Warnings and notes, as `adit check --json` gives them.
    pub diagnostics: serde_json::Value,
    /// The same for people; empty when there are none.
    pub text: String,
}

/// Names of zones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneChanges {
    /// Started.
    pub added: Vec<String>,
    /// Closed.
    pub removed: Vec<String>,
    /// With other gateways, or another way to get into them.
    pub changed: Vec<String>,
}

/// A flow that gets something else now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChangedFlow {
    /// As in `adit flows`.
    pub id: u64,
    /// Path of the binary; null when it is not known.
    pub application: Option<String>,
    /// Where it wants to go, as in `adit flows`.
    pub destination: String,
    /// What it had.
    pub from: Given,
    /// What the rules give now.
    pub to: Given,
    /// What becomes of it.
    pub outcome: Outcome,
}

/// What rules gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// `tunnel`, `pass` or `block`.
    pub action: String,
    /// The zone of a tunnel.
    pub zone: Option<String>,
    /// The gateway, where that is what is another.
    pub gateway: Option<String>,
    /// The rule.
    pub rule: String,
}

/// What becomes of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Both sides see a reset.
    Closed,
    /// Its program has heard nothing yet, and gets what the rules give now.
    JudgedAgain,
}

/// Why rules were not read anew.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BadRules {
    /// What is wrong, as `adit check --json` gives it; empty when it is not in a file.
    pub diagnostics: serde_json::Value,
    /// The same for people.
    pub text: String,
}

/// Which rules are in force.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RulesStatus {
    /// The rule files of all layers, without what they include.
    pub files: Vec<PathBuf>,
    /// When they were read.
    pub read_at: jiff::Timestamp,
    /// Why what is in the files now is not in force.
    pub error: Option<ReloadFailure>,
}

/// A reload that failed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReloadFailure {
    /// When.
    pub at: jiff::Timestamp,
    /// Why.
    pub text: String,
}

impl std::fmt::Display for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.action)?;
        if let Some(zone) = &self.zone {
            write!(f, " {zone}")?;
        }
        if let Some(gateway) = &self.gateway {
            write!(f, " through {gateway}")?;
        }
        write!(f, " by {:?}", self.rule)
    }
}
