//! The bounds of one link.

/// Bounds of one link, and what they cost.
///
/// Worst case of memory that a peer can make us hold for one link, in bytes of payload:
/// `max_streams * early_window + window_budget` received and unread, and
/// `send_budget` plus one chunk waiting to be sent. The receive side can cost up to twice its
/// payload (a slice keeps at most its own size alive beside itself).
#[derive(Debug, Clone)]
pub struct Limits {
    /// Streams at the same time. A gateway refuses more as busy; a broker gets an error.
    pub max_streams: u32,
    /// Bytes that the peer may send on a new stream before it heard anything about it. Every
    /// stream is given this much, whatever the budget says, so that payload can follow the
    /// opening at once.
    pub early_window: u32,
    /// Receive window of a stream once it is open, as long as half of the budget is left, and else
    /// once it has used up its early window; bytes.
    pub initial_window: u32,
    /// The largest that a stream's receive window grows to; bytes.
    pub max_window: u32,
    /// What all receive windows together may exceed their early windows by; bytes. None takes more
    /// than an eighth of what the others have left of it.
    pub window_budget: u64,
    /// The largest chunk handed to the transport, header included; bytes. At most 65,535.
    pub max_chunk: usize,
    /// Payload that one stream may have waiting to be sent; bytes. At least one chunk is allowed.
    pub send_queue: usize,
    /// Payload that all streams together may have waiting to be sent; bytes.
    pub send_budget: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_streams: 4096,
            early_window: 32 << 10,
            initial_window: 256 << 10,
            max_window: 4 << 20,
            window_budget: 64 << 20,
            max_chunk: 32 << 10,
            send_queue: 128 << 10,
            send_budget: 8 << 20,
        }
    }
}

impl Limits {
    /// The largest payload of a DATA frame that we send to a peer that takes `peer_max`.
    pub(crate) fn max_payload(&self, peer_max: u32) -> usize {
        let ours = self
            .max_chunk
            .min(usize::from(u16::MAX))
            .saturating_sub(crate::frame::HEADER);
        ours.min(usize::try_from(peer_max).unwrap_or(usize::MAX))
            .max(1)
    }
}
