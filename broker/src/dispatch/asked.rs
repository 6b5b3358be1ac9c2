//! The honest order: decided and opened while the program sits in connect(), then answered with the truth, and accepted only
//! when the destination has accepted.

use std::net::SocketAddr;
use std::sync::Arc;

use adit_link::Stream;
use adit_rules::{Connect, Decision, PassPermit, TunnelPermit};

use super::Dispatcher;
use super::ending::{Cause, Ending};
use super::opener::Opener;
use super::opening::NotOpened;
use crate::accepted::Asked;
use crate::attribution::Attributed;
use crate::flow_table::{Action, Flow};
use crate::held::{self, Expected, Held};
use crate::original_destination::Captured;
use crate::stage::{Saw, Stage};

/// Why a program may connect.
enum Answered {
    /// The destination has accepted.
    Opened(Stream),
    /// The rule wants it accepted before.
    Early(TunnelPermit),
}

impl Dispatcher {
    pub(super) async fn asked_way(&self, held: Held, asked: &Asked, flow: &Arc<Flow>) -> Ending {
        let gone = held.gone();
        let ready = tokio::select! {
            biased;
            ready = self.made_ready(held, asked, flow) => ready,
            cause = gone.wait() => {
                flow.saw(Some(match cause {
                    held::Cause::Bound => Saw::NetworkUnreachable,
                    held::Cause::GivenUp | held::Cause::HelperGone => Saw::Nothing,
                }));
                Err(no_longer_held(cause))
            }
        };
        match ready {
            Ok((captured, Answered::Opened(stream))) => {
                self.opened(flow);
                let relayed = adit_link::relay(captured.into_tcp(), stream, &flow.counters);
                Ending::of_relay(relayed.await, flow)
            }
            Ok((captured, Answered::Early(permit))) => {
                self.tunnel_accepted(captured.into(), permit, flow).await
            }
            Err(ending) => ending,
        }
    }

    /// Until the program is connected, or has been told why not.
    async fn made_ready(
        &self,
        held: Held,
        asked: &Asked,
        flow: &Arc<Flow>,
    ) -> Result<(Captured, Answered), Ending> {
        match self.settled(&held, asked, flow).await {
            Ok(answered) => {
                let captured = arrived(held.redirect()).await?;
                flow.saw(None);
                Ok((captured, answered))
            }
            Err(ending) => {
                if ending.stage.is_some() {
                    self.trace_held(&held.question, flow).await;
                }
                flow.saw(Saw::of(ending.cause.answer()));
                held.answer(ending.cause.answer());
                Err(ending)
            }
        }
    }

    /// What the program hears. Other rules that come into force before it hears anything are asked as if they had been there.
    async fn settled(
        &self,
        held: &Held,
        asked: &Asked,
        flow: &Arc<Flow>,
    ) -> Result<Answered, Ending> {
        loop {
            let answered = tokio::select! {
                biased;
                () = flow.judging_again() => continue,
                answered = self.answered(held, asked, flow) => answered,
            };
            if flow.settle() {
                return answered;
            }
        }
    }

    /// Why the program may connect, or what it is told instead.
    async fn answered(
        &self,
        held: &Held,
        asked: &Asked,
        flow: &Arc<Flow>,
    ) -> Result<Answered, Ending> {
        let question = held.question;
        let attribute = async || {
            let looked_up = self
                .attribution
                .exactly(question.source, question.destination);
            Opener::of(looked_up.await, flow)
        };
        match self.decide(flow, asked, attribute).await? {
            Decision::Tunnel(permit) => match permit.connect() {
                Connect::Honest => self.opened_for(held, &permit, flow).await,
                // The kernel had to ask because of a rule before this one.
                Connect::Early => Ok(Answered::Early(permit)),
            },
            Decision::Pass(permit) => {
                flow.decided(Action::Pass, permit.rule(), None);
                Err(direct(held, &permit))
            }
            Decision::Block(block) => Err(Ending::blocked(&block, flow)),
        }
    }

    async fn opened_for(
        &self,
        held: &Held,
        permit: &TunnelPermit,
        flow: &Arc<Flow>,
    ) -> Result<Answered, Ending> {
        self.learn_beside(held.question.source, held.question.destination, flow);
        let opening = self.open_answered(permit, flow);
        match self.tracing_if_slow(&held.question, flow, opening).await {
            Ok(stream) => Ok(Answered::Opened(stream)),
            Err(NotOpened::Ended(ending)) => Err(ending),
            Err(NotOpened::Down(down)) => match super::passed_when_down(permit, &down, flow) {
                Some(pass) => Err(direct(held, &pass)),
                None => Err(Ending::down(&down, permit)),
            },
        }
    }

    /// What people want to see of a flow and the rules did not need: now, as long as there is a program that waits.
    pub(super) fn learn_beside(
        &self,
        source: SocketAddr,
        destination: SocketAddr,
        flow: &Arc<Flow>,
    ) {
        if flow.is_attributed() {
            return;
        }
        let (attribution, flow) = (self.attribution.clone(), flow.clone());
        let (learning, chronicle) = (flow.learning(), self.chronicle.clone());
        tokio::spawn(async move {
            let looked_up = attribution.at_leisure(source, destination).await;
            if let Some(Attributed::Process(process)) = looked_up {
                flow.attributed(process.pid, process.path);
            }
            drop(learning);
            chronicle.note(&flow);
        });
    }
}

/// What becomes of the stream meanwhile is the relay's business: the destination has accepted, so the program is.
async fn arrived(mut expected: Expected) -> Result<Captured, Ending> {
    expected.arrived().await.ok_or_else(Ending::given_up)
}

fn no_longer_held(cause: held::Cause) -> Ending {
    match cause {
        held::Cause::GivenUp => Ending::given_up(),
        held::Cause::HelperGone => {
            let text = "the capture helper went away while it was held";
            Ending::failed(Cause::Broken, text).at(Stage::Helper)
        }
        held::Cause::Bound => {
            let text = "the program has bound its socket to a network device, which leads around the tunnel";
            Ending::refused(Cause::NetworkUnreachable, text).at(Stage::Bound)
        }
    }
}

/// The kernel connects it itself, where the host has a way; where it has none, that is the truth.
fn direct(held: &Held, _permit: &PassPermit) -> Ending {
    match held.question.routed {
        true => Ending::direct(),
        false => Ending::refused(
            Cause::NetworkUnreachable,
            "direct: this host has no route there",
        ),
    }
}
