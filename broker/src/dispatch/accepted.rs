//! The early order: accepted first, then decided and opened. A refusal is a reset, a pass is relayed.

use std::pin::pin;
use std::sync::Arc;

use adit_link::{Answer, Stream};
use adit_rules::{Decision, PassPermit, TunnelPermit};

use super::ending::Ending;
use super::handed::HandedOver;
use super::opening::NotOpened;
use super::{Dispatcher, foreign};
use crate::accepted::{Accepted, Asked, Ends};
use crate::attribution::Attributed;
use crate::flow_table::{Action, Flow};
use crate::zone_link::ZoneDown;

impl Dispatcher {
    pub(super) async fn accepted_way(
        &self,
        accepted: Accepted,
        asked: &Asked,
        flow: &Arc<Flow>,
    ) -> Ending {
        let attribute = async || {
            let opener = self.attribute_accepted(accepted.ends(), flow).await?;
            if accepted.is_reset() {
                let text = "reset by the application";
                return Err(Ending::closed(Some(text.to_owned())));
            }
            Ok(opener)
        };
        let decision = match self.decide(flow, asked, attribute).await {
            Ok(decision) => decision,
            Err(ending) => return ending,
        };
        match decision {
            Decision::Tunnel(permit) => self.tunnel_accepted(accepted, permit, flow).await,
            Decision::Pass(permit) => {
                flow.decided(Action::Pass, permit.rule(), None);
                self.relay_passed(accepted, &permit, flow).await
            }
            Decision::Block(block) => {
                self.trace_accepted(accepted.ends(), flow).await;
                Ending::blocked(&block, flow)
            }
        }
    }

    pub(super) async fn tunnel_accepted(
        &self,
        accepted: Accepted,
        permit: TunnelPermit,
        flow: &Arc<Flow>,
    ) -> Ending {
        let (open, header) = match self.link(&permit, flow).await {
            Ok(first) => first,
            Err(not) => return self.not_opened(accepted, &permit, not, flow).await,
        };
        let accepted = match &open.handing {
            None => accepted,
            Some(handing) => {
                flow.leads_through(open.target.clone());
                match self.hand_over(accepted, handing, &header, flow).await {
                    HandedOver::Over(ending) => return ending,
                    HandedOver::Not(accepted) => accepted,
                }
            }
        };
        match self.open_on((open, header), &permit, flow).await {
            Ok(stream) => self.relay_unanswered(accepted, stream, flow).await,
            Err(not) => self.not_opened(accepted, &permit, not, flow).await,
        }
    }

    async fn not_opened(
        &self,
        accepted: Accepted,
        permit: &TunnelPermit,
        not: NotOpened,
        flow: &Flow,
    ) -> Ending {
        match not {
            NotOpened::Down(down) => self.without_gateway(accepted, permit, down, flow).await,
            NotOpened::Ended(ending) => ending,
        }
    }

    /// Only where no gateway answers and the rule says so, a flow goes direct.
    async fn without_gateway(
        &self,
        accepted: Accepted,
        permit: &TunnelPermit,
        down: ZoneDown,
        flow: &Flow,
    ) -> Ending {
        match super::passed_when_down(permit, &down, flow) {
            Some(pass) => self.relay_passed(accepted, &pass, flow).await,
            None => {
                self.trace_accepted(accepted.ends(), flow).await;
                Ending::down(&down, permit)
            }
        }
    }

    async fn relay_unanswered(
        &self,
        accepted: Accepted,
        stream: Stream,
        flow: &Arc<Flow>,
    ) -> Ending {
        let ends = accepted.ends();
        let answer = stream.answer();
        let mut relaying = pin!(adit_link::relay(
            accepted.into_tcp(),
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
    async fn learn(&self, answer: Answer, ends: Ends, flow: &Arc<Flow>) -> Result<(), Ending> {
        let opened = async {
            if answer.opened().await.is_ok() {
                self.opened(flow);
            }
            Ok(())
        };
        tokio::try_join!(self.learn_opener(ends, flow), opened).map(|_| ())
    }

    /// The same of who opened it.
    pub(super) async fn learn_opener(&self, ends: Ends, flow: &Arc<Flow>) -> Result<(), Ending> {
        if flow.is_attributed() {
            return Ok(());
        }
        let learning = flow.learning();
        match self.attribution.probably(ends).await {
            Attributed::Process(process) => {
                flow.attributed(process.pid, process.path);
                flow.begin_lineage();
            }
            // Nothing depends on it: the rules decided without.
            Attributed::Unknown | Attributed::NotAsked { .. } => {}
            Attributed::Foreign { uid } => return Err(foreign(uid)),
        }
        drop(learning);
        self.chronicle.note(flow);
        Ok(())
    }

    /// Relays to where the application wanted to go, over a socket that the rules let through.
    async fn relay_passed(&self, accepted: Accepted, permit: &PassPermit, flow: &Flow) -> Ending {
        let far = match self.dial(permit).await {
            Ok(far) => far,
            Err(ending) => return ending,
        };
        self.opened(flow);
        let relayed = adit_link::relay_tcp(accepted.into_tcp(), far, &flow.counters);
        Ending::of_relay(relayed.await, flow)
    }
}
