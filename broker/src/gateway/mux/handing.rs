//! Connections of programs that a master gets whole (`MUX_C_NEW_STDIO_FWD` of PROTOCOL.mux): it reads and writes them itself, and the broker is out of
//! the way of their payload.
//!
//! What is different from a channel: when the destination ends, ssh reads nothing more from the program (`force_drain` in its channels.c) and is done with the connection. So whoever
//! handed it over keeps it too, and tells its program of the end, or that something was not taken any more.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use adit_link::{LinkEnd, OpenError, OpenHeader};
use bytes::{Buf as _, BufMut as _, BytesMut};
use rustix::fs::{Mode, OFlags};
use tempfile::TempDir;
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

use super::super::descriptor::send;
use super::wire::{
    self, ALIVE_CHECK, HELLO, IS_ALIVE, SESSION_OPENED, STDIO_FORWARD, VERSION, framed,
    framed_bytes, next_message, put_string,
};
use super::{Channels, MuxError, drive};

/// For a destination; as long as for a channel.
const PATIENCE: Duration = super::state::DIAL_PATIENCE;
/// For a master to let somebody in, to say that it goes on, and for its connection to end when it does not.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
/// Connections to its control socket that it has not let in yet: no more than wait there (64, `listen` in its mux.c) without being turned away.
const MOST_ENTERING: usize = 32;
/// Bytes that are read ahead.
const AHEAD: usize = 64;

/// Where a master makes its control socket: in a directory that only its user can enter, and that is gone with this.
pub(crate) struct Place {
    _directory: TempDir,
    path: PathBuf,
}

impl Place {
    /// One that nobody else has.
    pub(crate) fn new() -> io::Result<Self> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("master");
        Ok(Self {
            _directory: directory,
            path,
        })
    }

    /// Of the socket.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The socket that is there, to be connected to also when the place is gone.
    pub(crate) fn socket(&self) -> io::Result<ControlSocket> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(ControlSocket {
            socket: rustix::fs::open(&self.path, flags, Mode::empty())?,
            entering: Arc::new(Semaphore::new(MOST_ENTERING)),
            sign_of_life: Mutex::default(),
            wants_to_know: AtomicU64::new(0),
        })
    }
}

/// A master's control socket, which has no name any more: no other process finds a way into the connection, and none is left behind.
pub(crate) struct ControlSocket {
    /// What was at the name (open(2), `O_PATH`).
    socket: OwnedFd,
    entering: Arc<Semaphore>,
    sign_of_life: Mutex<SignOfLife>,
    /// How many have wanted to know so far whether it goes on.
    wants_to_know: AtomicU64,
}

/// What is known of whether a master goes on.
#[derive(Default)]
struct SignOfLife {
    /// Where it was asked last.
    control: Option<Control>,
    /// As many had wanted to know when the last question that it answered was not asked yet.
    answered: u64,
}

impl ControlSocket {
    /// A connection of one's own to the master, and the first thing that is asked there.
    async fn ask(&self, question: &[u8]) -> Result<Control, MuxError> {
        let entering = self.entering.clone().acquire_owned().await;
        // A name of what the descriptor stands for, whatever other names it had (proc(5)).
        let name = format!("/proc/self/fd/{}", self.socket.as_raw_fd());
        let socket = UnixStream::connect(name).await?;
        socket.writable().await?;
        let words = [framed(&[HELLO, VERSION]), framed_bytes(question)].concat();
        // A socket on which nothing was said yet has room for it.
        if socket.try_write(&words)? != words.len() {
            return Err(io::Error::from(io::ErrorKind::WriteZero).into());
        }
        let (read, write) = socket.into_split();
        Ok(Control {
            read: BufReader::with_capacity(AHEAD, read),
            write,
            entering: entering.ok(),
        })
    }

    /// Whether the master still serves its connections: one that ends closes all of them as well, but only one that goes on can answer. One
    /// answer is good for all who wanted to know before its question.
    async fn goes_on(&self) -> Result<(), MuxError> {
        let number = 1 + self.wants_to_know.fetch_add(1, Ordering::SeqCst);
        let mut sign = self.sign_of_life.lock().await;
        if sign.answered >= number {
            return Ok(());
        }
        let all = self.wants_to_know.load(Ordering::SeqCst);
        let question = wire::words(&[ALIVE_CHECK, 0]);
        // Who gives up while it is asked leaves none behind that has an answer on its way.
        let mut control = match sign.control.take() {
            Some(mut control) => {
                control.write.write_all(&framed_bytes(&question)).await?;
                control
            }
            None => self.ask(&question).await?,
        };
        match control.answer().await? {
            IS_ALIVE => {
                sign.control = Some(control);
                sign.answered = all;
                Ok(())
            }
            _ => Err(MuxError::Nonsense),
        }
    }
}

/// A connection to a master's control socket.
struct Control {
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
    /// Until it is let in.
    entering: Option<OwnedSemaphorePermit>,
}

impl Control {
    /// The answer to what was asked, as its kind.
    async fn answer(&mut self) -> Result<u32, MuxError> {
        if let Some(entering) = self.entering.take() {
            let mut hello = next_message(&mut self.read).await?;
            if (hello.try_get_u32(), hello.try_get_u32()) != (Ok(HELLO), Ok(VERSION)) {
                return Err(MuxError::NotShared);
            }
            drop(entering);
        }
        let mut answer = next_message(&mut self.read).await?;
        answer.try_get_u32().map_err(|_| MuxError::Nonsense)
    }

    /// Resolves when the master has closed it.
    async fn closed(&mut self) {
        while next_message(&mut self.read).await.is_ok() {}
    }
}

/// Why a connection was not handed over. It is still the caller's alone, but where the destination did not answer.
#[derive(Debug, thiserror::Error)]
pub enum NotHanded {
    /// There are to be no more, or not now, or not to there.
    #[error(transparent)]
    NotOpened(#[from] OpenError),
    /// The master or its server said no; it does not say why.
    #[error("ssh does not take it")]
    Refused,
    /// The master can't be asked.
    #[error("its control socket: {0}")]
    Unasked(String),
    /// Neither yes nor no in time. The master still has it, and drops it when it has an answer.
    #[error("the gateway did not answer")]
    Unanswered,
}

/// Hands connections over to a master. Cheap to clone.
#[derive(Clone)]
pub struct Handing {
    channels: Arc<Channels>,
    master: Arc<ControlSocket>,
}

impl std::fmt::Debug for Handing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handing").finish_non_exhaustive()
    }
}

impl Handing {
    pub(super) fn new(channels: Arc<Channels>, master: ControlSocket) -> Self {
        let master = Arc::new(master);
        Self { channels, master }
    }

    /// Hands over a connection whose other end is to be where `header` says. Once this is `Ok` the master reads and writes it.
    ///
    /// # Errors
    /// When it does not.
    pub async fn hand(
        &self,
        connection: BorrowedFd<'_>,
        header: &OpenHeader,
    ) -> Result<Handed, NotHanded> {
        self.channels.with(|state| state.hand(header))?;
        let counted = Counted(self.channels.clone());
        let sent = timeout(SIGN_OF_LIFE, self.send(connection, header)).await;
        let late = |_| NotHanded::Unasked("it lets nobody in".to_owned());
        let mut control = sent.map_err(late)??;
        let (tell, told) = oneshot::channel();
        // A master whose control connection closes before it has an answer ends itself (`no remote_id` in its channels.c), so this outlives whoever waits.
        tokio::spawn(async move {
            let answer = control.answer().await;
            let _ = tell.send((answer, control, counted));
        });
        match timeout(PATIENCE, told).await {
            Ok(Ok((Ok(SESSION_OPENED), control, counted))) => Ok(Handed {
                control,
                counted,
                master: self.master.clone(),
            }),
            Ok(Ok((Ok(_), ..))) => Err(NotHanded::Refused),
            Ok(Ok((Err(error), ..))) => Err(NotHanded::Unasked(error.to_string())),
            Ok(Err(gone)) => Err(NotHanded::Unasked(gone.to_string())),
            Err(_) => Err(NotHanded::Unanswered),
        }
    }

    /// How many have ended so far.
    #[cfg(test)]
    pub(super) fn ended(&self) -> u64 {
        self.master.wants_to_know.load(Ordering::SeqCst)
    }

    /// Asks, and gives the connection twice: to be read, and to be written. The master waits for them, so nothing is awaited between.
    async fn send(
        &self,
        connection: BorrowedFd<'_>,
        header: &OpenHeader,
    ) -> Result<Control, NotHanded> {
        let mut question = BytesMut::new();
        question.put_u32(STDIO_FORWARD);
        question.put_u32(0);
        put_string(&mut question, b"");
        put_string(&mut question, wire::host(header).as_bytes());
        question.put_u32(u32::from(header.port));
        let asked = self.master.ask(&question).await;
        let control = asked.map_err(|error| NotHanded::Unasked(error.to_string()))?;
        for _ in 0..2 {
            send(control.write.as_ref().as_fd(), connection)
                .map_err(|error| NotHanded::Unasked(error.to_string()))?;
        }
        Ok(control)
    }
}

/// One that the master has.
struct Counted(Arc<Channels>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.with(|state| state.handed_back());
    }
}

/// A connection that the master reads and writes. Dropped, it does so no more.
pub struct Handed {
    control: Control,
    counted: Counted,
    master: Arc<ControlSocket>,
}

impl Handed {
    /// Resolves when the master is done with the connection: both ends have ended, or one did and the other is not listened to any more.
    ///
    /// # Errors
    /// When it is not, but gone itself, or without its own connection.
    pub async fn done(mut self) -> Result<(), LinkEnd> {
        self.control.closed().await;
        if let Ok(Ok(())) = timeout(SIGN_OF_LIFE, self.master.goes_on()).await {
            return Ok(());
        }
        let ended = timeout(SIGN_OF_LIFE, drive::ended(&self.counted.0));
        Err(ended.await.unwrap_or(LinkEnd::Abandoned))
    }
}
