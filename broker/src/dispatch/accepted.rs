//! The early order: accepted first, then decided and opened. A refusal is a reset, a pass is relayed.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use adit_capture::Family;
use adit_link::{Answer, Stream};
use adit_rules::{Decision, Destination, PassPermit, TunnelPermit};
use tokio::net::{TcpSocket, TcpStream};

use super::ending::Ending;
use super::opener::Opener;
use super::opening::NotOpened;
use super::{Dispatcher, foreign};
use crate::attribution::Attributed;
use crate::flow_table::{Action, Flow};
use crate::original_destination::{Captured, Ends};
use crate::zone::ZoneDown;

/// The kernel's own patience with an unanswered SYN is about two minutes (tcp_syn_retries, tcp(7)); a
/// program that waits longer than this has its own time-out.
const PASS_DIAL_TIMEOUT: Duration = Duration::from_secs(130);

impl Dispatcher {
    pub(super) async fn accepted_way(&self, captured: Captured, flow: &Arc<Flow>) -> Ending {
        let ends = captured.ends();
        let destination = captured.destination;
        let attribute = async || {
            let opener = self.attribute_accepted(ends, flow).await?;
            if captured.is_reset() {
                let text = "reset by the application";
                return Err(Ending::closed(Some(text.to_owned())));
            }
            Ok(opener)
        };
        let decision = match self.decide(flow, destination, attribute).await {
            Ok(decision) => decision,
            Err(ending) => return ending,
        };
        match decision {
            Decision::Tunnel(permit) => self.tunnel_accepted(captured, permit, flow).await,
            Decision::Pass(permit) => {
                flow.decided(Action::Pass, permit.rule(), None);
                self.relay_passed(captured, &permit, flow).await
            }
            Decision::Block(block) => {
                flow.decided(Action::Block, block.rule(), None);
                Ending::refused(format!("blocked by rule {}", block.rule()))
            }
        }
    }

    async fn attribute_accepted(&self, ends: Ends, flow: &Flow) -> Result<Opener, Ending> {
        let attributed = self.attribution.surely(ends).await;
        Opener::of(attributed, flow)
    }

    pub(super) async fn tunnel_accepted(
        &self,
        captured: Captured,
        permit: TunnelPermit,
        flow: &Arc<Flow>,
    ) -> Ending {
        match self.open(&permit, flow).await {
            Ok(stream) => self.relay_unanswered(captured, stream, flow).await,
            Err(NotOpened::Down(down)) => self.without_gateway(captured, &permit, down, flow).await,
            Err(NotOpened::Ended(ending)) => ending,
        }
    }

    /// Only where no gateway answers and the rule says so, a flow goes direct.
    async fn without_gateway(
        &self,
        captured: Captured,
        permit: &TunnelPermit,
        down: ZoneDown,
        flow: &Flow,
    ) -> Ending {
        match super::passed_when_down(permit, &down, flow) {
            Some(pass) => self.relay_passed(captured, &pass, flow).await,
            None => Ending::failed(down.to_string()),
        }
    }

    async fn relay_unanswered(
        &self,
        captured: Captured,
        stream: Stream,
        flow: &Arc<Flow>,
    ) -> Ending {
        let ends = captured.ends();
        let answer = stream.answer();
        let mut relaying = pin!(adit_link::relay(
            captured.into_tcp(),
            stream,
            &flow.counters
        ));
        tokio::select! {
            end = &mut relaying => return Ending::of_relay(end, flow),
            learnt = self.learn(answer, ends, flow) => {
                if let Err(foreign) = learnt {
                    return foreign;
                }
            }
        }
        Ending::of_relay(relaying.await, flow)
    }

    /// What people want to see of a flow and the rules did not need: asked beside the relay, never waited for.
    async fn learn(&self, answer: Answer, ends: Ends, flow: &Flow) -> Result<(), Ending> {
        let opened = async {
            if answer.opened().await.is_ok() {
                flow.opened();
            }
            Ok(())
        };
        let attributed = async {
            if flow.is_attributed() {
                return Ok(());
            }
            match self.attribution.probably(ends).await {
                Attributed::Process(process) => flow.attributed(process.pid, process.path),
                // Nothing depends on it: the rules decided without.
                Attributed::Unknown | Attributed::NotAsked { .. } => {}
                Attributed::Foreign { uid } => return Err(foreign(uid)),
            }
            Ok(())
        };
        tokio::try_join!(opened, attributed).map(|_| ())
    }

    /// Relays to where the application wanted to go, over a socket that the rules let through.
    async fn relay_passed(&self, captured: Captured, permit: &PassPermit, flow: &Flow) -> Ending {
        let far = match self.dial(permit).await {
            Ok(far) => far,
            Err(ending) => return ending,
        };
        flow.opened();
        let relayed = adit_link::relay_tcp(captured.into_tcp(), far, &flow.counters);
        Ending::of_relay(relayed.await, flow)
    }

    async fn dial(&self, permit: &PassPermit) -> Result<TcpStream, Ending> {
        let Destination {
            address: Some(ip),
            port,
            ..
        } = *permit.destination()
        else {
            return Err(Ending::failed("no address to dial"));
        };
        let address = SocketAddr::new(ip, port);
        let family = if ip.is_ipv4() { Family::V4 } else { Family::V6 };
        let socket = self.sockets.get(family).await;
        let socket = socket.map_err(|error| Ending::failed(error.to_string()))?;
        let socket = TcpSocket::from_std_stream(std::net::TcpStream::from(socket));
        match tokio::time::timeout(PASS_DIAL_TIMEOUT, socket.connect(address)).await {
            Ok(Ok(far)) => Ok(far),
            Ok(Err(error)) => Err(Ending::refused(format!("direct: {error}"))),
            Err(_) => Err(Ending::refused("direct: timed out")),
        }
    }
}
