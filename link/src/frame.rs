//! Frames on the wire: their header, and the incremental decoder. See docs/PROTOCOL.link.md.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Length of a frame's header: type, flags, length (u16), stream (u32), in network byte order.
pub(crate) const HEADER: usize = 8;
/// The longest body of a frame other than DATA.
pub(crate) const MAX_CONTROL_BODY: usize = 8192;
/// The longest body of a DATA frame.
pub(crate) const MAX_DATA_BODY: u32 = 65_535;
/// On DATA: the sender's credit is used up by this frame.
pub(crate) const FLAG_LIMITED: u8 = 1;
/// The only one known of those that may be skipped, which begin here; unknown types below end the link.
const NOTICE: u8 = 0x80;
/// Unknown types from here on are skipped.
const FIRST_SKIPPED: u8 = NOTICE + 1;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Open,
    Opened,
    Refused,
    Data,
    Window,
    Fin,
    Reset,
    Ping,
    Pong,
    Goodbye,
    /// Skipped by those who do not know of it.
    Notice,
    /// Unknown, but marked as one that may be skipped.
    Skipped,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Open => 0x01,
            Self::Opened => 0x02,
            Self::Refused => 0x03,
            Self::Data => 0x04,
            Self::Window => 0x05,
            Self::Fin => 0x06,
            Self::Reset => 0x07,
            Self::Ping => 0x08,
            Self::Pong => 0x09,
            Self::Goodbye => 0x0a,
            Self::Notice => NOTICE,
            Self::Skipped => u8::MAX,
        }
    }

    fn from_code(code: u8) -> Result<Self, FrameError> {
        Ok(match code {
            0x01 => Self::Open,
            0x02 => Self::Opened,
            0x03 => Self::Refused,
            0x04 => Self::Data,
            0x05 => Self::Window,
            0x06 => Self::Fin,
            0x07 => Self::Reset,
            0x08 => Self::Ping,
            0x09 => Self::Pong,
            0x0a => Self::Goodbye,
            NOTICE => Self::Notice,
            FIRST_SKIPPED.. => Self::Skipped,
            unknown => return Err(FrameError::UnknownType(unknown)),
        })
    }

    fn belongs_to_stream(self) -> bool {
        !matches!(self, Self::Ping | Self::Pong | Self::Goodbye | Self::Notice)
    }
}

/// A frame that can't be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A type that we don't know and that must not be skipped.
    #[error("unknown frame type {0:#04x}")]
    UnknownType(u8),
    /// A body longer than its type may have.
    #[error("a frame of type {kind:#04x} with {length} bytes")]
    TooLong {
        /// The frame's type.
        kind: u8,
        /// The length that it announced.
        length: u32,
    },
    /// A frame of a stream without a stream, or one of the link with one.
    #[error("a frame of type {kind:#04x} on stream {stream}")]
    WrongStream {
        /// The frame's type.
        kind: u8,
        /// The stream that it named.
        stream: u32,
    },
}

/// A decoded frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    pub(crate) length: u16,
    pub(crate) stream: u32,
}

impl Header {
    pub(crate) fn new(kind: Kind, stream: u32, length: u16) -> Self {
        Self {
            kind,
            flags: 0,
            length,
            stream,
        }
    }

    pub(crate) fn to_bytes(self) -> [u8; HEADER] {
        let [l0, l1] = self.length.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        [self.kind.code(), self.flags, l0, l1, s0, s1, s2, s3]
    }

    fn parse(bytes: [u8; HEADER]) -> Result<Self, FrameError> {
        let [code, flags, l0, l1, s0, s1, s2, s3] = bytes;
        let kind = Kind::from_code(code)?;
        let length = u16::from_be_bytes([l0, l1]);
        let stream = u32::from_be_bytes([s0, s1, s2, s3]);
        let limited = !matches!(kind, Kind::Data | Kind::Skipped);
        if limited && usize::from(length) > MAX_CONTROL_BODY {
            return Err(FrameError::TooLong {
                kind: code,
                length: u32::from(length),
            });
        }
        if kind != Kind::Skipped && kind.belongs_to_stream() != (stream != 0) {
            return Err(FrameError::WrongStream { kind: code, stream });
        }
        Ok(Self {
            kind,
            flags,
            length,
            stream,
        })
    }
}

/// Appends a whole frame with a short body.
pub(crate) fn put(out: &mut BytesMut, kind: Kind, stream: u32, body: &[u8]) {
    debug_assert!(body.len() <= MAX_CONTROL_BODY);
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    out.put_slice(&Header::new(kind, stream, length).to_bytes());
    out.put_slice(&body[..usize::from(length)]);
}

/// What the decoder found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// A whole frame other than DATA.
    Control {
        kind: Kind,
        stream: u32,
        body: Bytes,
    },
    /// A piece of a DATA frame; `limited` is the frame's flag, set on its last piece.
    Data {
        stream: u32,
        bytes: Bytes,
        limited: bool,
    },
}

#[derive(Debug)]
enum Stage {
    Header,
    Control(Header, BytesMut),
    Data { header: Header, left: usize },
    Skip { left: usize },
}

/// Takes the byte stream apart. DATA is handed out in slices of what came in, without waiting for
/// the rest of its frame; other frames are gathered (at most [`MAX_CONTROL_BODY`]).
#[derive(Debug)]
pub(crate) struct Decoder {
    stage: Stage,
    head: [u8; HEADER],
    have: usize,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self {
            stage: Stage::Header,
            head: [0; HEADER],
            have: 0,
        }
    }

    /// The next item in `input`, which is advanced; `None` when all of it is taken.
    pub(crate) fn next(&mut self, input: &mut Bytes) -> Result<Option<Item>, FrameError> {
        loop {
            match &mut self.stage {
                Stage::Header => {
                    let Some(header) = self.take_header(input)? else {
                        return Ok(None);
                    };
                    self.begin(header);
                }
                Stage::Control(header, gathered) => {
                    let header = *header;
                    let missing = usize::from(header.length) - gathered.len();
                    if input.len() < missing {
                        gathered.extend_from_slice(input);
                        input.clear();
                        return Ok(None);
                    }
                    let body = if gathered.is_empty() {
                        input.split_to(missing)
                    } else {
                        gathered.extend_from_slice(&input.split_to(missing));
                        std::mem::take(gathered).freeze()
                    };
                    self.stage = Stage::Header;
                    let Header { kind, stream, .. } = header;
                    return Ok(Some(Item::Control { kind, stream, body }));
                }
                Stage::Data { header, left } => {
                    let limited = header.flags & FLAG_LIMITED != 0;
                    let stream = header.stream;
                    if *left > 0 && input.is_empty() {
                        return Ok(None);
                    }
                    let bytes = input.split_to(input.len().min(*left));
                    *left -= bytes.len();
                    let last = *left == 0;
                    if last {
                        self.stage = Stage::Header;
                    }
                    return Ok(Some(Item::Data {
                        stream,
                        bytes,
                        limited: limited && last,
                    }));
                }
                Stage::Skip { left } => {
                    let skipped = input.len().min(*left);
                    input.advance(skipped);
                    *left -= skipped;
                    if *left > 0 {
                        return Ok(None);
                    }
                    self.stage = Stage::Header;
                }
            }
        }
    }

    fn begin(&mut self, header: Header) {
        let left = usize::from(header.length);
        self.stage = match header.kind {
            Kind::Data => Stage::Data { header, left },
            Kind::Skipped => Stage::Skip { left },
            Kind::Open
            | Kind::Opened
            | Kind::Refused
            | Kind::Window
            | Kind::Fin
            | Kind::Reset
            | Kind::Ping
            | Kind::Pong
            | Kind::Goodbye
            | Kind::Notice => Stage::Control(header, BytesMut::new()),
        };
    }

    fn take_header(&mut self, input: &mut Bytes) -> Result<Option<Header>, FrameError> {
        let taken = input.len().min(HEADER - self.have);
        input.copy_to_slice(&mut self.head[self.have..self.have + taken]);
        self.have += taken;
        if self.have < HEADER {
            return Ok(None);
        }
        self.have = 0;
        Header::parse(self.head).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;

    use super::*;
    use crate::header::{Host, OpenHeader};

    fn stream(frames: &[(Kind, u32, Vec<u8>)]) -> Bytes {
        let mut out = BytesMut::new();
        for (kind, stream, body) in frames {
            put(&mut out, *kind, *stream, body);
        }
        out.freeze()
    }

    /// Decodes pieces of the given lengths; DATA is put together again.
    fn decode(bytes: &Bytes, cuts: &[usize]) -> Result<Vec<(Kind, u32, Vec<u8>)>, FrameError> {
        let mut decoder = Decoder::new();
        let mut rest = bytes.clone();
        let mut found = Vec::new();
        let mut data = Vec::new();
        for cut in cuts.iter().copied().chain([usize::MAX]) {
            let mut piece = rest.split_to(cut.min(rest.len()));
            while let Some(item) = decoder.next(&mut piece)? {
                match item {
                    Item::Control { kind, stream, body } => {
                        found.push((kind, stream, body.to_vec()))
                    }
                    Item::Data { stream, bytes, .. } => {
                        data.extend_from_slice(&bytes);
                        if matches!(decoder.stage, Stage::Header) {
                            found.push((Kind::Data, stream, std::mem::take(&mut data)));
                        }
                    }
                }
            }
        }
        Ok(found)
    }

    fn frames() -> impl Strategy<Value = Vec<(Kind, u32, Vec<u8>)>> {
        let kinds = prop::sample::select(vec![
            Kind::Open,
            Kind::Opened,
            Kind::Refused,
            Kind::Data,
            Kind::Window,
            Kind::Fin,
            Kind::Reset,
        ]);
        let body = prop::collection::vec(any::<u8>(), 0..50);
        prop::collection::vec((kinds, 1..u32::MAX, body), 0..20)
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting(frames in frames(), cuts in prop::collection::vec(0..40_usize, 0..60)) {
            prop_assert_eq!(decode(&stream(&frames), &cuts), Ok(frames));
        }

        #[test]
        fn a_truncated_stream_gives_its_whole_frames(frames in frames()) {
            let bytes = stream(&frames);
            for cut in 0..bytes.len() {
                let found = decode(&bytes.slice(..cut), &[]).unwrap();
                prop_assert_eq!(&found[..], &frames[..found.len()]);
            }
        }

        #[test]
        fn any_bytes_are_frames_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400), cuts in prop::collection::vec(0..40_usize, 0..20)) {
            let bytes = Bytes::from(bytes);
            prop_assert_eq!(decode(&bytes, &cuts), decode(&bytes, &[]));
        }
    }

    /// The example of docs/PROTOCOL.link.md.
    #[test]
    fn the_documented_bytes() {
        let host = Host::Address(IpAddr::from(Ipv4Addr::new(10, 1, 2, 3)));
        let header = OpenHeader {
            host,
            port: 443,
            application: Some(String::from("/bin/nc")),
        };
        let mut out = BytesMut::new();
        put(&mut out, Kind::Open, 1, &header.encode().unwrap());
        put(&mut out, Kind::Data, 1, b"hi");
        put(&mut out, Kind::Fin, 1, b"");
        let documented = include_str!("../../docs/PROTOCOL.link.md");
        let block = documented
            .split("then FIN:\n\n```\n")
            .nth(1)
            .unwrap()
            .split("```")
            .next()
            .unwrap();
        let expected: Vec<u8> = block
            .split_whitespace()
            .map(|byte| u8::from_str_radix(byte, 16).unwrap())
            .collect();
        assert_eq!(out, expected);
    }

    #[test]
    fn a_long_control_body_is_refused_before_it_is_gathered() {
        let bytes = Bytes::copy_from_slice(&[0x01, 0, 0x20, 0x01, 0, 0, 0, 1]);
        let expected = FrameError::TooLong {
            kind: 1,
            length: 8193,
        };
        assert_eq!(decode(&bytes, &[]), Err(expected));
    }
}
