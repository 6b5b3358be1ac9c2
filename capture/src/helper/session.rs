//! One broker's session.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use adit_capture::frame::{Frame, FrameError, Frames};
use adit_capture::mark::MARK;
use adit_capture::sock_diag::Diag;
use adit_capture::wire::{
    DecodeError, ErrorCode, MAX_CLAIM, MAX_OTHER, ORIGINAL_SOURCE, Reply, Request, VERSION,
};
use adit_capture::{Claim, Family};
use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::account::Allowed;
use super::background::off_the_loop;
use super::desk::Desk;
use super::keeper::{Refusal, SessionId};
use super::listener::Listeners;
use super::log::Sparing;
use super::original_source::OriginalSources;
use super::permitted::{Kind, State};
use super::turn::{Turn, Turns};

/// How long a connection may stay without a word.
const HELLO_DEADLINE: Duration = Duration::from_secs(5);

static ENDED: Sparing = Sparing::new();
static NOT_ALLOWED: Sparing = Sparing::new();
static REFUSED: Sparing = Sparing::new();

/// Why a session is over, other than that the broker left.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("a thread of the helper: {0}")]
    Thread(#[from] tokio::task::JoinError),
    #[error("no hello within {} s", HELLO_DEADLINE.as_secs())]
    Silent,
    #[error("a {kind:?} is not legal now ({state:?})")]
    NotNow { kind: Kind, state: State },
    #[error("{count} descriptors with a {kind:?}")]
    Descriptors { kind: Kind, count: usize },
    #[error("version {0} is not spoken here, only {VERSION}")]
    Version(u32),
}

impl SessionError {
    fn code(&self) -> ErrorCode {
        match self {
            SessionError::Version(_) => ErrorCode::Version,
            SessionError::Frame(_)
            | SessionError::Decode(_)
            | SessionError::Thread(_)
            | SessionError::Silent
            | SessionError::NotNow { .. }
            | SessionError::Descriptors { .. } => ErrorCode::Protocol,
        }
    }
}

/// A session and what it may use.
#[derive(Debug)]
pub(crate) struct Session {
    frames: Frames,
    id: SessionId,
    uid: u32,
    state: State,
    sources: OriginalSources,
    desk: Desk,
    allowed: Allowed,
    turns: Turns,
}

impl Session {
    pub(crate) fn new(
        stream: UnixStream,
        (id, uid): (SessionId, u32),
        desk: Desk,
        allowed: Allowed,
        turns: Turns,
    ) -> Session {
        Session {
            frames: Frames::new(stream),
            id,
            uid,
            state: State::New,
            sources: OriginalSources::default(),
            desk,
            allowed,
            turns,
        }
    }

    /// Serves it until it ends, and sees to it that its end is known before this returns. Whether it had said hello.
    pub(crate) async fn run(mut self) -> bool {
        let served = self.serve().await;
        if let Err(error) = self.desk.ended(self.id, self.uid).await {
            tracing::debug!(uid = self.uid, %error, "the end of a session was not taken note of");
        }
        if let Err(error) = served {
            if let Some(unsaid) = ENDED.admit(Instant::now()) {
                tracing::warn!(uid = self.uid, %error, unsaid, "session ended");
            }
            // Last, as whoever does not read makes it wait. The reason is in the log as well.
            let _ = self
                .reply(Reply::refusal(error.code(), error.to_string()), None)
                .await;
        }
        self.state != State::New
    }

    async fn serve(&mut self) -> Result<(), SessionError> {
        self.frames.keep_short().map_err(FrameError::Socket)?;
        while let Some((frame, turn)) = self.next().await? {
            let Frame { body, descriptors } = frame;
            let request = match body.len() {
                0..=MAX_OTHER => Request::decode(&body)?,
                _ => off_the_loop(move || Request::decode(&body)).await??,
            };
            let kind = Kind::of(&request);
            if !self.state.permits(kind) {
                return Err(SessionError::NotNow {
                    kind,
                    state: self.state,
                });
            }
            if descriptors.len() > kind.descriptors() {
                return Err(SessionError::Descriptors {
                    kind,
                    count: descriptors.len(),
                });
            }
            let (reply, socket) = self.answer(request, descriptors).await?;
            // Whoever does not read its reply keeps nobody else waiting.
            drop(turn);
            self.reply(reply, socket).await?;
            // Sockets that nobody takes count against all that root has on the way to others (unix(7), `ETOOMANYREFS`).
            self.frames.taken().await?;
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<(Frame, Option<Turn>)>, SessionError> {
        let limit = match self.state {
            State::New => MAX_OTHER,
            // Who may not claim has no use for long frames.
            State::Greeted | State::Claimed if self.allowed.may_claim(self.uid) => MAX_CLAIM,
            State::Greeted | State::Claimed => MAX_OTHER,
        };
        let turns = &self.turns;
        let turn = async |length| match length {
            0..=MAX_OTHER => None,
            _ => turns.next().await,
        };
        let frame = self.frames.read_in_turn(limit, turn);
        match self.state {
            State::New => Ok(timeout(HELLO_DEADLINE, frame)
                .await
                .map_err(|_late| SessionError::Silent)??),
            State::Greeted | State::Claimed => Ok(frame.await?),
        }
    }

    async fn answer(
        &mut self,
        request: Request,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(Reply, Option<OwnedFd>), SessionError> {
        Ok(match request {
            Request::Hello { version: VERSION } => {
                self.state = State::Greeted;
                (
                    Reply::Hello {
                        version: VERSION,
                        features: vec![ORIGINAL_SOURCE.to_owned()],
                    },
                    None,
                )
            }
            Request::Hello { version } => return Err(SessionError::Version(version)),
            Request::MarkedSocket { family } => match marked_socket(family) {
                Ok(socket) => (Reply::Socket, Some(socket)),
                Err(error) => (
                    Reply::refusal(ErrorCode::Kernel, format!("cannot make a socket: {error}")),
                    None,
                ),
            },
            Request::OriginalSources { of } => (self.sources.answer(&of), None),
            Request::Queue => (
                Reply::refusal(ErrorCode::NoQueue, "this helper holds no connections"),
                None,
            ),
            Request::Claim { claim } => (self.claim(claim, descriptors).await, None),
            Request::Release => {
                let result = self.desk.release(self.id, self.uid).await;
                (self.outcome(result, State::Greeted), None)
            }
        })
    }

    async fn claim(&mut self, claim: Claim, descriptors: Vec<OwnedFd>) -> Reply {
        if !self.allowed.may_claim(self.uid) {
            let text = format!(
                "user {} is root or a system account; the helper's configuration does not name it",
                self.uid
            );
            if let Some(unsaid) = NOT_ALLOWED.admit(Instant::now()) {
                tracing::warn!(uid = self.uid, unsaid, "claim refused: a system account");
            }
            return Reply::refusal(ErrorCode::NotAllowed, text);
        }
        if let Err(error) = claim.check() {
            return self.outcome(Err(error.into()), State::Claimed);
        }
        let checked = Diag::open()
            .map_err(|error| Refusal::Listener(error.into()))
            .and_then(|mut diag| Ok(Listeners::check(descriptors, &mut diag)?))
            .and_then(|listeners| {
                let connection = self.frames.connection().map_err(Refusal::Connection)?;
                Ok((listeners, connection))
            });
        let result = match checked {
            Ok((listeners, connection)) => {
                let ports = listeners.ports;
                let result = self
                    .desk
                    .claim((self.id, connection), self.uid, claim, listeners)
                    .await;
                if result.is_ok() {
                    self.sources.claimed(ports);
                }
                result
            }
            Err(refusal) => Err(refusal),
        };
        self.outcome(result, State::Claimed)
    }

    fn outcome(&mut self, result: Result<(), Refusal>, then: State) -> Reply {
        match result {
            Ok(()) => {
                self.state = then;
                Reply::Done
            }
            Err(refusal) => {
                if let Some(unsaid) = REFUSED.admit(Instant::now()) {
                    tracing::warn!(uid = self.uid, error = %refusal, unsaid, "refused");
                }
                Reply::refusal(refusal.code(), refusal.to_string())
            }
        }
    }

    async fn reply(&mut self, reply: Reply, socket: Option<OwnedFd>) -> Result<(), SessionError> {
        let body = reply.encode()?;
        let descriptors: Vec<_> = socket.iter().map(AsFd::as_fd).collect();
        match self.frames.write(&body, &descriptors).await {
            // It goes with the first byte, so nothing of the frame has gone.
            Err(FrameError::Socket(error)) if socket.is_some() && too_many_underway(&error) => {
                let text =
                    "too many descriptors are on their way to programs that do not take them";
                let body = Reply::refusal(ErrorCode::Kernel, text).encode()?;
                Ok(self.frames.write(&body, &[]).await?)
            }
            written => Ok(written?),
        }
    }
}

/// Says why there is no session, to someone who need not listen.
pub(crate) async fn turn_away(stream: UnixStream, text: &str) {
    if let Ok(body) = Reply::refusal(ErrorCode::TooMany, text).encode() {
        let _ = Frames::new(stream).write(&body, &[]).await;
    }
}

fn too_many_underway(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ETOOMANYREFS as i32)
}

fn marked_socket(family: Family) -> io::Result<OwnedFd> {
    let domain = match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    };
    // Socket::new sets close-on-exec.
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_mark(MARK)?;
    Ok(socket.into())
}
