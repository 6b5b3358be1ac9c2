//! What a broker asks the helper for. Typed data, never rule text: nothing a broker writes reaches the rule compiler as is.

use std::ops::RangeInclusive;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Most steps in one claim.
pub const MAX_STEPS: usize = 4096;
/// Most networks in one claim, all steps together.
pub const MAX_NETWORKS: usize = 131_072;
/// Most port ranges in one claim, all steps together.
pub const MAX_PORT_RANGES: usize = 65_536;

/// What a broker asks the helper to hand over to it, for its own user only: the first step that matches decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// In order; the first that matches decides.
    pub steps: Vec<Step>,
    /// For a destination that no step matches.
    pub default: Verdict,
    /// What happens to destinations that are handed over when the broker is gone without saying goodbye.
    pub on_broker_gone: OnBrokerGone,
}

/// Destinations and what becomes of connections to them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Networks; empty means every address of both families.
    pub to: Vec<IpNet>,
    /// Ports; empty means every port.
    pub ports: Vec<RangeInclusive<u16>>,
    /// What they get.
    pub verdict: Verdict,
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Held at its SYN until the broker has answered: only in a session that has a queue.
    Ask,
    /// The broker gets it on its listener.
    HandOver,
    /// The kernel connects it as if nothing were here.
    Pass,
    /// The kernel refuses it: the program sees "connection refused".
    Block,
}

/// What a claim becomes when its broker is gone without a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBrokerGone {
    /// What was handed over is refused: nothing leaves in the clear.
    #[default]
    Block,
    /// Everything of the user is removed: connections go where they would without Adit.
    Release,
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A claim that the helper does not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// More steps than [`MAX_STEPS`].
    #[error("{0} steps, and {MAX_STEPS} is the most")]
    Steps(usize),
    /// More networks than [`MAX_NETWORKS`].
    #[error("{0} networks, and {MAX_NETWORKS} is the most")]
    Networks(usize),
    /// More port ranges than [`MAX_PORT_RANGES`].
    #[error("{0} port ranges, and {MAX_PORT_RANGES} is the most")]
    PortRanges(usize),
    /// A range whose end is before its start.
    #[error("step {step}: the port range {start}-{end} is empty")]
    EmptyPortRange {
        /// Which step, from 1.
        step: usize,
        /// As written.
        start: u16,
        /// As written.
        end: u16,
    },
}

impl Claim {
    /// Whether the helper takes this claim.
    ///
    /// # Errors
    /// Says which bound is exceeded, or which range is empty.
    pub fn check(&self) -> Result<(), ClaimError> {
        let networks = self.steps.iter().map(|step| step.to.len()).sum();
        let port_ranges = self.steps.iter().map(|step| step.ports.len()).sum();
        if self.steps.len() > MAX_STEPS {
            return Err(ClaimError::Steps(self.steps.len()));
        }
        if networks > MAX_NETWORKS {
            return Err(ClaimError::Networks(networks));
        }
        if port_ranges > MAX_PORT_RANGES {
            return Err(ClaimError::PortRanges(port_ranges));
        }
        for (index, step) in self.steps.iter().enumerate() {
            if let Some(range) = step.ports.iter().find(|range| range.is_empty()) {
                return Err(ClaimError::EmptyPortRange {
                    step: index + 1,
                    start: *range.start(),
                    end: *range.end(),
                });
            }
        }
        Ok(())
    }
}
