//! The way of one connection: attributed, decided, opened, relayed.
//!
//! Two orders of the same steps. The honest one ([`Dispatcher::answer`]) has a connection that is held at its SYN, and accepts it
//! when the destination has; the early one ([`Dispatcher::carry`]) has one that was accepted already. Each step consumes what the
//! step before made, so that a step can't be left out. Only a permit dials.

mod accepted;
mod asked;
mod ending;
mod opening;

use std::collections::HashMap;
use std::sync::Arc;

use adit_rules::{Application, Decision, Destination, Judgement, PassPermit, Policy, TunnelPermit};

use self::ending::{Ending, report};
use crate::attribution::{Attributed, Attribution};
use crate::capture_session::MarkedSockets;
use crate::flow_table::{Action, Flow, FlowTable};
use crate::held::Held;
use crate::original_destination::{Captured, ClientAddress, OriginalDestination};
use crate::zone::{Zone, ZoneDown};

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

impl Dispatcher {
    /// Carries one connection from its acceptance to its end.
    pub async fn carry(&self, captured: Captured) {
        let flow = self.flows.begin(captured.source, captured.destination);
        self.see_through(&flow, self.accepted_way(captured, &flow))
            .await;
    }

    /// Carries one connection from its SYN to its end.
    pub async fn answer(&self, held: Held) {
        let (source, destination) = (
            ClientAddress::of(&held.question),
            OriginalDestination::of(&held.question),
        );
        let flow = self.flows.begin(source, destination);
        self.see_through(&flow, self.asked_way(held, &flow)).await;
    }

    async fn see_through(&self, flow: &Arc<Flow>, way: impl Future<Output = Ending>) {
        // Dropping the way drops its socket and stream, or the held connection: both sides see a reset.
        let ending = tokio::select! {
            ending = way => ending,
            () = flow.closing() => Ending::closed(Some("closed by adit close".into())),
        };
        report(flow, &ending);
        self.flows.end(flow, ending.state, ending.reason);
    }

    /// Asks the rules; the application is looked up only if they need it.
    async fn decide(
        &self,
        asked: OriginalDestination,
        attribute: impl AsyncFnOnce() -> Result<Application, Ending>,
    ) -> Result<Decision, Ending> {
        let asked = asked.address();
        let destination = Destination {
            address: Some(asked.ip()),
            name: None,
            port: asked.port(),
        };
        if let Judgement::Decided(decision) = self.policy.judge(&destination, None) {
            return Ok(decision);
        }
        let mut application = attribute().await?;
        loop {
            match self.policy.judge(&destination, Some(&application)) {
                Judgement::Decided(decision) => return Ok(decision),
                // Nothing but the path is looked up; no fact is asked for twice.
                Judgement::Needs(fact) => application.give_up(fact),
            }
        }
    }
}

/// What the rules are to know of who opened a flow.
fn application(attributed: Attributed, flow: &Flow) -> Result<Application, Ending> {
    match attributed {
        Attributed::Process { pid, path } => {
            flow.attributed(pid, path.clone());
            Ok(Application::of(path))
        }
        Attributed::Unknown => Ok(Application::Unknown),
        Attributed::NotAsked { reason } => Err(Ending::failed(format!(
            "the application could not be looked up: {reason}"
        ))),
        Attributed::Foreign { uid } => Err(foreign(uid)),
    }
}

fn foreign(uid: u32) -> Ending {
    Ending::refused(format!("opened by another user (uid {uid})"))
}

/// Leave to go direct, where no gateway answers and the rule says so.
fn passed_when_down(permit: &TunnelPermit, down: &ZoneDown, flow: &Flow) -> Option<PassPermit> {
    let pass = permit.when_down().filter(|_| down.may_pass)?;
    tracing::warn!(
        flow = flow.id,
        "passed, as the rule says for a zone that is down: {down}"
    );
    flow.decided(Action::Pass, pass.rule(), Some(permit.zone()));
    Some(pass)
}
