//! A running link: the core behind a lock, the driver that moves its bytes, and its two sides.

use std::future::poll_fn;
use std::sync::{Arc, Once};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use crate::chunks::{ReadChunks, WriteChunks};
use crate::core::{Core, Notice, Output, Role};
use crate::end::{LinkEnd, OpenError};
use crate::header::{OpenHeader, Refusal, RefusalReason};
use crate::hello::{self, HandshakeError};
use crate::limits::Limits;
use crate::multiplexer::Multiplexer;
use crate::shared::Shared;
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
    Ok((Link::over(shared.into_multiplexer()), driver))
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
    let shared = Shared::new(Core::new(role, limits, &peer));
    let guard = AbandonGuard(shared.clone());
    let driver = Driver::new(drive(guard, read, write, rest));
    Ok((shared, driver))
}

/// glibc gives the end of its heap back to the kernel as soon as 128 KiB of it are free, and a link
/// under load frees and takes megabytes all the time: a third of its processor time went into page
/// faults. Freeing a block that had been mapped raises that threshold to twice the block's size
/// (mallopt(3), M_MMAP_THRESHOLD). The block is never touched, so it costs no memory.
fn keep_heap() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| drop(std::hint::black_box(Vec::<u8>::with_capacity(16 << 20))));
}

/// Runs a link's input and output until it ends; says why it ended. Must be polled (spawned).
pub struct Driver {
    run: std::pin::Pin<Box<dyn Future<Output = LinkEnd> + Send>>,
}

impl Driver {
    /// Of a [`Multiplexer`] that `run` carries.
    pub fn new(run: impl Future<Output = LinkEnd> + Send + 'static) -> Self {
        Self { run: Box::pin(run) }
    }

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
        let output = poll_fn(|cx| shared.with(|core| core.poll_output(cx.waker())));
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
    handle: Arc<Handle>,
}

struct Handle(Arc<dyn Multiplexer>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.drain("no longer used");
    }
}

impl Link {
    /// Of whatever else carries streams.
    pub fn over(multiplexer: Arc<dyn Multiplexer>) -> Self {
        Self {
            handle: Arc::new(Handle(multiplexer)),
        }
    }

    fn multiplexer(&self) -> &Arc<dyn Multiplexer> {
        &self.handle.0
    }

    /// Sends the header at once. The stream may be relayed before the answer: payload rides along.
    ///
    /// # Errors
    /// When the link has ended or takes no new streams, when too many are open, and when the
    /// header is not one (a name that can't be a name).
    pub fn open(&self, header: &OpenHeader) -> Result<Stream, OpenError> {
        let id = self.multiplexer().open(header)?;
        Ok(Stream::new(self.multiplexer().clone(), id))
    }

    /// Resolves when the link has ended.
    pub async fn ended(&self) -> LinkEnd {
        poll_fn(|cx| self.multiplexer().poll_end(cx.waker())).await
    }

    /// Why it ended, if it has.
    pub fn end(&self) -> Option<LinkEnd> {
        self.multiplexer().end()
    }

    /// True when [`Self::open`] would fail for good: time for another link.
    pub fn is_closing(&self) -> bool {
        self.multiplexer().is_closing()
    }

    /// Resolves when the gateway has said something after the notice with this number; 0 for anything
    /// at all. Only the latest is kept.
    pub async fn notice_after(&self, number: u64) -> Notice {
        poll_fn(|cx| self.multiplexer().poll_notice(number, cx.waker())).await
    }

    /// How many streams are open.
    pub fn streams(&self) -> usize {
        self.multiplexer().streams()
    }

    /// Say goodbye and stop. Streams that are open end as with a broken link; what streams that have
    /// ended still had to send goes before the goodbye, as far as the peer takes it within two seconds.
    pub fn close(&self) {
        self.multiplexer().close("closed by the broker");
    }

    /// Open nothing more, and end the link with its last stream.
    pub fn drain(&self) {
        self.multiplexer().drain("the broker goes");
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
            poll_fn(|cx| self.shared.with(|core| core.poll_request(cx.waker()))).await?;
        let stream = Stream::new(self.shared.clone().into_multiplexer(), id);
        Some(Request {
            header,
            stream: Some((self.shared.clone(), stream)),
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
    poll_fn(|cx| shared.with(|core| core.poll_ended(cx.waker()))).await
}

/// A stream that a broker asked for and that waits for an answer. Dropped = refused as Failed.
pub struct Request {
    header: OpenHeader,
    stream: Option<(Shared, Stream)>,
}

impl Request {
    /// What is asked for, and who asks.
    pub fn header(&self) -> &OpenHeader {
        &self.header
    }

    /// Says yes.
    pub fn accept(mut self) -> Stream {
        let (shared, stream) = self
            .stream
            .take()
            .unwrap_or_else(|| unreachable!("taken only here"));
        shared.with(|core| core.accept(stream.id()));
        stream
    }

    /// Says no.
    pub fn refuse(mut self, refusal: Refusal) {
        self.answer_no(&refusal);
    }

    /// Resolves when the broker has given up waiting, so that dialling can stop.
    pub async fn cancelled(&self) {
        if let Some((_, stream)) = &self.stream {
            stream.broken().await;
        }
    }

    fn answer_no(&mut self, refusal: &Refusal) {
        if let Some((shared, stream)) = self.stream.take() {
            let id = stream.id();
            stream.forget();
            shared.with(|core| core.refuse(id, refusal));
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
