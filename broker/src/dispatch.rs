//! The way of one captured connection: attributed, decided, opened, relayed.
//!
//! Each step consumes what the step before made, so that a step can't be left out. Only a permit dials.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use adit_capture::Family;
use adit_link::{Answer, Host, OpenError, OpenHeader, Refusal, RefusalReason, RelayEnd, Stream};
use adit_rules::{
    Application, Decision, Destination, Judgement, OnDown, PassPermit, Policy, TunnelPermit,
};
use tokio::net::{TcpSocket, TcpStream};

use crate::attribution::{Attributed, Attribution};
use crate::capture_session::MarkedSockets;
use crate::flow_table::{Action, Flow, FlowTable, State};
use crate::original_destination::{Captured, Ends};
use crate::zone::{Zone, ZoneDown};

/// The kernel's own patience with an unanswered SYN is about two minutes (tcp_syn_retries, tcp(7)); a
/// program that waits longer than this has its own time-out.
const PASS_DIAL_TIMEOUT: Duration = Duration::from_secs(130);

/// How many links a flow is tried on.
const LINKS_TRIED: usize = 3;

/// What every flow's way needs.
#[derive(Debug)]
pub struct Dispatcher {
    /// The rules.
    pub policy: Arc<Policy>,
    /// The zones they name.
    pub zones: HashMap<String, Arc<Zone>>,
    /// Sockets for passed flows.
    pub sockets: MarkedSockets,
    /// Who opened what.
    pub attribution: Attribution,
    /// Where flows are entered.
    pub flows: Arc<FlowTable>,
}

/// How a flow ended.
#[derive(Debug)]
struct Ending {
    state: State,
    reason: Option<String>,
}

impl Ending {
    fn refused(reason: impl Into<String>) -> Self {
        Self {
            state: State::Refused,
            reason: Some(reason.into()),
        }
    }

    fn failed(reason: impl Into<String>) -> Self {
        Self {
            state: State::Failed,
            reason: Some(reason.into()),
        }
    }
}

impl Dispatcher {
    /// Carries one connection from its acceptance to its end.
    pub async fn carry(&self, captured: Captured) {
        let flow = self.flows.begin(captured.source, captured.destination);
        // Dropping the way drops its socket and stream: both sides see a reset.
        let ending = tokio::select! {
            ending = self.way(captured, &flow) => ending,
            () = flow.closing() => Ending { state: State::Closed, reason: Some("closed by adit close".into()) },
        };
        report(&flow, &ending);
        self.flows.end(&flow, ending.state, ending.reason);
    }

    async fn way(&self, captured: Captured, flow: &Arc<Flow>) -> Ending {
        let decision = match self.decide(&captured, flow).await {
            Ok(decision) => decision,
            Err(ending) => return ending,
        };
        match decision {
            Decision::Tunnel(permit) => self.tunnel(captured, permit, flow).await,
            Decision::Pass(permit) => {
                flow.decided(Action::Pass, permit.rule(), None);
                self.pass(captured, &permit, flow).await
            }
            Decision::Block(block) => {
                flow.decided(Action::Block, block.rule(), None);
                Ending::refused(format!("blocked by rule {}", block.rule()))
            }
        }
    }

    /// Asks the rules; the application is looked up only if they need it.
    async fn decide(&self, captured: &Captured, flow: &Flow) -> Result<Decision, Ending> {
        let asked = captured.destination.address();
        let destination = Destination {
            address: Some(asked.ip()),
            name: None,
            port: asked.port(),
        };
        if let Judgement::Decided(decision) = self.policy.judge(&destination, None) {
            return Ok(decision);
        }
        let application = self.attribute(captured.ends(), flow).await?;
        if captured.is_reset() {
            return Err(Ending {
                state: State::Closed,
                reason: Some("reset by the application".to_owned()),
            });
        }
        match self.policy.judge(&destination, Some(&application)) {
            Judgement::Decided(decision) => Ok(decision),
            Judgement::NeedsApplication => Err(Ending::failed("the rules gave no decision")),
        }
    }

    async fn attribute(&self, ends: Ends, flow: &Flow) -> Result<Application, Ending> {
        match self.attribution.surely(ends).await {
            Attributed::Process { pid, path } => {
                flow.attributed(pid, path.clone());
                Ok(Application::Known { path })
            }
            Attributed::Unknown => Ok(Application::Unknown),
            Attributed::NotAsked { reason } => Err(Ending::failed(format!(
                "the application could not be looked up: {reason}"
            ))),
            Attributed::Foreign { uid } => Err(foreign(uid)),
        }
    }

    async fn tunnel(&self, captured: Captured, permit: TunnelPermit, flow: &Arc<Flow>) -> Ending {
        flow.decided(Action::Tunnel, permit.rule(), Some(permit.zone()));
        let Some(zone) = self.zones.get(permit.zone()) else {
            return Ending::failed(format!("zone {} is not there", permit.zone()));
        };
        // A link may end between being handed out and being used; the next one is waited for.
        for _ in 0..LINKS_TRIED {
            let link = match permit.on_down() {
                OnDown::Hold => zone.link_held().await,
                OnDown::Reject | OnDown::Pass => zone.link().await,
            };
            let opened = match link {
                Ok(link) => link.open(&header_of(&permit, flow)),
                Err(down) => return self.without_gateway(captured, &permit, down, flow).await,
            };
            match opened {
                Ok(stream) => return self.relay_tunnelled(captured, stream, flow).await,
                Err(OpenError::Ended(_) | OpenError::Draining) => {}
                Err(error @ (OpenError::TooMany | OpenError::Header(_))) => {
                    return Ending::failed(error.to_string());
                }
            }
        }
        Ending::failed("the zone's link is lost again and again")
    }

    /// Only where no gateway answers and the rule says so, a flow goes direct.
    async fn without_gateway(
        &self,
        captured: Captured,
        permit: &TunnelPermit,
        down: ZoneDown,
        flow: &Flow,
    ) -> Ending {
        let Some(pass) = permit.when_down().filter(|_| down.may_pass) else {
            return Ending::failed(down.to_string());
        };
        tracing::warn!(
            flow = flow.id,
            "passed, as the rule says for a zone that is down: {down}"
        );
        flow.decided(Action::Pass, pass.rule(), Some(permit.zone()));
        self.pass(captured, &pass, flow).await
    }

    async fn relay_tunnelled(
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
            end = &mut relaying => return ending_of(end, flow),
            learnt = self.learn(answer, ends, flow) => {
                if let Err(foreign) = learnt {
                    return foreign;
                }
            }
        }
        ending_of(relaying.await, flow)
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
                Attributed::Process { pid, path } => flow.attributed(pid, path),
                // Nothing depends on it: the rules decided without.
                Attributed::Unknown | Attributed::NotAsked { .. } => {}
                Attributed::Foreign { uid } => return Err(foreign(uid)),
            }
            Ok(())
        };
        tokio::try_join!(opened, attributed).map(|_| ())
    }

    /// Relays to where the application wanted to go, over a socket that the rules let through.
    async fn pass(&self, captured: Captured, permit: &PassPermit, flow: &Flow) -> Ending {
        let far = match self.dial(permit).await {
            Ok(far) => far,
            Err(ending) => return ending,
        };
        flow.opened();
        let relayed = adit_link::relay_tcp(captured.into_tcp(), far, &flow.counters);
        ending_of(relayed.await, flow)
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

fn foreign(uid: u32) -> Ending {
    Ending::refused(format!("opened by another user (uid {uid})"))
}

fn header_of(permit: &TunnelPermit, flow: &Flow) -> OpenHeader {
    let Destination {
        address,
        name,
        port,
    } = permit.destination();
    let host = match (name, address) {
        (Some(name), _) => Host::Name(name.clone()),
        (None, Some(ip)) => Host::Address(*ip),
        (None, None) => Host::Name(String::new()),
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

fn ending_of(end: RelayEnd, flow: &Flow) -> Ending {
    match end {
        RelayEnd::Finished => Ending {
            state: State::Closed,
            reason: None,
        },
        RelayEnd::ResetHere(error) => Ending {
            state: State::Closed,
            reason: Some(format!("reset by the application: {error}")),
        },
        RelayEnd::ResetThere => Ending {
            state: State::Closed,
            reason: Some("reset by the destination".to_owned()),
        },
        RelayEnd::Refused(refusal) => Ending::refused(refusal_text(&refusal)),
        RelayEnd::LinkEnded(end) => {
            let was = if flow.was_open() {
                "while open"
            } else {
                "before it opened"
            };
            Ending::failed(format!("link lost {was}: {end}"))
        }
    }
}

fn refusal_text(refusal: &Refusal) -> String {
    let reason = match refusal.reason {
        RefusalReason::Denied => "denied",
        RefusalReason::Refused => "refused",
        RefusalReason::HostUnreachable => "host unreachable",
        RefusalReason::NetworkUnreachable => "network unreachable",
        RefusalReason::Unresolvable => "unresolvable",
        RefusalReason::TimedOut => "timed out",
        RefusalReason::Busy => "busy",
        RefusalReason::Failed => "failed",
    };
    if refusal.detail.is_empty() {
        reason.to_owned()
    } else {
        format!("{reason}: {}", refusal.detail)
    }
}

fn report(flow: &Flow, ending: &Ending) {
    let view = flow.view();
    let application = view
        .application
        .as_deref()
        .unwrap_or("unknown")
        .escape_debug();
    let reason = ending.reason.as_deref().unwrap_or("finished");
    let (destination, rule) = (view.destination, view.rule.as_deref().unwrap_or("-"));
    let zone = view.zone.as_deref().unwrap_or("-");
    match ending.state {
        State::Refused | State::Failed => tracing::info!(
            flow = flow.id, %destination, %application, rule, zone,
            state = %ending.state, reason, "flow not carried"
        ),
        State::Deciding | State::Opening | State::Open | State::Closed => tracing::debug!(
            flow = flow.id, %destination, %application, rule, zone,
            up = view.up, down = view.down, reason, "flow ended"
        ),
    }
}
