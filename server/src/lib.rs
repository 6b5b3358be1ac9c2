//! The gateway of Adit: authenticates, applies the policy of its zone, and relays.
//!
//! What a stream passes through, each step consuming what the one before it made: [`asked`] (what
//! is wanted), [`policy`] (may this user), name lookup, policy again for the addresses found,
//! [`dial`], relay. The policy knows no socket, file or clock.
#![forbid(unsafe_code)]

pub mod asked;
pub mod audit;
pub mod authorized_keys;
mod bounded_file;
pub mod config;
pub mod config_error;
pub mod dial;
pub mod gateway;
mod handler;
pub mod host_key;
mod in_use;
mod journal;
mod link_channel;
pub mod link_session;
pub mod listener;
mod log_queue;
pub mod logging;
mod login;
pub mod policy;
pub mod quota;
pub mod resolve;
pub mod service;
pub mod special;
pub mod stdio;
mod throttle;
mod unauthenticated;
pub mod user_name;
