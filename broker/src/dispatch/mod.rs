//! The way of one connection: attributed, decided, opened, relayed.
//!
//! Three orders of the same steps. The honest one ([`Dispatcher::answer`]) has a connection that is held at its SYN, and accepts it
//! when the destination has. [`Dispatcher::carry`] has one that was accepted already: the program believes itself connected (early),
//! or has asked for its destination in words and waits for a reply (told). Each step consumes what the step before made, so that a
//! step can't be left out. Only a permit dials.

mod accepted;
mod asked;
mod direct;
#[cfg(test)]
mod down_tests;
mod ending;
mod handed;
mod opener;
mod opening;
mod told;
mod tracing_back;

use std::sync::Arc;

use adit_rules::{Application, Decision, Fact, Judgement, PassPermit, TunnelPermit};

pub(crate) use self::ending::Cause;
use self::ending::{Ending, report};
use self::opener::Opener;
use crate::accepted::{Accepted, Asked, Ends, Manner};
use crate::attribution::Attribution;
use crate::capture_session::MarkedSockets;
use crate::chronicle::Chronicle;
use crate::flow_table::{Action, Flow, FlowTable};
use crate::held::Held;
use crate::names::Names;
use crate::original_destination::{ClientAddress, OriginalDestination};
use crate::rules_in_force::RulesInForce;
use crate::stage::{Saw, Stage};
use crate::zone_link::ZoneDown;

/// What every flow's way needs.
#[derive(Debug)]
pub struct Dispatcher {
    /// The rules, and the zones they name.
    pub rules: RulesInForce,
    /// Sockets for passed flows.
    pub sockets: MarkedSockets,
    /// Who opened what.
    pub attribution: Attribution,
    /// The addresses of names that pass.
    pub names: Names,
    /// Where flows are entered.
    pub flows: Arc<FlowTable>,
    /// What is kept and told of decisions.
    pub chronicle: Arc<Chronicle>,
}

impl Dispatcher {
    /// Carries one connection from its acceptance to its end.
    pub async fn carry(&self, accepted: Accepted, asked: Asked) {
        let source = ClientAddress::seen(accepted.ends().source);
        let flow = self.flows.begin(source, asked.destination());
        match accepted.manner() {
            Manner::Unasked => {
                let way = self.accepted_way(accepted, &asked, &flow);
                self.see_through(&flow, way).await;
            }
            Manner::Told(protocol) => {
                let way = self.told_way(accepted, protocol, &asked, &flow);
                self.see_through(&flow, way).await;
            }
        }
    }

    /// Carries one connection from its SYN to its end.
    pub async fn answer(&self, held: Held) {
        let source = ClientAddress::of(&held.question);
        let asked = Asked::from(OriginalDestination::of(&held.question).address());
        let flow = self.flows.begin(source, asked.destination());
        flow.held();
        // Held connections that nobody answers are refused.
        flow.saw(Some(Saw::ConnectionRefused));
        let way = self.asked_way(held, &asked, &flow);
        self.see_through(&flow, way).await;
    }

    async fn see_through(&self, flow: &Arc<Flow>, way: impl Future<Output = Ending>) {
        // Dropping the way drops its socket and stream, or the held connection: both sides see a reset.
        let ending = tokio::select! {
            ending = way => ending,
            because = flow.closing() => Ending::closed(because).at(Stage::Closed),
        };
        if ending.stage.is_some() {
            flow.complete_lineage();
        }
        report(flow, &ending);
        self.flows.end(flow, ending.into_outcome());
        self.chronicle.note(flow);
    }

    fn opened(&self, flow: &Flow) {
        flow.opened();
        self.chronicle.note(flow);
    }

    /// Asks the rules; the application is looked up only if they need it, or want to tell of it, and no more of it than they need. What they gave, and
    /// for what, is noted in the flow.
    async fn decide(
        &self,
        flow: &Flow,
        asked: &Asked,
        attribute: impl AsyncFnOnce() -> Result<Opener, Ending>,
    ) -> Result<Decision, Ending> {
        let mut opener = match self.ask(flow, asked, None) {
            Ok(decision) if !decision.telling().is_wanted() => return Ok(decision),
            // What is told is told of someone. That the kernel could not be asked changes nothing of what was decided.
            Ok(decision) => match attribute().await {
                Err(ending) if ending.stage == Some(Stage::Helper) => return Ok(decision),
                opener => opener?,
            },
            Err(_fact) => attribute().await?,
        };
        loop {
            match self.ask(flow, asked, Some(&opener.application)) {
                Ok(decision) => return Ok(decision),
                Err(fact) => opener.learn(fact, &self.attribution).await,
            }
        }
    }

    /// Asks the rules that are in force, and notes what they gave; or says what they need to know.
    fn ask(
        &self,
        flow: &Flow,
        asked: &Asked,
        application: Option<&Application>,
    ) -> Result<Decision, Fact> {
        loop {
            let rules = self.rules.now();
            let decision = match asked.judge(&rules.policy, application) {
                Judgement::Decided(decision) => decision,
                Judgement::Needs(fact) => return Err(fact),
            };
            flow.judged(asked, application, &decision);
            // A reload judges again what it finds noted; one that came before that has not found it.
            if self.rules.are_still(&rules) {
                return Ok(decision);
            }
        }
    }
}

impl Dispatcher {
    async fn attribute_accepted(&self, ends: Ends, flow: &Flow) -> Result<Opener, Ending> {
        let opener = Opener::of(self.attribution.surely(ends).await, flow);
        // Whoever hears of a refusal by a reset may be gone before we hear of it.
        flow.begin_lineage();
        opener
    }
}

fn foreign(uid: u32) -> Ending {
    let text = format!("opened by another user (uid {uid})");
    Ending::refused(Cause::Refused, text).at(Stage::Foreign)
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
