//! The ways in which a link, an opening and a stream end.

use crate::frame::FrameError;
use crate::header::{HeaderError, Refusal};

/// What a peer did that the protocol does not allow. It ends the link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A frame that can't be one.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A body that does not hold what its frame promises.
    #[error("on stream {id}: {source}")]
    Header {
        /// The stream, 0 for the link itself.
        id: u32,
        /// What is wrong with it.
        source: HeaderError,
    },
    /// Only a broker opens streams.
    #[error("the gateway opened a stream")]
    OpenFromGateway,
    /// Stream ids only ever grow.
    #[error("stream {0} was opened twice")]
    ReusedStream(u32),
    /// A frame for a stream that was never opened.
    #[error("stream {0} was never opened")]
    UnknownStream(u32),
    /// Data or FIN from a gateway that has not answered the opening.
    #[error("data on stream {0} before its opening was answered")]
    BeforeAnswer(u32),
    /// An answer to an opening that was answered, or that no one asked for.
    #[error("a second answer to the opening of stream {0}")]
    SecondAnswer(u32),
    /// Data or FIN after FIN.
    #[error("data on stream {0} after its end")]
    AfterEnd(u32),
    /// More data than the window allowed.
    #[error("more data on stream {0} than its window allows")]
    CreditOverrun(u32),
    /// More credit than 2^31 - 1.
    #[error("more credit on stream {0} than there can be")]
    CreditOverflow(u32),
    /// It asks for answers and does not read them.
    #[error("the peer does not read the answers it asks for")]
    Flood,
}

/// Why a link ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkEnd {
    /// This side said goodbye.
    #[error("closed")]
    Closed,
    /// The peer said goodbye, in these words.
    #[error("closed by the peer: {0}")]
    PeerClosed(String),
    /// The byte stream below failed or ended without a goodbye.
    #[error("the transport failed: {0}")]
    Transport(String),
    /// The peer broke the protocol.
    #[error("protocol violation: {0}")]
    Protocol(#[source] Violation),
    /// The driver was dropped while the link was in use.
    #[error("abandoned")]
    Abandoned,
}

/// Why a stream could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no link any more.
    #[error("the link has ended: {0}")]
    Ended(#[source] LinkEnd),
    /// As many as we or the peer allow are open, or the peer takes no more openings for the moment.
    #[error("too many streams on this link")]
    TooMany,
    /// The peer (or this side) takes no new streams, and ends the link with the last one.
    #[error("the link takes no new streams")]
    Draining,
    /// The header can't be sent.
    #[error("the header can't be sent")]
    Header(#[source] HeaderError),
}

/// Why a stream came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The gateway said no.
    #[error(transparent)]
    Refused(Refusal),
    /// The peer reset it.
    #[error("reset by the peer")]
    Reset,
    /// The link under it ended.
    #[error("link ended: {0}")]
    LinkEnded(#[source] LinkEnd),
}
