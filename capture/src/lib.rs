//! What a broker needs of the capture helper: the session with it ([`Client`]), what can be asked of it ([`Claim`]), and how a
//! captured connection is led back to the application that opened it ([`attribution`]).
//!
//! The privileged program `adit-capture` is this crate's binary; what the two say to each other is in
//! `docs/PROTOCOL.capture.md`.
// In two modules alone: socket options that no library has a safe call for.
#![deny(unsafe_code)]

pub mod attribution;
mod claim;
mod client;
pub mod frame;
pub mod held_packet;
pub mod mark;
#[expect(
    unsafe_code,
    reason = "TCP_INFO and SIOCOUTQ have no safe call in nix, rustix or socket2"
)]
pub mod moved;
pub mod netfilter;
pub mod questions;
#[expect(
    unsafe_code,
    reason = "TCP_SAVE_SYN and TCP_SAVED_SYN have no safe call in nix, rustix or socket2"
)]
pub mod saved_syn;
pub mod sock_diag;
pub mod wire;

pub use claim::{
    Claim, ClaimError, Family, MAX_NETWORKS, MAX_PORT_RANGES, MAX_STEPS, OnBrokerGone, Step,
    Verdict,
};
pub use client::{Client, ClientError, Queue};

/// Where the system's helper listens.
pub const DEFAULT_SOCKET: &str = "/run/adit/capture.sock";
