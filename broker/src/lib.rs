//! The broker of Adit: accepts captured flows, decides, dispatches, relays; and the command line `adit`.
//!
//! [`daemon`] composes the rest. The way of one connection is in [`dispatch`].
#![forbid(unsafe_code)]

pub mod accepted;
mod attempt;
pub mod attribution;
pub mod behind;
pub mod capture_session;
pub mod chronicle;
pub mod control;
pub mod daemon;
pub mod decision_log;
pub mod desktop;
pub mod dispatch;
pub mod entrances;
pub mod file_watch;
pub mod flow_table;
pub mod gateway;
pub mod held;
pub mod intake;
mod kernel_claim;
pub mod lineage;
pub mod listeners;
pub mod names;
pub mod original_destination;
pub mod original_sources;
pub mod question;
pub mod reload;
pub mod replay;
pub mod rule_sources;
pub mod rules_in_force;
pub mod session_note;
mod signals;
pub mod stage;
pub mod today;
pub mod unlock;
pub mod user;
pub mod why;
mod worker;
pub mod zone;
pub mod zone_link;
mod zone_status;
pub mod zone_targets;
