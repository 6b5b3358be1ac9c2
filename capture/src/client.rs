//! A broker's session with the helper.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::claim::{Claim, Family};
use crate::frame::{FrameError, Frames};
use crate::questions::{Answers, Questions};
use crate::wire::{
    ASK, DecodeError, ErrorCode, MAX_OTHER, QueueBy, Redirected, Reply, Request, VERSION,
};

/// How long the helper may take for one request.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// The same for changes of the kernel's rules: nft takes seconds for tens of thousands of networks, and users take turns.
const CHANGE_DEADLINE: Duration = Duration::from_secs(60);
/// Requests that wait for their turn; the next one waits for a place.
const QUEUE: usize = 64;

/// A session with the helper. Cheap to clone; requests are answered in order.
///
/// The session ends when the last clone is dropped; the helper then does what the claim says of a broker that is gone. A broker
/// that leaves for good calls [`Client::release`] first.
#[derive(Debug, Clone)]
pub struct Client {
    jobs: mpsc::Sender<Job>,
    alive: watch::Receiver<()>,
    features: Arc<[String]>,
}

/// What a user's held connections are asked about by, and answered with.
#[derive(Debug)]
pub struct Queue {
    /// How the kernel holds them.
    pub by: QueueBy,
    /// From the kernel.
    pub questions: Questions,
    /// To the helper.
    pub answers: Answers,
}

/// Why the helper could not be asked, or said no.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("no capture helper at {}: {source}", path.display())]
    Connect {
        /// Where it was looked for.
        path: PathBuf,
        /// What connect(2) said.
        source: io::Error,
    },
    /// A listener could not be duplicated for the journey.
    #[error("cannot duplicate the listening socket: {0}")]
    Duplicate(#[source] io::Error),
    /// The connection to it failed.
    #[error("capture helper: {0}")]
    Frame(#[from] FrameError),
    /// It said something that is no reply.
    #[error("capture helper: {0}")]
    Decode(#[from] DecodeError),
    /// It answered something else than was asked.
    #[error("the capture helper answered out of turn")]
    OutOfTurn,
    /// It did not answer in time. The session is over.
    #[error("the capture helper did not answer in time")]
    TimedOut,
    /// The session is over.
    #[error("the capture helper is gone")]
    Gone,
    /// The sockets of a queue could not be waited for.
    #[error("cannot use the sockets of a queue: {0}")]
    Queue(#[source] io::Error),
    /// It refused.
    #[error("the capture helper refused: {text}")]
    Refused {
        /// For programs.
        code: ErrorCode,
        /// For people.
        text: String,
    },
}

impl Client {
    /// Opens a session with the helper that listens at `socket`.
    ///
    /// # Errors
    /// When nobody listens there, or it speaks another version.
    pub async fn connect(socket: &Path) -> Result<Client, ClientError> {
        let stream = UnixStream::connect(socket)
            .await
            .map_err(|source| ClientError::Connect {
                path: socket.to_owned(),
                source,
            })?;
        let mut frames = Frames::new(stream);
        let (reply, _descriptors) =
            exchange(&mut frames, &Request::Hello { version: VERSION }, &[]).await?;
        let features = greeted(reply)?.into();
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (life, alive) = watch::channel(());
        tokio::spawn(drive(frames, queue, life));
        Ok(Client {
            jobs,
            alive,
            features,
        })
    }

    /// Replaces this user's claim. `listeners`: the broker's listening sockets, one bound to 127.0.0.1 and one to ::1. A family
    /// without a listener is refused where it would have been handed over.
    ///
    /// # Errors
    /// When the helper refuses; what was claimed before is then still in force.
    pub async fn claim(
        &self,
        claim: &Claim,
        listeners: &[BorrowedFd<'_>],
    ) -> Result<(), ClientError> {
        let descriptors = listeners
            .iter()
            .map(BorrowedFd::try_clone_to_owned)
            .collect::<io::Result<_>>()
            .map_err(ClientError::Duplicate)?;
        self.ask(
            Request::Claim {
                claim: claim.clone(),
            },
            descriptors,
        )
        .await?
        .done()
    }

    /// A stream socket that the capture rules let through: close-on-exec, non-blocking, not connected.
    ///
    /// # Errors
    /// When the helper refuses or is gone.
    pub async fn marked_socket(&self, family: Family) -> Result<OwnedFd, ClientError> {
        self.ask(Request::MarkedSocket { family }, Vec::new())
            .await?
            .socket()
    }

    /// The address that the client's own socket has, of each connection that was redirected to a listener of this session's
    /// claim: a redirect may change the source port. In the order asked, at most [`crate::wire::MAX_SOURCES`]; `None`: the kernel
    /// tracks no such connection.
    ///
    /// Only while the claim is in force; the helper ends a session that asks before.
    ///
    /// # Errors
    /// When the helper refuses or is gone.
    pub async fn original_sources(
        &self,
        of: Vec<Redirected>,
    ) -> Result<Vec<Option<SocketAddr>>, ClientError> {
        let asked = of.len();
        let sources = self
            .ask(Request::OriginalSources { of }, Vec::new())
            .await?
            .sources()?;
        if sources.len() == asked {
            Ok(sources)
        } else {
            Err(ClientError::OutOfTurn)
        }
    }

    /// A queue for the connections that the next claims of this session ask about. Once in a session, before such a claim.
    ///
    /// # Errors
    /// [`ErrorCode::NoQueue`] where the kernel cannot hold a SYN, or the helper is an older one; when the helper refuses
    /// otherwise or is gone.
    pub async fn queue(&self) -> Result<Queue, ClientError> {
        if !self.features.iter().any(|feature| feature == ASK) {
            return Err(ClientError::Refused {
                code: ErrorCode::NoQueue,
                text: "it is an older one, which holds no connections".to_owned(),
            });
        }
        self.ask(Request::Queue, Vec::new()).await?.queue()
    }

    /// Ends this user's claim (also one left by an earlier broker): nothing of it is left in the kernel.
    ///
    /// # Errors
    /// When the helper refuses or is gone.
    pub async fn release(&self) -> Result<(), ClientError> {
        self.ask(Request::Release, Vec::new()).await?.done()
    }

    /// Resolves when the helper is gone. Whoever waits for it keeps no session open.
    pub fn gone(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut alive = self.alive.clone();
        async move { while alive.changed().await.is_ok() {} }
    }

    async fn ask(
        &self,
        request: Request,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Answer, ClientError> {
        let (reply, answer) = oneshot::channel();
        let job = Job {
            request,
            descriptors,
            reply,
        };
        self.jobs
            .send(job)
            .await
            .map_err(|_closed| ClientError::Gone)?;
        answer.await.map_err(|_closed| ClientError::Gone)?
    }
}

#[derive(Debug)]
struct Job {
    request: Request,
    descriptors: Vec<OwnedFd>,
    reply: oneshot::Sender<Result<Answer, ClientError>>,
}

#[derive(Debug)]
struct Answer {
    reply: Reply,
    descriptors: Vec<OwnedFd>,
}

impl Answer {
    fn done(self) -> Result<(), ClientError> {
        match self.reply {
            Reply::Done => Ok(()),
            Reply::Error { code, text } => Err(ClientError::Refused { code, text }),
            Reply::Hello { .. } | Reply::Socket | Reply::Sources { .. } | Reply::Queue { .. } => {
                Err(ClientError::OutOfTurn)
            }
        }
    }

    fn socket(mut self) -> Result<OwnedFd, ClientError> {
        match self.reply {
            Reply::Socket => self.descriptors.pop().ok_or(ClientError::OutOfTurn),
            Reply::Error { code, text } => Err(ClientError::Refused { code, text }),
            Reply::Hello { .. } | Reply::Done | Reply::Sources { .. } | Reply::Queue { .. } => {
                Err(ClientError::OutOfTurn)
            }
        }
    }

    fn queue(self) -> Result<Queue, ClientError> {
        let by = match self.reply {
            Reply::Queue { by } => by,
            Reply::Error { code, text } => return Err(ClientError::Refused { code, text }),
            Reply::Hello { .. } | Reply::Done | Reply::Socket | Reply::Sources { .. } => {
                return Err(ClientError::OutOfTurn);
            }
        };
        let Ok([questions, answers]) = <[OwnedFd; 2]>::try_from(self.descriptors) else {
            return Err(ClientError::OutOfTurn);
        };
        Ok(Queue {
            by,
            questions: Questions::new(questions).map_err(ClientError::Queue)?,
            answers: Answers::new(answers).map_err(ClientError::Queue)?,
        })
    }

    fn sources(self) -> Result<Vec<Option<SocketAddr>>, ClientError> {
        match self.reply {
            Reply::Sources { sources } => Ok(sources),
            Reply::Error { code, text } => Err(ClientError::Refused { code, text }),
            Reply::Hello { .. } | Reply::Done | Reply::Socket | Reply::Queue { .. } => {
                Err(ClientError::OutOfTurn)
            }
        }
    }
}

/// Owns the connection. `_life` says by its drop that the session is over.
async fn drive(mut frames: Frames, mut queue: mpsc::Receiver<Job>, _life: watch::Sender<()>) {
    loop {
        let job = tokio::select! {
            job = queue.recv() => job,
            () = frames.disturbed() => return,
        };
        let Some(Job {
            request,
            descriptors,
            reply,
        }) = job
        else {
            return;
        };
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        let answer = exchange(&mut frames, &request, &borrowed)
            .await
            .map(|(reply, descriptors)| Answer { reply, descriptors });
        let over = answer.is_err();
        // Whoever asked may have stopped waiting; the answer had to be read all the same.
        let _ = reply.send(answer);
        if over {
            return;
        }
    }
}

/// Whether there is a session after this, and what the helper can.
fn greeted(reply: Reply) -> Result<Vec<String>, ClientError> {
    match reply {
        Reply::Hello {
            version: VERSION,
            features,
        } => Ok(features),
        Reply::Hello { version, .. } => {
            let text = format!("it speaks version {version}, this program {VERSION}");
            Err(ClientError::Refused {
                code: ErrorCode::Version,
                text,
            })
        }
        Reply::Error { code, text } => Err(ClientError::Refused { code, text }),
        Reply::Done | Reply::Socket | Reply::Sources { .. } | Reply::Queue { .. } => {
            Err(ClientError::OutOfTurn)
        }
    }
}

async fn exchange(
    frames: &mut Frames,
    request: &Request,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(Reply, Vec<OwnedFd>), ClientError> {
    let body = request.encode()?;
    let both = async {
        let written = frames.write(&body, descriptors).await;
        match written {
            // Whoever is turned away is told why, and need not be heard before.
            Err(FrameError::Socket(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                let last = frames.read(MAX_OTHER).await.ok().flatten();
                last.ok_or(ClientError::Frame(FrameError::Socket(error)))
            }
            written => {
                written?;
                frames.read(MAX_OTHER).await?.ok_or(ClientError::Gone)
            }
        }
    };
    let deadline = match request {
        Request::Claim { .. } | Request::Release => CHANGE_DEADLINE,
        Request::Hello { .. }
        | Request::MarkedSocket { .. }
        | Request::OriginalSources { .. }
        | Request::Queue => ANSWER_DEADLINE,
    };
    let frame = timeout(deadline, both)
        .await
        .map_err(|_late| ClientError::TimedOut)??;
    Ok((Reply::decode(&frame.body)?, frame.descriptors))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    /// A helper that says this, before it is asked or after, and leaves.
    async fn check(reply: Reply, heard: bool, expected: ErrorCode) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let helper = async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut frames = Frames::new(stream);
            if heard {
                frames.read(MAX_OTHER).await.unwrap().unwrap();
            }
            frames.write(&reply.encode().unwrap(), &[]).await.unwrap();
        };
        // The helper first: it has left by the time that the client speaks.
        let stream = UnixStream::connect(&path).await.unwrap();
        let client = async {
            let mut frames = Frames::new(stream);
            let hello = Request::Hello { version: VERSION };
            exchange(&mut frames, &hello, &[]).await
        };
        let answer = match heard {
            true => tokio::join!(helper, client).1,
            false => {
                helper.await;
                client.await
            }
        };
        let found = greeted(answer.unwrap().0);
        match found {
            Err(ClientError::Refused { code, .. }) => assert_eq!(code, expected),
            other => panic!("{other:?} and not {expected:?}"),
        }
    }

    #[tokio::test]
    async fn a_refused_session_says_why() {
        let other = Reply::Hello {
            version: VERSION + 1,
            features: Vec::new(),
        };
        check(other, true, ErrorCode::Version).await;
        for code in [ErrorCode::Version, ErrorCode::TooMany] {
            for heard in [true, false] {
                check(Reply::refusal(code, "no"), heard, code).await;
            }
        }
    }
}
