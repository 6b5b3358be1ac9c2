//! A running link: the core behind a lock, the driver that moves its bytes, and its two sides.

use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use crate::chunks::{ReadChunks, WriteChunks};
use crate::core::{Core, Notice, Output, Role};
use crate::end::{LinkEnd, OpenError};
use crate::header::{OpenHeader, Refusal, RefusalReason};
use crate::hello::{self, HandshakeError};
use crate::limits::Limits;
use crate::stream::Stream;

/// How long the last words of a link may take to be delivered.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Broker: exchange hellos, start.
///
/// # Errors
/// When the transport fails, or what answers is no link, or not one of a version that we speak.
pub async fn initiate<R: ReadChunks, W: WriteChunks>(
    read: R,
    write: W,
    limits: Limits,
) -> Result<(Link, Driver), HandshakeError> {
    let (shared, driver) = start(Role::Initiator, read, write, limits).await?;
    Ok((
        Link {
            shared: Arc::new(Handle(shared)),
        },
        driver,
    ))
}

/// Gateway: exchange hellos, start.
///
/// # Errors
/// When the transport fails, or what asks is no link, or not one of a version that we speak.
pub async fn accept<R: ReadChunks, W: WriteChunks>(
    read: R,
    write: W,
    limits: Limits,
) -> Result<(Incoming, Driver), HandshakeError> {
    let (shared, driver) = start(Role::Acceptor, read, write, limits).await?;
    Ok((Incoming { shared }, driver))
}

async fn start<R: ReadChunks, W: WriteChunks>(
    role: Role,
    mut read: R,
    mut write: W,
    limits: Limits,
) -> Result<(Shared, Driver), HandshakeError> {
    keep_heap();
    let (peer, rest) = hello::exchange(&mut read, &mut write, &limits).await?;
    let shared = Shared(Arc::new(Mutex::new(Core::new(role, limits, &peer))));
    let guard = AbandonGuard(shared.clone());
    let run = Box::pin(drive(guard, read, write, rest));
    Ok((shared, Driver { run }))
}

/// glibc gives the end of its heap back to the kernel as soon as 128 KiB of it are free, and a link
/// under load frees and takes megabytes all the time: a third of its processor time went into page
/// faults. Freeing a block that had been mapped raises that threshold to twice the block's size
/// (mallopt(3), M_MMAP_THRESHOLD). The block is never touched, so it costs no memory.
fn keep_heap() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| drop(std::hint::black_box(Vec::<u8>::with_capacity(16 << 20))));
}

/// The core behind its lock. The lock is never held over an await, nor while waking.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<Core>>);

impl Shared {
    /// Does something with the core, then wakes whom that concerns.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Core) -> T) -> T {
        let (result, woken) = {
            let mut core = self.lock();
            let result = act(&mut core);
            (result, core.take_woken())
        };
        woken.wake();
        result
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        // The core never panics on purpose; if it did, going on beats taking every flow down.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a link's input and output until it ends; says why it ended. Must be polled (spawned).
pub struct Driver {
    run: std::pin::Pin<Box<dyn Future<Output = LinkEnd> + Send>>,
}

impl Driver {
    /// Runs until the link has ended. Dropped earlier, it takes the link with it.
    pub async fn run(self) -> LinkEnd {
        self.run.await
    }
}

struct AbandonGuard(Shared);

impl Drop for AbandonGuard {
    fn drop(&mut self) {
        self.0.with(|core| core.fail(LinkEnd::Abandoned));
    }
}

async fn drive<R: ReadChunks, W: WriteChunks>(
    guard: AbandonGuard,
    mut read: R,
    mut write: W,
    rest: Bytes,
) -> LinkEnd {
    let shared = &guard.0;
    {
        let reading = read_all(shared, &mut read, rest);
        let writing = write_all(shared, &mut write);
        let patience = async {
            // What is left then is what `close` sends; a peer that does not take it is not waited for.
            ended(shared).await;
            sleep(LAST_WORDS).await;
        };
        tokio::select! {
            () = reading => {}
            () = writing => {}
            () = patience => {}
        }
    }
    let unknown = LinkEnd::Transport(String::from("ended"));
    shared.with(|core| core.end().cloned()).unwrap_or(unknown)
}

/// Feeds the core until its end; the reason is in the core. Never returns: after the end it takes
/// and drops what comes, since an SSH session that can't hand over what it has received sends nothing
/// either.
async fn read_all<R: ReadChunks>(shared: &Shared, read: &mut R, rest: Bytes) {
    let mut chunk = rest;
    loop {
        shared.with(|core| {
            if let Err(violation) = core.receive(chunk) {
                core.fail(LinkEnd::Protocol(violation));
            }
        });
        chunk = match read.read_chunk().await {
            Ok(Some(next)) => next,
            Ok(None) => break fail(shared, "it ended without a goodbye"),
            Err(error) => break fail(shared, &error.to_string()),
        };
    }
    std::future::pending().await
}

async fn write_all<W: WriteChunks>(shared: &Shared, write: &mut W) {
    loop {
        let output = std::future::poll_fn(|cx| shared.with(|core| core.poll_output(cx.waker())));
        let sent = match output.await {
            Output::Chunk(chunk) => write.write_chunk(chunk).await,
            Output::Finish => {
                if let Err(error) = write.finish().await {
                    tracing::debug!(%error, "the transport did not finish cleanly");
                }
                return;
            }
        };
        if let Err(error) = sent {
            return fail(shared, &error.to_string());
        }
    }
}

fn fail(shared: &Shared, reason: &str) {
    shared.with(|core| core.fail(LinkEnd::Transport(reason.to_owned())));
}

/// The broker's side of a link: opens streams. Cheap to clone. When the last clone is gone, the
/// link ends with its last stream.
#[derive(Clone)]
pub struct Link {
    shared: Arc<Handle>,
}

struct Handle(Shared);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.with(|core| core.drain("no longer used"));
    }
}

impl Link {
    /// Sends the header at once. The stream may be relayed before the answer: payload rides along.
    ///
    /// # Errors
    /// When the link has ended or takes no new streams, when too many are open, and when the
    /// header is not one (a name that can't be a name).
    pub fn open(&self, header: &OpenHeader) -> Result<Stream, OpenError> {
        let shared = &self.shared.0;
        let id = shared.with(|core| core.open(header))?;
        Ok(Stream::new(shared.clone(), id))
    }

    /// Resolves when the link has ended.
    pub async fn ended(&self) -> LinkEnd {
        ended(&self.shared.0).await
    }

    /// Why it ended, if it has.
    pub fn end(&self) -> Option<LinkEnd> {
        self.shared.0.with(|core| core.end().cloned())
    }

    /// True when [`Self::open`] would fail for good: time for another link.
    pub fn is_closing(&self) -> bool {
        self.shared.0.with(|core| core.is_closing())
    }

    /// Resolves when the gateway has said something after the notice with this number; 0 for anything
    /// at all. Only the latest is kept.
    pub async fn notice_after(&self, number: u64) -> Notice {
        let core = &self.shared.0;
        std::future::poll_fn(|cx| core.with(|core| core.poll_notice(number, cx.waker()))).await
    }

    /// How many streams are open.
    pub fn streams(&self) -> usize {
        self.shared.0.with(|core| core.streams())
    }

    /// Say goodbye and stop. Streams that are open end as with a broken link; what streams that have
    /// ended still had to send goes before the goodbye, as far as the peer takes it within two seconds.
    pub fn close(&self) {
        self.shared
            .0
            .with(|core| core.close("closed by the broker"));
    }

    /// Open nothing more, and end the link with its last stream.
    pub fn drain(&self) {
        self.shared.0.with(|core| core.drain("the broker goes"));
    }
}

/// The gateway's side of a link: receives streams.
pub struct Incoming {
    shared: Shared,
}

impl Incoming {
    /// The next stream that the broker asks for; `None` when there will be none.
    pub async fn next(&mut self) -> Option<Request> {
        let (id, header) =
            std::future::poll_fn(|cx| self.shared.with(|core| core.poll_request(cx.waker())))
                .await?;
        Some(Request {
            header,
            stream: Some(Stream::new(self.shared.clone(), id)),
        })
    }

    /// How many streams are open or asked for.
    pub fn streams(&self) -> usize {
        self.shared.with(|core| core.streams())
    }

    /// How many requests the link refused by itself so far, as busy: those beyond
    /// [`Limits::max_streams`], and those that came or still waited when no more were taken.
    /// [`Self::next`] never gave them.
    pub fn refused_in_core(&self) -> u64 {
        self.shared.with(|core| core.refused())
    }

    /// Resolves when the link has ended.
    pub async fn ended(&self) -> LinkEnd {
        ended(&self.shared).await
    }

    /// Words for whoever looks at the broker: how it is about to go on with this link. Empty words take
    /// the last ones back. A broker that does not know of notices is told nothing.
    pub fn notify(&self, words: &str) {
        self.shared.with(|core| core.notify(words));
    }

    /// See [`Link::close`]: stop taking streams and say goodbye.
    pub fn close(&self) {
        self.shared.with(|core| core.close("closed by the gateway"));
    }

    /// Take no more streams, and end the link with its last stream.
    pub fn drain(&self) {
        self.shared.with(|core| core.drain("the gateway goes"));
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.shared
            .with(|core| core.drain("the gateway takes no more streams"));
    }
}

async fn ended(shared: &Shared) -> LinkEnd {
    std::future::poll_fn(|cx| shared.with(|core| core.poll_ended(cx.waker()))).await
}

/// A stream that a broker asked for and that waits for an answer. Dropped = refused as Failed.
pub struct Request {
    header: OpenHeader,
    stream: Option<Stream>,
}

impl Request {
    /// What is asked for, and who asks.
    pub fn header(&self) -> &OpenHeader {
        &self.header
    }

    /// Says yes.
    pub fn accept(mut self) -> Stream {
        let stream = self
            .stream
            .take()
            .unwrap_or_else(|| unreachable!("taken only here"));
        stream.accept();
        stream
    }

    /// Says no.
    pub fn refuse(mut self, refusal: Refusal) {
        self.answer_no(&refusal);
    }

    /// Resolves when the broker has given up waiting, so that dialling can stop.
    pub async fn cancelled(&self) {
        if let Some(stream) = &self.stream {
            stream.broken().await;
        }
    }

    fn answer_no(&mut self, refusal: &Refusal) {
        if let Some(stream) = self.stream.take() {
            stream.refuse(refusal);
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let detail = String::from("the gateway dropped the request");
        self.answer_no(&Refusal {
            reason: RefusalReason::Failed,
            detail,
        });
    }
}
