//! What broker and gateway say to each other, and the relay loop.
//!
//! A link runs on any ordered, reliable byte stream ([`ReadChunks`], [`WriteChunks`]): an SSH
//! channel ([`ssh`]) or a pair of pipes ([`pipe`]). The broker [`initiate`]s it, the gateway
//! [`accept`]s it; on each side a [`Driver`] moves the bytes. The broker opens [`Stream`]s, the
//! gateway answers them, and both [`relay`] them to a TCP socket. docs/PROTOCOL.link.md has the
//! bytes, docs/decisions/0001-own-multiplexer.md the reason for all this.
#![forbid(unsafe_code)]

mod chunks;
mod core;
mod end;
mod frame;
mod header;
mod hello;
mod limits;
mod link;
mod multiplexer;
pub mod pipe;
mod readiness;
mod relay;
mod shared;
pub mod ssh;
mod stream;

pub use chunks::{ReadChunks, WriteChunks};
pub use core::{Notice, Received};
pub use end::{LinkEnd, OpenError, StreamError, Violation};
pub use frame::FrameError;
pub use header::{
    HeaderError, Host, MAX_APPLICATION, MAX_DETAIL, MAX_NAME, OpenHeader, Refusal, RefusalReason,
};
pub use hello::{HIGHEST_VERSION, HandshakeError, LOWEST_VERSION};
pub use limits::Limits;
pub use link::{Driver, Incoming, Link, Request, accept, initiate};
pub use multiplexer::Multiplexer;
pub use relay::{Counters, RelayEnd, relay, relay_chunks, relay_tcp, reset};
pub use stream::{Answer, Stream};
