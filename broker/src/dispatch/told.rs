//! The order of entries: the program has asked for its destination in words, often by name, and waits to be told what became of it.

use std::sync::Arc;

use adit_link::Stream;
use adit_rules::{Decision, Destination, EntryProtocol, PassPermit, TunnelPermit};
use tokio::net::TcpStream;

use super::Dispatcher;
use super::ending::{Cause, Ending};
use super::opening::NotOpened;
use crate::accepted::{Accepted, Asked, Ends};
use crate::entrances::reply;
use crate::flow_table::{Action, Flow};
use crate::names::NameError;
use crate::stage::Saw;

/// The far end, once it has accepted.
enum Far {
    /// Through a zone.
    Stream(Stream),
    /// Directly.
    Socket(TcpStream),
}

/// How a flow goes that a rule tunnels.
enum Way {
    /// As the rule says.
    Through(Stream),
    /// Directly, as the rule says for a zone that is down.
    Around(PassPermit),
}

impl Dispatcher {
    pub(super) async fn told_way(
        &self,
        accepted: Accepted,
        protocol: EntryProtocol,
        asked: &Asked,
        flow: &Arc<Flow>,
    ) -> Ending {
        let reached = tokio::select! {
            biased;
            () = self.gives_up(&accepted) => return Ending::given_up(),
            reached = self.reach(accepted.ends(), asked, flow) => reached,
        };
        let far = match reached {
            Ok(far) => far,
            Err(ending) => {
                self.trace_accepted(accepted.ends(), flow).await;
                flow.saw(Some(Saw::Reply));
                let reason = ending.reason.as_deref().unwrap_or_default();
                let words = reply::refused(protocol, ending.cause, reason);
                reply::last(accepted.into_tcp(), &words).await;
                return ending;
            }
        };
        let mut tcp = accepted.into_tcp();
        if reply::first(&mut tcp, &reply::opened(protocol))
            .await
            .is_err()
        {
            adit_link::reset(tcp);
            return Ending::given_up();
        }
        self.opened(flow);
        let end = match far {
            Far::Stream(stream) => adit_link::relay(tcp, stream, &flow.counters).await,
            Far::Socket(far) => adit_link::relay_tcp(tcp, far, &flow.counters).await,
        };
        Ending::of_relay(end, flow)
    }

    /// Resolves when nobody waits for a reply any more: the program has reset its connection, or closed its socket.
    async fn gives_up(&self, accepted: &Accepted) {
        let Ends {
            source,
            destination,
            ..
        } = accepted.ends();
        let closed = async {
            accepted.finished().await;
            // Who has only finished writing may still listen.
            if !self.attribution.is_gone(source, destination).await {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = accepted.reset() => {}
            () = closed => {}
        }
    }

    /// The far end, or why there is none.
    async fn reach(&self, ends: Ends, asked: &Asked, flow: &Arc<Flow>) -> Result<Far, Ending> {
        let decision = self.decide_told(ends, asked, flow).await?;
        self.learn_beside(ends.source, ends.destination, flow);
        match decision {
            Decision::Tunnel(permit) => match self.open_or_pass(&permit, flow).await? {
                Way::Through(stream) => Ok(Far::Stream(stream)),
                Way::Around(pass) => self.reach_directly(ends, &pass, flow).await,
            },
            Decision::Pass(permit) => {
                flow.decided(Action::Pass, permit.rule(), None);
                self.reach_directly(ends, &permit, flow).await
            }
            Decision::Block(block) => match without_address(asked.destination()) {
                // Perhaps it is the address that a `not` has to know.
                Some((name, port)) if block.is_in_doubt() => {
                    self.reach_by_name(ends, name, port, flow).await
                }
                Some(_) | None => Err(Ending::blocked(&block, flow)),
            },
        }
    }

    async fn decide_told(
        &self,
        ends: Ends,
        asked: &Asked,
        flow: &Flow,
    ) -> Result<Decision, Ending> {
        let attribute = async || self.attribute_accepted(ends, flow).await;
        self.decide(flow, asked, attribute).await
    }

    async fn open_or_pass(&self, permit: &TunnelPermit, flow: &Flow) -> Result<Way, Ending> {
        match self.open_answered(permit, flow).await {
            Ok(stream) => Ok(Way::Through(stream)),
            Err(NotOpened::Ended(ending)) => Err(ending),
            Err(NotOpened::Down(down)) => match super::passed_when_down(permit, &down, flow) {
                Some(pass) => Ok(Way::Around(pass)),
                None => Err(Ending::down(&down, permit)),
            },
        }
    }

    async fn reach_directly(
        &self,
        ends: Ends,
        permit: &PassPermit,
        flow: &Arc<Flow>,
    ) -> Result<Far, Ending> {
        match without_address(permit.destination()) {
            Some((name, port)) => self.reach_by_name(ends, name, port, flow).await,
            None => self.dial(permit).await.map(Far::Socket),
        }
    }

    /// Each address of the name in turn, judged with both, as if the program had looked the name up itself: leave for a name is
    /// none for whatever address it has.
    async fn reach_by_name(
        &self,
        ends: Ends,
        name: &str,
        port: u16,
        flow: &Arc<Flow>,
    ) -> Result<Far, Ending> {
        let mut last = Ending::refused(Cause::Unresolvable, "direct: the name has no address");
        for address in self.names.lookup(name).await.map_err(not_found)? {
            let destination = Destination {
                address: Some(address),
                name: Some(name.to_owned()),
                port,
            };
            flow.goes_to(destination.to_string());
            let asked = Asked::Destination(destination);
            match self.reach_one(ends, &asked, flow).await {
                Ok(far) => return Ok(far),
                Err(ending) => last = ending,
            }
        }
        Err(last)
    }

    async fn reach_one(&self, ends: Ends, asked: &Asked, flow: &Arc<Flow>) -> Result<Far, Ending> {
        let pass = match self.decide_told(ends, asked, flow).await? {
            Decision::Block(block) => return Err(Ending::blocked(&block, flow)),
            Decision::Tunnel(permit) => match self.open_or_pass(&permit, flow).await? {
                Way::Through(stream) => return Ok(Far::Stream(stream)),
                Way::Around(pass) => pass,
            },
            Decision::Pass(permit) => {
                flow.decided(Action::Pass, permit.rule(), None);
                permit
            }
        };
        self.dial(&pass).await.map(Far::Socket)
    }
}

/// The name, and the port, of what has no address yet.
fn without_address(destination: &Destination) -> Option<(&str, u16)> {
    match destination.address {
        Some(_) => None,
        None => Some((destination.name.as_deref()?, destination.port)),
    }
}

fn not_found(error: NameError) -> Ending {
    let cause = match error {
        NameError::Unresolvable { .. } => Cause::Unresolvable,
        NameError::TimedOut { .. } => Cause::TimedOut,
        NameError::Busy => Cause::Busy,
    };
    Ending::refused(cause, format!("direct: {error}"))
}
