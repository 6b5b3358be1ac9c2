//! The far end of a link to a gateway that knows of no link, and forwards ports as any sshd does. The rest of the broker sees a link as
//! any other.

use std::sync::Arc;
use std::time::Duration;

use adit_link::{
    Counters, Driver, HandshakeError, Host, Incoming, Limits, Link, RelayEnd, Request, relay_chunks,
};
use tokio::io::{DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::bare::Pool;

/// For what streams that have ended still have to send.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Bytes between the two ends of the link.
const PIPE: usize = 256 << 10;

/// What serves the far end of a link. It ends with this.
pub(super) struct FarEnd(JoinHandle<()>);

impl Drop for FarEnd {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A link whose far end is here. It ends when `gone` does.
pub(super) async fn link_over(
    pool: Arc<Pool>,
    gone: impl Future<Output = ()> + Send + 'static,
) -> Result<(Link, Driver, FarEnd), HandshakeError> {
    let (near, far) = duplex(PIPE);
    let far_end = FarEnd(tokio::spawn(serve(pool, gone, far)));
    let (read, write) = halves(near);
    let (link, driver) = adit_link::initiate(read, write, Limits::default()).await?;
    Ok((link, driver, far_end))
}

type Reader = adit_link::pipe::PipeReader<ReadHalf<DuplexStream>>;
type Writer = adit_link::pipe::PipeWriter<WriteHalf<DuplexStream>>;

fn halves(stream: DuplexStream) -> (Reader, Writer) {
    let (read, write) = split(stream);
    adit_link::pipe::split(read, write)
}

/// Takes streams until there are no more, or the gateway is gone; then all flows are.
async fn serve(pool: Arc<Pool>, gone: impl Future<Output = ()>, far: DuplexStream) {
    let (read, write) = halves(far);
    let Ok((mut incoming, driver)) = adit_link::accept(read, write, Limits::default()).await else {
        return;
    };
    let mut driver = tokio::spawn(driver.run());
    let mut flows = JoinSet::new();
    tokio::select! {
        () = take_streams(&pool, &mut incoming, &mut flows) => {
            let _ = timeout(LAST_WORDS, &mut driver).await;
        }
        () = gone => {}
    }
    driver.abort();
}

async fn take_streams(pool: &Arc<Pool>, incoming: &mut Incoming, flows: &mut JoinSet<()>) {
    loop {
        tokio::select! {
            request = incoming.next() => match request {
                Some(request) => {
                    flows.spawn(flow(pool.clone(), request));
                }
                None => break,
            },
            Some(_) = flows.join_next() => {}
        }
    }
    // The link ends with its last stream.
    while flows.join_next().await.is_some() {}
}

/// One stream, from its header to its end.
async fn flow(pool: Arc<Pool>, request: Request) {
    let header = request.header();
    let host = match &header.host {
        Host::Address(address) => address.to_string(),
        Host::Name(name) => name.clone(),
    };
    let port = header.port;
    let opened = tokio::select! {
        biased;
        () = request.cancelled() => return,
        opened = pool.open(&host, port) => opened,
    };
    let (lent, channel) = match opened {
        Ok(opened) => opened,
        Err(refusal) => return request.refuse(refusal),
    };
    let (read, write) = lent.halves(channel);
    let stream = request.accept();
    let end = relay_chunks(read, write, stream, &Counters::default()).await;
    tracing::debug!(?end, "a flow through a gateway without a link ended");
    if matches!(end, RelayEnd::Finished) {
        pool.finished(lent);
    }
}
