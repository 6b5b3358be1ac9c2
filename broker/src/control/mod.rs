//! The broker's control socket: what `adit status`, `flows`, `close` and `down` talk to. See docs/PROTOCOL.control.md.

pub mod client;
pub mod place;
pub mod protocol;
pub mod reload;
pub mod server;
