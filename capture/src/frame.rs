//! Frames on a Unix stream socket: a length of four bytes, big-endian, then the body. Descriptors travel with a frame's first
//! byte (`SCM_RIGHTS`, unix(7)) and nowhere else.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recv, recvmsg, sendmsg,
};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Most descriptors with one frame.
pub const MAX_DESCRIPTORS: usize = 2;
/// How long the rest of a frame may take once it has begun, either way.
pub const FRAME_DEADLINE: Duration = Duration::from_secs(10);

/// A body grows by this much at a time, so that memory follows what was sent and not what was announced.
const CHUNK: usize = 64 * 1024;

/// One frame.
#[derive(Debug)]
pub struct Frame {
    /// Its body.
    pub body: Vec<u8>,
    /// What came with its first byte.
    pub descriptors: Vec<OwnedFd>,
}

/// A frame that could not be read or written; the connection is of no use afterwards.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The socket failed.
    #[error("the connection failed: {0}")]
    Socket(#[from] io::Error),
    /// The other side left in the middle of a frame.
    #[error("the connection ended inside a frame")]
    Cut,
    /// Longer than allowed here.
    #[error("a frame of {length} bytes, and {limit} is the most here")]
    TooLong {
        /// As announced.
        length: usize,
        /// What is allowed.
        limit: usize,
    },
    /// More descriptors than [`MAX_DESCRIPTORS`], or some after the first byte.
    #[error("descriptors that have no place there")]
    Descriptors,
    /// Begun, and not finished in [`FRAME_DEADLINE`].
    #[error("a frame was begun and not finished in time")]
    TooSlow,
}

/// A Unix stream socket that carries frames.
#[derive(Debug)]
pub struct Frames {
    stream: UnixStream,
}

impl Frames {
    /// Frames on this stream.
    pub fn new(stream: UnixStream) -> Frames {
        Frames { stream }
    }

    /// Another descriptor of the same socket, for those who only want to know whether the other side is still there.
    ///
    /// # Errors
    /// When descriptors ran out.
    pub fn connection(&self) -> io::Result<OwnedFd> {
        self.stream.as_fd().try_clone_to_owned()
    }

    /// The next frame, however long it takes to begin; `None` when the other side has left between frames.
    ///
    /// # Errors
    /// See [`FrameError`]; the connection is of no use afterwards. The same is true when this future is dropped.
    pub async fn read(&mut self, limit: usize) -> Result<Option<Frame>, FrameError> {
        let read = self.read_in_turn(limit, |_length| std::future::ready(()));
        Ok(read.await?.map(|(frame, ())| frame))
    }

    /// The same for who has to bound what all connections together send: the body is read once `turn`, which is told its
    /// length, has resolved. To what it resolves comes with the frame.
    ///
    /// # Errors
    /// As for [`Frames::read`].
    pub async fn read_in_turn<T, F: Future<Output = T>>(
        &mut self,
        limit: usize,
        turn: impl FnOnce(usize) -> F,
    ) -> Result<Option<(Frame, T)>, FrameError> {
        let mut header = [0; 4];
        // One byte alone: a longer read would also take the descriptors of a byte further on.
        let (count, descriptors) = self.first(&mut header[..1]).await?;
        if count == 0 {
            return Ok(None);
        }
        timeout(FRAME_DEADLINE, self.fill(&mut header[count..]))
            .await
            .map_err(|_late| FrameError::TooSlow)??;
        let length = u32::from_be_bytes(header) as usize;
        if length > limit {
            return Err(FrameError::TooLong { length, limit });
        }
        let turn = turn(length).await;
        let rest = async {
            let mut body = Vec::new();
            while body.len() < length {
                let start = body.len();
                body.resize(length.min(start + CHUNK), 0);
                self.fill(&mut body[start..]).await?;
            }
            Ok::<_, FrameError>(body)
        };
        let body = timeout(FRAME_DEADLINE, rest)
            .await
            .map_err(|_late| FrameError::TooSlow)??;
        Ok(Some((Frame { body, descriptors }, turn)))
    }

    /// Writes one frame.
    ///
    /// # Errors
    /// See [`FrameError`]; the connection is of no use afterwards.
    pub async fn write(
        &mut self,
        body: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), FrameError> {
        let length = u32::try_from(body.len()).map_err(|_large| FrameError::TooLong {
            length: body.len(),
            limit: u32::MAX as usize,
        })?;
        if descriptors.len() > MAX_DESCRIPTORS {
            return Err(FrameError::Descriptors);
        }
        let mut bytes = Vec::with_capacity(4 + body.len());
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(body);
        timeout(FRAME_DEADLINE, self.send(&bytes, descriptors))
            .await
            .map_err(|_late| FrameError::TooSlow)?
    }

    /// Lets little wait at the other side, so that [`Frames::taken`] tells something.
    ///
    /// # Errors
    /// When the socket does not take the option.
    pub fn keep_short(&self) -> io::Result<()> {
        // The kernel makes its minimum of it (socket(7), `SO_SNDBUF`).
        SockRef::from(&self.stream).set_send_buffer_size(0)
    }

    /// Resolves when the other side has taken what it was sent, but for two small frames at most, or has left.
    ///
    /// By the kernel's word on when a socket is ready: when what waits fills less than a quarter of what may (`unix_writable`
    /// of net/unix/af_unix.c). Only after [`Frames::keep_short`] is that so little.
    ///
    /// # Errors
    /// When the socket cannot be waited for.
    pub async fn taken(&self) -> Result<(), FrameError> {
        let ready = || {
            let mut socket = [PollFd::new(self.stream.as_fd(), PollFlags::POLLOUT)];
            match poll(&mut socket, PollTimeout::ZERO)? {
                0 => Err(io::Error::from(io::ErrorKind::WouldBlock)),
                _ => Ok(()),
            }
        };
        Ok(self.stream.async_io(Interest::WRITABLE, ready).await?)
    }

    /// Resolves when the other side has left, or has said something that no one asked for.
    pub async fn disturbed(&self) {
        loop {
            if self.stream.readable().await.is_err() {
                return;
            }
            let peek = self.stream.try_io(Interest::READABLE, || {
                let mut byte = [0_u8; 1];
                Ok(recv(
                    &self.stream,
                    &mut byte[..],
                    RecvFlags::PEEK | RecvFlags::DONTWAIT,
                )?)
            });
            match peek {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(_) | Err(_) => return,
            }
        }
    }

    async fn first(&self, header: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), FrameError> {
        let mut descriptors = Vec::new();
        let (count, flags) = self
            .stream
            .async_io(Interest::READABLE, || {
                let mut space =
                    [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let received = recvmsg(
                    &self.stream,
                    &mut [IoSliceMut::new(header)],
                    &mut control,
                    RecvFlags::CMSG_CLOEXEC,
                )?;
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(rights) = message {
                        descriptors.extend(rights);
                    }
                }
                Ok((received.bytes, received.flags))
            })
            .await?;
        if flags.contains(ReturnFlags::CTRUNC) || descriptors.len() > MAX_DESCRIPTORS {
            return Err(FrameError::Descriptors);
        }
        Ok((count, descriptors))
    }

    async fn fill(&self, mut buffer: &mut [u8]) -> Result<(), FrameError> {
        while !buffer.is_empty() {
            let (count, flags) = self
                .stream
                .async_io(Interest::READABLE, || {
                    // Without room for descriptors the kernel closes what comes, and says so.
                    let received = recvmsg(
                        &self.stream,
                        &mut [IoSliceMut::new(buffer)],
                        &mut RecvAncillaryBuffer::new(&mut []),
                        RecvFlags::CMSG_CLOEXEC,
                    )?;
                    Ok((received.bytes, received.flags))
                })
                .await?;
            if flags.contains(ReturnFlags::CTRUNC) {
                return Err(FrameError::Descriptors);
            }
            if count == 0 {
                return Err(FrameError::Cut);
            }
            buffer = &mut buffer[count..];
        }
        Ok(())
    }

    async fn send(
        &self,
        mut bytes: &[u8],
        mut descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), FrameError> {
        while !bytes.is_empty() {
            let count = self
                .stream
                .async_io(Interest::WRITABLE, || {
                    let mut space =
                        [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
                    let mut control = SendAncillaryBuffer::new(&mut space);
                    if !descriptors.is_empty()
                        && !control.push(SendAncillaryMessage::ScmRights(descriptors))
                    {
                        return Err(io::Error::from(io::ErrorKind::InvalidInput));
                    }
                    let bytes = [IoSlice::new(bytes)];
                    Ok(sendmsg(
                        &self.stream,
                        &bytes,
                        &mut control,
                        SendFlags::NOSIGNAL,
                    )?)
                })
                .await?;
            bytes = &bytes[count..];
            descriptors = &[];
        }
        Ok(())
    }
}
