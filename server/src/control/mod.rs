//! The control socket: what `adit-server sessions`, `kill`, `drain` and `reload` talk to. See
//! docs/PROTOCOL.gateway-control.md.
pub mod client;
pub mod protocol;
pub mod server;
