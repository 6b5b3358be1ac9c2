//! From a permit to a stream on the zone's link.

use adit_link::{Host, OpenError, OpenHeader, Stream, StreamError};
use adit_rules::{Destination, TunnelPermit};

use super::Dispatcher;
use super::ending::{Cause, Ending};
use crate::behind::Behind;
use crate::flow_table::{Action, Flow};
use crate::stage::Stage;
use crate::zone::NoLink;
use crate::zone_link::{OpenLink, ZoneDown};

/// RFC 6761, section 6.3.
const LOOPBACK: &str = "localhost";
/// How many links a flow is tried on.
const LINKS_TRIED: usize = 3;

/// Why there is no stream.
pub(super) enum NotOpened {
    /// No gateway answers: the rule's word counts.
    Down(ZoneDown),
    /// Anything else.
    Ended(Ending),
}

impl Dispatcher {
    /// The zone's link, to open a stream on, and what is to be said of the stream.
    pub(super) async fn link(
        &self,
        permit: &TunnelPermit,
        flow: &Flow,
    ) -> Result<(OpenLink, OpenHeader), NotOpened> {
        flow.decided(Action::Tunnel, permit.rule(), Some(permit.zone()));
        if let Some(elsewhere) = permit.elsewhere() {
            flow.goes_to(elsewhere.to_string());
        }
        let zone = self.rules.now().zones.get(permit.zone()).cloned();
        let Some(zone) = zone else {
            let text = format!("zone {} is not there", permit.zone());
            let ending = Ending::failed(Cause::Broken, text).at(Stage::ZoneDown);
            return Err(NotOpened::Ended(ending));
        };
        let open = zone.link(permit.destination(), permit.on_down()).await?;
        let behind = &open.target.behind;
        if let Behind::Host(host) = behind {
            let port = permit.destination().port;
            flow.goes_to(format!("{LOOPBACK}:{port} at {host}"));
        }
        let header = header_of(permit, behind, flow);
        Ok((open, header))
    }

    /// A stream whose opening is on its way; payload may follow at once.
    pub(super) async fn open(
        &self,
        permit: &TunnelPermit,
        flow: &Flow,
    ) -> Result<Stream, NotOpened> {
        let first = self.link(permit, flow).await?;
        self.open_on(first, permit, flow).await
    }

    /// The same, on this link if it still takes streams.
    pub(super) async fn open_on(
        &self,
        first: (OpenLink, OpenHeader),
        permit: &TunnelPermit,
        flow: &Flow,
    ) -> Result<Stream, NotOpened> {
        let (mut open, mut header) = first;
        // A link may end between being handed out and being used; the next one is waited for.
        for _ in 1..=LINKS_TRIED {
            match open.link.open(&header) {
                Ok(stream) => {
                    flow.leads_through(open.target);
                    return Ok(stream);
                }
                Err(OpenError::Ended(_) | OpenError::Draining) => {
                    (open, header) = self.link(permit, flow).await?;
                }
                // There may be room when its SYN is sent again.
                Err(error @ OpenError::TooMany) => {
                    let ending = Ending::failed(Cause::Busy, error.to_string());
                    return Err(NotOpened::Ended(ending));
                }
                Err(error @ OpenError::Header(_)) => {
                    let ending = Ending::failed(Cause::Broken, error.to_string());
                    return Err(NotOpened::Ended(ending));
                }
            }
        }
        Err(NotOpened::Ended(link_lost()))
    }

    /// A stream that the destination has answered. Nothing was sent on it yet, so a lost link is made good by the next one.
    pub(super) async fn open_answered(
        &self,
        permit: &TunnelPermit,
        flow: &Flow,
    ) -> Result<Stream, NotOpened> {
        for _ in 0..LINKS_TRIED {
            let mut stream = self.open(permit, flow).await?;
            match stream.opened().await {
                Ok(()) => return Ok(stream),
                Err(StreamError::Refused(refusal)) => {
                    return Err(NotOpened::Ended(Ending::of_refusal(&refusal)));
                }
                Err(StreamError::Reset | StreamError::LinkEnded(_)) => {}
            }
        }
        Err(NotOpened::Ended(link_lost()))
    }
}

fn link_lost() -> Ending {
    Ending::failed(Cause::Broken, "the zone's link is lost again and again").at(Stage::LinkLost)
}

impl From<NoLink> for NotOpened {
    fn from(error: NoLink) -> Self {
        match error {
            NoLink::Down(down) => Self::Down(down),
            // There may be room when its SYN is sent again.
            NoLink::TooMany { .. } => Self::Ended(Ending::failed(Cause::Busy, error.to_string())),
        }
    }
}

fn header_of(permit: &TunnelPermit, behind: &Behind, flow: &Flow) -> OpenHeader {
    let Destination {
        address,
        name,
        port,
    } = permit.destination();
    // An address that is known here is what the rules have judged: the gateway must not look for another.
    let host = match (behind, address, name) {
        // Either of its loopback addresses, whichever the service listens at.
        (Behind::Host(_), _, _) => Host::Name(LOOPBACK.to_owned()),
        (Behind::Zone, Some(ip), _) => Host::Address(*ip),
        (Behind::Zone, None, Some(name)) => Host::Name(name.clone()),
        (Behind::Zone, None, None) => Host::Name(String::new()),
    };
    let application = flow
        .application()
        .map(|path| path.to_string_lossy().into_owned());
    OpenHeader {
        host,
        port: *port,
        application,
    }
}
