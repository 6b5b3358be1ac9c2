//! Serves one link: each stream that is asked for is opened and relayed in a task of its own.
use std::sync::Arc;
use std::time::Duration;

use adit_link::{
    HandshakeError, Host, Incoming, LinkEnd, OpenHeader, ReadChunks, Request, WriteChunks,
};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{error::Elapsed, timeout};

use crate::asked::Asked;
use crate::audit::{self, Question};
use crate::gateway::Gateway;
use crate::permissions::Way;
use crate::sessions::Session;

/// What the session has to say to its broker.
type Notices = watch::Receiver<Arc<str>>;

/// Time for a goodbye to be sent when the gateway stops.
const GOODBYE: Duration = Duration::from_secs(2);

/// Why a link never began.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No hello in time.
    #[error("the broker did not begin the link in time")]
    Silent(#[from] Elapsed),
    /// The hellos did not fit.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

/// Serves a link until it ends, or until the gateway stops; no stream of it is left when this
/// returns.
///
/// # Errors
/// It never began.
pub async fn serve<R: ReadChunks, W: WriteChunks>(
    gateway: &Arc<Gateway>,
    session: &Arc<Session>,
    read: R,
    write: W,
) -> Result<LinkEnd, LinkError> {
    let hello = adit_link::accept(read, write, adit_link::Limits::default());
    let (mut incoming, driver) = tokio::select! {
        begun = timeout(gateway.limits().login_grace, hello) => begun??,
        _ = gateway.over(session) => return Ok(LinkEnd::Closed),
    };
    let mut driver = tokio::spawn(driver.run());
    let mut flows = JoinSet::new();
    let mut notices = session.notices();
    take_streams(gateway, session, &mut incoming, &mut notices, &mut flows).await;
    finish_streams(gateway, session, &incoming, &mut notices, &mut flows).await;
    let ended = timeout(GOODBYE, &mut driver).await;
    // Relays see the end of their link by themselves and say so in the audit; a dial that still
    // waits is cut off.
    let _ = timeout(GOODBYE, async {
        while flows.join_next().await.is_some() {}
    })
    .await;
    flows.shutdown().await;
    audit::refused_by_link(&session.who, incoming.refused_in_core());
    driver.abort();
    Ok(ended.ok().and_then(Result::ok).unwrap_or(LinkEnd::Closed))
}

/// Returns when the link takes no more streams.
async fn take_streams(
    gateway: &Arc<Gateway>,
    session: &Arc<Session>,
    incoming: &mut Incoming,
    notices: &mut Notices,
    flows: &mut JoinSet<()>,
) {
    let (over, draining) = (gateway.over(session), gateway.draining());
    tokio::pin!(over, draining);
    let mut drains = false;
    loop {
        tokio::select! {
            request = incoming.next() => match request {
                Some(request) => {
                    flows.spawn(flow(Arc::clone(gateway), Arc::clone(session), request));
                }
                None => return,
            },
            // Only collects what has finished: a JoinSet keeps results until they are taken.
            Some(_) = flows.join_next() => {}
            _ = &mut over => {
                incoming.close();
                return;
            }
            words = &mut draining, if !drains => {
                drains = true;
                incoming.notify(&words);
                incoming.drain();
            }
            Ok(()) = notices.changed() => incoming.notify(&notices.borrow_and_update()),
        }
    }
}

/// Returns when the link has ended: one that drains does with its last stream.
async fn finish_streams(
    gateway: &Gateway,
    session: &Session,
    incoming: &Incoming,
    notices: &mut Notices,
    flows: &mut JoinSet<()>,
) {
    let over = gateway.over(session);
    tokio::pin!(over);
    loop {
        tokio::select! {
            biased;
            _ = incoming.ended() => return,
            _ = &mut over => return incoming.close(),
            Some(_) = flows.join_next() => {}
            Ok(()) = notices.changed() => incoming.notify(&notices.borrow_and_update()),
        }
    }
}

/// One stream, from its header to its end.
async fn flow(gateway: Arc<Gateway>, session: Arc<Session>, request: Request) {
    let header = request.header();
    let asked = Asked::from_header(header);
    let shown = match &asked {
        Ok(asked) => asked.to_string(),
        Err(_) => as_written(header),
    };
    // Made before anything can be given up, so that no stream goes without a line.
    let question = Question::new(
        Arc::clone(&session.who),
        shown,
        header.application.as_deref(),
    );
    let opening = gateway.open(question, &session, Way::Link, asked);
    // What was given up already is not dialled, nor called open when both are so at once.
    let opened = tokio::select! {
        biased;
        () = request.cancelled() => return,
        opened = opening => opened,
    };
    match opened {
        Err(refusal) => request.refuse(refusal),
        Ok(dialled) => {
            let stream = request.accept();
            let counters = Arc::clone(&dialled.open.counters);
            let relay = adit_link::relay(dialled.connected, stream, &counters);
            tokio::select! {
                end = dialled.pace.run(relay, &counters) => {
                    dialled.open.ended(end);
                }
                // Dropping the relay resets both sides.
                why = dialled.entered.ended() => dialled.open.closed(why),
            }
            drop((dialled.entered, dialled.place));
        }
    }
}

/// A destination that is none, for the audit.
fn as_written(header: &OpenHeader) -> String {
    match &header.host {
        Host::Address(address) => format!("{address} port {}", header.port),
        Host::Name(name) => format!("{name} port {}", header.port),
    }
}
