//! One of a connection's channels, from its opening to its end: the client asks for a link on it and
//! is served.
use std::sync::Arc;
use std::time::Duration;

use adit_link::ssh::{Backlog, SUBSYSTEM};
use russh::server::{Handle, Msg};
use russh::{Channel, ChannelMsg};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use crate::gateway::Gateway;
use crate::in_use::Use;
use crate::link_session;
use crate::sessions::Session;

/// Time for the session to take our word that a channel is closed. It takes none while the client
/// lets a key exchange stand still.
const CLOSE: Duration = Duration::from_secs(10);

pub(crate) struct LinkChannel {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) session: Arc<Session>,
    pub(crate) handle: Handle,
    /// What the connection's socket has yet to send.
    pub(crate) backlog: Backlog,
    pub(crate) _place: OwnedSemaphorePermit,
    pub(crate) _use: Use,
}

impl LinkChannel {
    /// Waits for the client to ask for a link and serves it.
    pub(crate) async fn serve(self, mut channel: Channel<Msg>) {
        let id = channel.id();
        let asked = tokio::select! {
            asked = timeout(self.gateway.limits().login_grace, asks_for_link(&mut channel)) => asked,
            _ = self.gateway.over(&self.session) => Ok(false),
        };
        match asked {
            Ok(true) => self.serve_link(channel).await,
            // The session waits for room in the queue of a channel that nobody reads, and while it
            // does it takes no word from us: the channel has to go first.
            Ok(false) | Err(_) => drop(channel),
        }
        // Fails when the connection is gone, and with it the channel.
        let _ = timeout(CLOSE, self.handle.close(id)).await;
    }

    async fn serve_link(&self, channel: Channel<Msg>) {
        let (user, from) = (
            self.session.who.user.as_str(),
            self.session.who.from.as_str(),
        );
        tracing::info!(user, from, "link begins");
        let (read, write) = adit_link::ssh::split(channel);
        let write = write.paced_by(self.backlog.clone());
        match link_session::serve(&self.gateway, &self.session, read, write).await {
            // As text, which is escaped: both can hold words of the peer's.
            Ok(end) => tracing::info!(user, from, end = end.to_string(), "link ended"),
            Err(error) => tracing::warn!(user, from, error = error.to_string(), "no link"),
        }
    }
}

/// The session's handler answers each request; here they are only read, so that none of them fills
/// the channel's queue.
async fn asks_for_link(channel: &mut Channel<Msg>) -> bool {
    loop {
        match channel.wait().await {
            Some(ChannelMsg::RequestSubsystem { name, .. }) if name == SUBSYSTEM => return true,
            None | Some(ChannelMsg::Close | ChannelMsg::Eof) => return false,
            Some(_) => {}
        }
    }
}
