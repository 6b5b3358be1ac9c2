//! The way of one connection: attributed, decided, opened, relayed.
//!
//! Two orders of the same steps. The honest one ([`Dispatcher::answer`]) has a connection that is held at its SYN, and accepts it
//! when the destination has; the early one ([`Dispatcher::carry`]) has one that was accepted already. Each step consumes what the
//! step before made, so that a step can't be left out. Only a permit dials.

mod accepted;
mod asked;
#[cfg(test)]
mod down_tests;
mod ending;
mod opener;
mod opening;

use std::sync::Arc;

use adit_rules::{Application, Decision, Destination, Fact, Judgement, PassPermit, TunnelPermit};

use self::ending::{Ending, report};
use self::opener::Opener;
use crate::attribution::Attribution;
use crate::capture_session::MarkedSockets;
use crate::flow_table::{Action, Flow, FlowTable};
use crate::held::Held;
use crate::original_destination::{Captured, ClientAddress, OriginalDestination};
use crate::rules_in_force::RulesInForce;
use crate::zone::ZoneDown;

/// What every flow's way needs.
#[derive(Debug)]
pub struct Dispatcher {
    /// The rules, and the zones they name.
    pub rules: RulesInForce,
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
        flow.held();
        self.see_through(&flow, self.asked_way(held, &flow)).await;
    }

    async fn see_through(&self, flow: &Arc<Flow>, way: impl Future<Output = Ending>) {
        // Dropping the way drops its socket and stream, or the held connection: both sides see a reset.
        let ending = tokio::select! {
            ending = way => ending,
            because = flow.closing() => Ending::closed(because),
        };
        report(flow, &ending);
        self.flows.end(flow, ending.state, ending.reason);
    }

    /// Asks the rules; the application is looked up only if they need it, and no more of it than they need. What they gave, and
    /// for what, is noted in the flow.
    async fn decide(
        &self,
        flow: &Flow,
        asked: OriginalDestination,
        attribute: impl AsyncFnOnce() -> Result<Opener, Ending>,
    ) -> Result<Decision, Ending> {
        let asked = asked.address();
        let destination = Destination {
            address: Some(asked.ip()),
            name: None,
            port: asked.port(),
        };
        let mut opener = match self.ask(flow, &destination, None) {
            Ok(decision) => return Ok(decision),
            Err(_fact) => attribute().await?,
        };
        loop {
            match self.ask(flow, &destination, Some(&opener.application)) {
                Ok(decision) => return Ok(decision),
                Err(fact) => opener.learn(fact, &self.attribution).await,
            }
        }
    }

    /// Asks the rules that are in force, and notes what they gave; or says what they need to know.
    fn ask(
        &self,
        flow: &Flow,
        destination: &Destination,
        application: Option<&Application>,
    ) -> Result<Decision, Fact> {
        loop {
            let rules = self.rules.now();
            let decision = match rules.policy.judge(destination, application) {
                Judgement::Decided(decision) => decision,
                Judgement::Needs(fact) => return Err(fact),
            };
            flow.judged(destination, application, &decision);
            // A reload judges again what it finds noted; one that came before that has not found it.
            if self.rules.are_still(&rules) {
                return Ok(decision);
            }
        }
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
