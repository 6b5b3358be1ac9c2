//! The messages between broker and helper, and their pure decoding (docs/PROTOCOL.capture.md).

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::claim::{Claim, Family};

/// The protocol version spoken here.
pub const VERSION: u32 = 1;
/// In the features of a helper that answers [`Request::OriginalSources`].
pub const ORIGINAL_SOURCE: &str = "original-source";
/// In the features of a helper that answers [`Request::Queue`] and takes claims that ask.
pub const ASK: &str = "ask";
/// Longest body of a frame that carries a claim, bytes.
pub const MAX_CLAIM: usize = 8 * 1024 * 1024;
/// Longest body of any other frame, bytes.
pub const MAX_OTHER: usize = 4096;
/// Most connections that one request asks about.
pub const MAX_SOURCES: usize = 32;
/// Longest text of an error, bytes; longer ones are cut.
pub const MAX_ERROR_TEXT: usize = 1024;

/// What a broker asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// The first message of a session.
    Hello {
        /// [`VERSION`] of the broker.
        version: u32,
    },
    /// Replaces this user's claim; the broker's listening sockets come with it.
    Claim {
        /// What is claimed.
        claim: Claim,
    },
    /// A stream socket that the capture rules let through.
    MarkedSocket {
        /// For which family.
        family: Family,
    },
    /// Which address the client of each redirected connection has itself: a redirect may change the source port.
    OriginalSources {
        /// The connections, at most [`MAX_SOURCES`].
        of: Vec<Redirected>,
    },
    /// A queue for the SYNs of what a claim asks about, and a way to answer. For the next claim of this session, and those after
    /// it; once in a session.
    Queue,
    /// Ends this user's claim.
    Release,
}

/// With which of the kernel's means connections are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueBy {
    /// The `queue` statement of nftables.
    Nft,
    /// The `NFQUEUE` target of xtables, by way of nftables' compatibility layer: for kernels without the statement.
    Xtables,
}

/// A connection that the kernel redirected to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redirected {
    /// The listener of this session's claim that accepted it.
    pub listener: SocketAddr,
    /// The peer that it saw.
    pub peer: SocketAddr,
}

/// What the helper answers; one for each request, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Reply {
    /// To `Hello`.
    Hello {
        /// [`VERSION`] of the helper.
        version: u32,
        /// What it can beyond that version; unknown ones are to be ignored.
        features: Vec<String>,
    },
    /// Done, to `Claim` and `Release`.
    Done,
    /// To `MarkedSocket`; the socket comes with it.
    Socket,
    /// To `OriginalSources`.
    Sources {
        /// The clients' addresses, in the order asked; nothing where the kernel tracks no such connection.
        sources: Vec<Option<SocketAddr>>,
    },
    /// To `Queue`. With it come the netlink socket that questions are read from, and the stream socket that answers go to.
    Queue {
        /// How they are held.
        by: QueueBy,
    },
    /// The request was refused.
    Error {
        /// For programs.
        code: ErrorCode,
        /// For people.
        text: String,
    },
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The other side's version is not spoken here. Ends the session.
    Version,
    /// A message that is not legal now, or none at all. Ends the session.
    Protocol,
    /// Too many sessions. Ends the session.
    TooMany,
    /// This user may not claim.
    NotAllowed,
    /// Another broker of this user holds the claim.
    Busy,
    /// A claim beyond its bounds.
    BadClaim,
    /// The sockets that came with a claim are not what they have to be; or a listener that is not of this session's claim.
    BadListener,
    /// The kernel did not take it; what was there before is there again.
    Kernel,
    /// This kernel cannot hold a SYN.
    NoQueue,
}

/// Bytes that are no message.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, or not of the message's form.
    #[error("not a message: {0}")]
    Form(#[from] serde_json::Error),
    /// A body that only a claim may have.
    #[error("a message of {0} bytes, and {MAX_OTHER} is the most for this kind")]
    TooLong(usize),
}

impl Request {
    /// From the body of a frame.
    ///
    /// # Errors
    /// When the bytes are no request, or are longer than their kind may be.
    pub fn decode(body: &[u8]) -> Result<Request, DecodeError> {
        let request = serde_json::from_slice(body)?;
        match request {
            Request::Claim { .. } => Ok(request),
            Request::Hello { .. }
            | Request::MarkedSocket { .. }
            | Request::OriginalSources { .. }
            | Request::Queue
            | Request::Release => {
                if body.len() > MAX_OTHER {
                    return Err(DecodeError::TooLong(body.len()));
                }
                Ok(request)
            }
        }
    }

    /// The body of a frame.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn encode(&self) -> Result<Vec<u8>, DecodeError> {
        Ok(serde_json::to_vec(self)?)
    }
}

impl Reply {
    /// A refusal, its text cut to what fits.
    pub fn refusal(code: ErrorCode, text: impl Into<String>) -> Reply {
        let mut text = text.into();
        let mut end = text.len().min(MAX_ERROR_TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        Reply::Error { code, text }
    }

    /// From the body of a frame.
    ///
    /// # Errors
    /// When the bytes are no reply.
    pub fn decode(body: &[u8]) -> Result<Reply, DecodeError> {
        if body.len() > MAX_OTHER {
            return Err(DecodeError::TooLong(body.len()));
        }
        Ok(serde_json::from_slice(body)?)
    }

    /// The body of a frame.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn encode(&self) -> Result<Vec<u8>, DecodeError> {
        Ok(serde_json::to_vec(self)?)
    }
}
