//! The privileged part. No Secure Shell, no rule file, no name resolution: claims in, kernel rules out.

pub(crate) mod account;
pub(crate) mod answers;
pub(crate) mod background;
pub(crate) mod base_chains;
pub(crate) mod command;
pub(crate) mod confinement;
pub(crate) mod desk;
pub(crate) mod directory;
pub(crate) mod door;
pub(crate) mod fallback;
pub(crate) mod holding;
pub(crate) mod instance;
pub(crate) mod keeper;
pub(crate) mod large_set;
mod listed_rule;
pub(crate) mod listener;
pub(crate) mod log;
pub(crate) mod netlink;
pub(crate) mod original_source;
pub(crate) mod permitted;
pub(crate) mod privilege;
pub(crate) mod program;
pub(crate) mod queue;
pub(crate) mod ranges;
pub(crate) mod readback;
pub(crate) mod render;
pub(crate) mod serve;
pub(crate) mod session;
pub(crate) mod table;
pub(crate) mod turn;
pub(crate) mod watch;
pub(crate) mod xtables;

#[cfg(test)]
mod interpreter_tests;
#[cfg(test)]
mod program_tests;
