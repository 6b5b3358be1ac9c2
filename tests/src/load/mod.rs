//! The load that the benchmark puts on a path into the zone, and the server at the path's end.
//!
//! Every measure is bounded in count and in time, gives named numbers, and fails as a whole when a single
//! connection of it does: a figure that leaves out what went wrong would flatter.

mod beside;
mod bulk;
mod connect;
mod dial;
mod hold;
mod latencies;
mod round_trip;
mod say_yes;
mod server;

use std::collections::BTreeMap;

pub use beside::{Beside, Load};
pub use bulk::Bulk;
pub use connect::Connect;
pub use dial::CONNECTING;
pub use hold::Hold;
pub use latencies::Latencies;
pub use round_trip::RoundTrip;
pub use say_yes::say_yes;
pub use server::serve;

/// What a measure found, by name; the unit is the last word of the name.
pub type Numbers = BTreeMap<String, f64>;

/// Where the server of the load listens.
pub mod port {
    /// Sends back what it gets.
    pub const ECHO: u16 = 8007;
    /// The same, where a rule may say otherwise than for [`ECHO`].
    pub const OTHER_ECHO: u16 = 8008;
    /// Reads, and tells again and again how much it has read by when.
    pub const SINK: u16 = 8009;
    /// Sends as long as somebody reads.
    pub const SOURCE: u16 = 8019;
    /// Accepts, and never reads.
    pub const STALL: u16 = 8020;
}

/// Bytes of one read or one write of bulk data.
const CHUNK: usize = 64 << 10;

fn numbers<const N: usize>(named: [(&str, f64); N]) -> Numbers {
    named
        .into_iter()
        .map(|(name, number)| (name.to_owned(), number))
        .collect()
}
