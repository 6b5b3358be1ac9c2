//! What was decided, on disk: for `adit replay`, which judges it anew under other rules.
//!
//! Lines of JSON in numbered files of a bounded size, of which the oldest go. No payload. Whatever goes wrong with it is counted
//! and said in the status; a flow never waits for it.

mod files;
mod record;
mod writer;

pub use files::{Decisions, read};
pub use record::{Facts, Record, RecordedApplication};
pub use writer::{DecisionLog, Standing};

/// Files that are kept.
const FILES: usize = 8;
/// Bytes of each.
const FILE_BYTES: u64 = 4 << 20;
/// Bytes of a line; a longer one is not written.
const LINE_BYTES: usize = 64 << 10;
