//! The far end of a link to a gateway that knows of no link, and forwards ports as any sshd does. The rest of the broker sees a link as
//! any other.

use std::time::Duration;

use adit_link::{
    Counters, Driver, HandshakeError, Host, Incoming, Limits, Link, ReadChunks, Refusal,
    RefusalReason, RelayEnd, Request, WriteChunks, relay_chunks,
};
use tokio::io::{DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

/// For what streams that have ended still have to send.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Bytes between the two ends of the link.
const PIPE: usize = 256 << 10;

/// What has ports forwarded. Cheap to clone.
pub(super) trait Forwards: Clone + Send + Sync + 'static {
    /// What comes from the destination.
    type Read: ReadChunks;
    /// What goes there.
    type Write: WriteChunks;
    /// What a flow has as long as it is open.
    type Held: Send;

    /// A flow to a port of a host, whose name the gateway resolves.
    fn open(
        &self,
        host: String,
        port: u16,
    ) -> impl Future<Output = Result<Opened<Self>, Refusal>> + Send;

    /// A flow has ended as both of its sides wanted.
    fn finished(&self, held: Self::Held);

    /// Whether another should take its place: it takes no new flows then, and goes on with the old ones.
    fn is_worn(&self) -> bool;
}

/// A flow that is open.
pub(super) struct Opened<F: Forwards> {
    pub(super) read: F::Read,
    pub(super) write: F::Write,
    pub(super) held: F::Held,
}

/// What serves the far end of a link. It ends with this.
pub(super) struct FarEnd(JoinHandle<()>);

impl Drop for FarEnd {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A link whose far end is here. It ends when `gone` does.
pub(super) async fn link_over<F: Forwards>(
    forwards: F,
    gone: impl Future<Output = ()> + Send + 'static,
) -> Result<(Link, Driver, FarEnd), HandshakeError> {
    let (near, far) = duplex(PIPE);
    let far_end = FarEnd(tokio::spawn(serve(forwards, gone, far)));
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
async fn serve<F: Forwards>(forwards: F, gone: impl Future<Output = ()>, far: DuplexStream) {
    let (read, write) = halves(far);
    let Ok((mut incoming, driver)) = adit_link::accept(read, write, Limits::default()).await else {
        return;
    };
    let mut driver = tokio::spawn(driver.run());
    let mut flows = JoinSet::new();
    tokio::select! {
        () = take_streams(&forwards, &mut incoming, &mut flows) => {
            let _ = timeout(LAST_WORDS, &mut driver).await;
        }
        () = gone => {}
    }
    driver.abort();
}

async fn take_streams<F: Forwards>(forwards: &F, incoming: &mut Incoming, flows: &mut JoinSet<()>) {
    loop {
        tokio::select! {
            request = incoming.next() => match request {
                Some(request) => {
                    flows.spawn(flow(forwards.clone(), request));
                }
                None => break,
            },
            Some(()) = async { flows.join_next().await.map(drop) } => {
                if forwards.is_worn() {
                    incoming.drain();
                }
            }
        }
    }
    // The link ends with its last stream.
    while flows.join_next().await.is_some() {}
}

/// One stream, from its header to its end.
async fn flow<F: Forwards>(forwards: F, request: Request) {
    let header = request.header();
    let host = match &header.host {
        Host::Address(address) => address.to_string(),
        Host::Name(name) => name.clone(),
    };
    let port = header.port;
    let opened = tokio::select! {
        biased;
        () = request.cancelled() => return,
        opened = forwards.open(host, port) => opened,
    };
    let Opened { read, write, held } = match opened {
        Ok(opened) => opened,
        Err(refusal) => return request.refuse(refusal),
    };
    let stream = request.accept();
    let end = relay_chunks(read, write, stream, &Counters::default()).await;
    tracing::debug!(?end, "a flow through a gateway without a link ended");
    if matches!(end, RelayEnd::Finished) {
        forwards.finished(held);
    }
}

/// Of a channel that was not opened. The words are the system's, as OpenSSH passes them on (`channel_post_connecting` in its channels.c).
pub(super) fn refusal(is_prohibited: bool, words: &str) -> Refusal {
    if is_prohibited {
        let advice =
            "its sshd does not allow it (AllowTcpForwarding, PermitOpen, the key's options)";
        return refused(RefusalReason::Denied, advice);
    }
    let known = [
        ("Connection refused", RefusalReason::Refused),
        ("No route to host", RefusalReason::HostUnreachable),
        ("Network is unreachable", RefusalReason::NetworkUnreachable),
        ("Connection timed out", RefusalReason::TimedOut),
        ("Name or service not known", RefusalReason::Unresolvable),
        ("name resolution", RefusalReason::Unresolvable),
        ("No address associated", RefusalReason::Unresolvable),
    ];
    let known = known.iter().find(|(text, _)| words.contains(text));
    refused(
        known.map_or(RefusalReason::Failed, |(_, reason)| *reason),
        words,
    )
}

pub(super) fn refused(reason: RefusalReason, detail: &str) -> Refusal {
    Refusal {
        reason,
        detail: detail.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sshd_says_is_what_programs_are_told() {
        let check = |is_prohibited, words: &str, expected| {
            assert_eq!(refusal(is_prohibited, words).reason, expected, "{words}");
        };
        check(false, "Connection refused", RefusalReason::Refused);
        check(false, "No route to host", RefusalReason::HostUnreachable);
        check(
            false,
            "Name or service not known",
            RefusalReason::Unresolvable,
        );
        check(
            false,
            "unknown host (Temporary failure in name resolution)",
            RefusalReason::Unresolvable,
        );
        check(false, "", RefusalReason::Failed);
        check(true, "open failed", RefusalReason::Denied);
    }
}
