//! One broker's session.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_capture::frame::{Frame, FrameError, Frames};
use adit_capture::mark::MARK;
use adit_capture::sock_diag::Diag;
use adit_capture::wire::{
    ASK, DecodeError, ErrorCode, MAX_CLAIM, MAX_OTHER, ORIGINAL_SOURCE, Reply, Request, VERSION,
};
use adit_capture::{Claim, Family};
use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::account::Allowed;
use super::answers::{self, AnswerError};
use super::background::off_the_loop;
use super::desk::Desk;
use super::keeper::{Refusal, SessionId};
use super::listener::Listeners;
use super::log::Sparing;
use super::original_source::OriginalSources;
use super::permitted::{Kind, State};
use super::queue::Queue;
use super::turn::{Turn, Turns};

/// How long a connection may stay without a word.
const HELLO_DEADLINE: Duration = Duration::from_secs(5);

static ENDED: Sparing = Sparing::new();
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
    #[error("answers: {0}")]
    Answers(#[from] AnswerError),
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
            | SessionError::Answers(_)
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
    asked: Option<Asked>,
    /// Where it is said why answers can no longer be acted on.
    mute: (mpsc::Sender<AnswerError>, mpsc::Receiver<AnswerError>),
}

/// What a session holds connections by.
#[derive(Debug)]
struct Asked {
    queue: Arc<Queue>,
    /// Acts on answers, until this is dropped.
    _acting: JoinSet<()>,
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
            asked: None,
            mute: mpsc::channel(1),
        }
    }

    /// Serves it until it ends, and sees to it that its end is known before this returns. Whether it had said hello.
    pub(crate) async fn run(mut self) -> bool {
        let (_, idle) = mpsc::channel(1);
        let mut mute = std::mem::replace(&mut self.mute.1, idle);
        let served = tokio::select! {
            served = self.serve() => served,
            Some(error) = mute.recv() => Err(error.into()),
        };
        // No answer is acted on between the end and what it leads to.
        let queue = self.asked.take().map(|asked| asked.queue);
        if let Err(error) = self.desk.ended(self.id, self.uid).await {
            tracing::debug!(uid = self.uid, %error, "the end of a session was not taken note of");
        }
        drop(queue);
        if let Err(error) = served {
            if let Some(unsaid) = ENDED.admit(Instant::now()) {
                tracing::warn!(uid = self.uid, %error, unsaid, "session ended");
            }
            // Last, as whoever does not read makes it wait. The reason is in the log as well.
            let _ = self
                .reply(Reply::refusal(error.code(), error.to_string()), Vec::new())
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
            if !self.state.permits(kind, self.asked.is_some()) {
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
            let (reply, sockets) = self.answer(request, descriptors).await?;
            // Whoever does not read its reply keeps nobody else waiting.
            drop(turn);
            if !self.reply(reply, sockets).await? && kind == Kind::Queue {
                self.asked = None;
            }
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
    ) -> Result<(Reply, Vec<OwnedFd>), SessionError> {
        Ok(match request {
            Request::Hello { version: VERSION } => {
                self.state = State::Greeted;
                (
                    Reply::Hello {
                        version: VERSION,
                        features: vec![ORIGINAL_SOURCE.to_owned(), ASK.to_owned()],
                    },
                    Vec::new(),
                )
            }
            Request::Hello { version } => return Err(SessionError::Version(version)),
            Request::MarkedSocket { family } => match marked_socket(family) {
                Ok(socket) => (Reply::Socket, vec![socket]),
                Err(error) => (
                    Reply::refusal(ErrorCode::Kernel, format!("cannot make a socket: {error}")),
                    Vec::new(),
                ),
            },
            Request::OriginalSources { of } => (self.sources.answer(&of), Vec::new()),
            Request::Queue => match self.queue().await {
                Ok(queue) => queue,
                Err(refusal) => (self.refusal(&refusal), Vec::new()),
            },
            Request::Claim { claim } => (self.claim(claim, descriptors).await, Vec::new()),
            Request::Release => {
                let result = self.desk.release(self.id, self.uid).await;
                (self.outcome(result, State::Greeted), Vec::new())
            }
        })
    }

    async fn queue(&mut self) -> Result<(Reply, Vec<OwnedFd>), Refusal> {
        if !self.allowed.may_claim(self.uid) {
            return Err(Refusal::NotAllowed(self.uid));
        }
        let (by, queue) = self.desk.queue(self.id, self.uid).await?;
        let questions = queue.questions().map_err(Refusal::Descriptors)?;
        let (answers, theirs) = answers::way().map_err(Refusal::Descriptors)?;
        let (acting, mute) = (answers::act(answers, queue.clone()), self.mute.0.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            if let Err(error) = acting.await {
                // The first ends the session.
                let _ = mute.try_send(error);
            }
        });
        self.asked = Some(Asked {
            queue,
            _acting: tasks,
        });
        Ok((Reply::Queue { by }, vec![questions, theirs]))
    }

    async fn claim(&mut self, claim: Claim, descriptors: Vec<OwnedFd>) -> Reply {
        if !self.allowed.may_claim(self.uid) {
            return self.refusal(&Refusal::NotAllowed(self.uid));
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
                let queue = self.asked.as_ref().map(|asked| asked.queue.clone());
                let result = self
                    .desk
                    .claim((self.id, connection), self.uid, claim, (listeners, queue))
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
            Err(refusal) => self.refusal(&refusal),
        }
    }

    fn refusal(&self, refusal: &Refusal) -> Reply {
        if let Some(unsaid) = REFUSED.admit(Instant::now()) {
            tracing::warn!(uid = self.uid, error = %refusal, unsaid, "refused");
        }
        Reply::refusal(refusal.code(), refusal.to_string())
    }

    /// Whether it went as it is; else a refusal went in its place.
    async fn reply(&mut self, reply: Reply, sockets: Vec<OwnedFd>) -> Result<bool, SessionError> {
        let body = reply.encode()?;
        let descriptors: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        match self.frames.write(&body, &descriptors).await {
            // It goes with the first byte, so nothing of the frame has gone.
            Err(FrameError::Socket(error)) if !sockets.is_empty() && too_many_underway(&error) => {
                let text =
                    "too many descriptors are on their way to programs that do not take them";
                let body = Reply::refusal(ErrorCode::Kernel, text).encode()?;
                self.frames.write(&body, &[]).await?;
                Ok(false)
            }
            written => Ok(written.map(|()| true)?),
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
