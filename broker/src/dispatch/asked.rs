//! The honest order: decided and opened while the program sits in connect(), then answered with the truth, and accepted only
//! when the destination has accepted.

use std::sync::Arc;

use adit_capture::questions::Answer;
use adit_link::Stream;
use adit_rules::{Connect, Decision, OnDown, PassPermit, Refusal, TunnelPermit};

use super::Dispatcher;
use super::ending::Ending;
use super::opener::Opener;
use super::opening::NotOpened;
use crate::attribution::Attributed;
use crate::flow_table::{Action, Flow};
use crate::held::{Cause, Expected, Held};
use crate::original_destination::{Captured, OriginalDestination};
use crate::zone::ZoneDown;

/// Why a program may connect.
enum Answered {
    /// The destination has accepted.
    Opened(Stream),
    /// The rule wants it accepted before.
    Early(TunnelPermit),
}

impl Dispatcher {
    pub(super) async fn asked_way(&self, held: Held, flow: &Arc<Flow>) -> Ending {
        let gone = held.gone();
        let ready = tokio::select! {
            biased;
            ready = self.made_ready(held, flow) => ready,
            cause = gone.wait() => Err(no_longer_held(cause)),
        };
        match ready {
            Ok((captured, Answered::Opened(stream))) => {
                flow.opened();
                let relayed = adit_link::relay(captured.into_tcp(), stream, &flow.counters);
                Ending::of_relay(relayed.await, flow)
            }
            Ok((captured, Answered::Early(permit))) => {
                self.tunnel_accepted(captured, permit, flow).await
            }
            Err(ending) => ending,
        }
    }

    /// Until the program is connected, or has been told why not.
    async fn made_ready(
        &self,
        held: Held,
        flow: &Arc<Flow>,
    ) -> Result<(Captured, Answered), Ending> {
        match self.settled(&held, flow).await {
            Ok(answered) => Ok((arrived(held.redirect()).await?, answered)),
            Err(ending) => {
                held.answer(ending.answer);
                Err(ending)
            }
        }
    }

    /// What the program hears. Other rules that come into force before it hears anything are asked as if they had been there.
    async fn settled(&self, held: &Held, flow: &Arc<Flow>) -> Result<Answered, Ending> {
        loop {
            let answered = tokio::select! {
                biased;
                () = flow.judging_again() => continue,
                answered = self.answered(held, flow) => answered,
            };
            if flow.settle() {
                return answered;
            }
        }
    }

    /// Why the program may connect, or what it is told instead.
    async fn answered(&self, held: &Held, flow: &Arc<Flow>) -> Result<Answered, Ending> {
        let question = held.question;
        let attribute = async || {
            let asked = self
                .attribution
                .exactly(question.source, question.destination);
            Opener::of(asked.await, flow)
        };
        let destination = OriginalDestination::of(&question);
        match self.decide(flow, destination, attribute).await? {
            Decision::Tunnel(permit) => match permit.connect() {
                Connect::Honest => self.opened_for(held, &permit, flow).await,
                // The kernel had to ask because of a rule before this one.
                Connect::Early => Ok(Answered::Early(permit)),
            },
            Decision::Pass(permit) => {
                flow.decided(Action::Pass, permit.rule(), None);
                Err(direct(held, &permit))
            }
            Decision::Block(block) => {
                flow.decided(Action::Block, block.rule(), None);
                let text = format!("blocked by rule {}", block.rule());
                Err(match block.refusal() {
                    Refusal::Reset => Ending::refused(text),
                    Refusal::Drop => Ending::refused(text).answering(Answer::Drop),
                })
            }
        }
    }

    async fn opened_for(
        &self,
        held: &Held,
        permit: &TunnelPermit,
        flow: &Arc<Flow>,
    ) -> Result<Answered, Ending> {
        self.learn_beside(held, flow);
        match self.open_answered(permit, flow).await {
            Ok(stream) => Ok(Answered::Opened(stream)),
            Err(NotOpened::Ended(ending)) => Err(ending),
            Err(NotOpened::Down(down)) => match super::passed_when_down(permit, &down, flow) {
                Some(pass) => Err(direct(held, &pass)),
                None => {
                    let answer = while_down(permit, &down);
                    Err(Ending::failed(down.to_string()).answering(answer))
                }
            },
        }
    }

    /// What people want to see of a flow and the rules did not need: now, as long as there is a program that waits.
    fn learn_beside(&self, held: &Held, flow: &Arc<Flow>) {
        if flow.is_attributed() {
            return;
        }
        let (attribution, flow) = (self.attribution.clone(), flow.clone());
        let (source, destination) = (held.question.source, held.question.destination);
        tokio::spawn(async move {
            if let Attributed::Process(process) = attribution.exactly(source, destination).await {
                flow.attributed(process.pid, process.path);
            }
        });
    }
}

/// What becomes of the stream meanwhile is the relay's business: the destination has accepted, so the program is.
async fn arrived(mut expected: Expected) -> Result<Captured, Ending> {
    expected.arrived().await.ok_or_else(given_up)
}

fn given_up() -> Ending {
    Ending::closed(Some("given up by the application".to_owned()))
}

fn no_longer_held(cause: Cause) -> Ending {
    match cause {
        Cause::GivenUp => given_up(),
        Cause::HelperGone => Ending::failed("the capture helper went away while it was held"),
    }
}

/// The kernel connects it itself, where the host has a way; where it has none, that is the truth.
fn direct(held: &Held, _permit: &PassPermit) -> Ending {
    match held.question.routed {
        true => Ending::direct(),
        false => Ending::refused("direct: this host has no route there")
            .answering(Answer::NetworkUnreachable),
    }
}

/// `hold` had its time: from here on it is the program's own. A gateway that can't be trusted is no matter of time.
fn while_down(permit: &TunnelPermit, down: &ZoneDown) -> Answer {
    match permit.on_down() {
        OnDown::Hold if !down.untrusted => Answer::Drop,
        OnDown::Hold | OnDown::Reject | OnDown::Pass => Answer::HostUnreachable,
    }
}
