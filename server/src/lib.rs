//! The gateway of Adit: authenticates, applies the policy of its zone, and relays.
//!
//! What a stream passes through, each step consuming what the one before it made: [`asked`] (what
//! is wanted), [`policy`] (may this user), name lookup, policy again for the addresses found,
//! [`dial`], relay. The policy knows no socket, file or clock.
#![forbid(unsafe_code)]

pub mod allowance;
mod answers;
pub mod asked;
pub mod asker;
pub mod audit;
pub mod audit_event;
mod audit_file;
mod audit_share;
mod authentication;
pub mod authorities;
pub mod authorized_keys;
mod bounded_file;
pub mod certificate;
mod client;
pub mod config;
pub mod config_error;
pub mod control;
pub mod credential;
pub mod daemon;
pub mod dial;
pub mod faults;
mod forward;
mod forward_relay;
pub mod gateway;
mod handler;
pub mod host_key;
mod in_use;
mod inflow;
mod journal;
pub mod key_options;
pub mod key_strength;
pub mod krl;
mod link_channel;
pub mod link_session;
pub mod listener;
mod log_queue;
mod log_sink;
pub mod logging;
pub mod login;
mod login_attempt;
mod login_progress;
pub mod methods;
mod metrics;
mod one_time_code;
pub mod opening_hours;
pub mod password;
mod penalties;
pub mod permissions;
pub mod policy;
pub mod quota;
pub mod rejudge;
mod reload;
mod remote_forward;
pub mod resolve;
pub mod revocation;
pub mod secret_lines;
pub mod service;
pub mod sessions;
pub mod source_patterns;
pub mod special;
pub mod stdio;
mod throttle;
mod time_outs;
pub mod trusted_file;
mod unauthenticated;
pub mod user_name;
mod wildcard;
