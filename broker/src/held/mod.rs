//! Connections held at their SYN, and where an accepted connection meets the answer that let it through.
//!
//! A held connection is answered exactly once. Which question an accepted connection belongs to is told by its initial sequence
//! number and where it wanted to go: a redirect may change the source port, but neither of these.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use adit_capture::questions::{Answer, Answers, Question};
use tokio::sync::oneshot;

use crate::original_destination::Captured;

mod gone;
#[cfg(test)]
mod tests;

pub use gone::{Cause, Gone};

/// A connection that was let through is there within a millisecond, or its program is gone.
const ARRIVAL: Duration = Duration::from_secs(10);

/// What tells one connection from any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Syn {
    destination: SocketAddr,
    sequence: u32,
}

impl Syn {
    fn of(question: &Question) -> Syn {
        Syn {
            destination: question.destination,
            sequence: question.sequence,
        }
    }
}

/// All connections that were asked about and are not accepted yet. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct HeldTable {
    places: Arc<Mutex<Places>>,
}

#[derive(Debug, Default)]
struct Places {
    by_syn: HashMap<Syn, Place>,
    /// What each pair of addresses is asked for now.
    by_ends: HashMap<(SocketAddr, SocketAddr), Syn>,
    /// Of the last place.
    last: u64,
}

#[derive(Debug)]
struct Place {
    /// No two places have the same: the same SYN may come to be held anew when all was given up.
    number: u64,
    /// The kernel's number for it, and where the answer goes.
    asked: (u32, Answers),
    source: SocketAddr,
    gone: Gone,
    stage: Stage,
    since: Instant,
}

/// A program that has been waiting for a while.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// Its socket's address.
    pub source: SocketAddr,
    /// Where it wants to go.
    pub destination: SocketAddr,
    /// To be noted when there is no such socket any more.
    pub gone: Gone,
}

#[derive(Debug)]
enum Stage {
    Held,
    /// It was told to come.
    Expected(oneshot::Sender<Captured>),
}

/// What a question is.
#[derive(Debug)]
pub enum Asked {
    /// A new one.
    Anew(Held),
    /// One that was asked before, and is answered by whoever took it up then.
    Before,
    /// One whose connection was let through, and did not come.
    AfterIt(Again),
}

/// A connection that was let through is held again.
#[derive(Debug)]
pub struct Again {
    id: u32,
    answers: Answers,
    gone: Gone,
}

/// A connection held at its SYN. Dropped without an answer, it is refused: its program must not wait for nobody.
#[derive(Debug)]
pub struct Held {
    /// What is asked; its number is the one that it was asked by first.
    pub question: Question,
    place: u64,
    gone: Gone,
    table: HeldTable,
    answered: bool,
}

/// A connection that was let through to the listener. Dropped, it is awaited no longer.
#[derive(Debug)]
pub struct Expected {
    arrival: oneshot::Receiver<Captured>,
    place: u64,
    syn: Syn,
    ends: (SocketAddr, SocketAddr),
    table: HeldTable,
}

impl HeldTable {
    /// Takes up a question.
    pub fn ask(&self, question: Question, answers: &Answers) -> Asked {
        let syn = Syn::of(&question);
        let ends = (question.source, question.destination);
        let mut places = self.places();
        if let Some(place) = places.by_syn.get_mut(&syn)
            && !place.gone.is_so()
        {
            match place.stage {
                // Its kernel sends no SYN again that is held: so the one before is not, and its number is nobody's. The kernel
                // lets go of all queues at once when any program takes its rules away.
                Stage::Held => {
                    let (id, answers) =
                        std::mem::replace(&mut place.asked, (question.id, answers.clone()));
                    answers.give(id, Answer::Drop);
                    return Asked::Before;
                }
                Stage::Expected(_) => {
                    return Asked::AfterIt(Again {
                        id: question.id,
                        answers: answers.clone(),
                        gone: place.gone.clone(),
                    });
                }
            }
        }
        if let Some(before) = places.by_ends.insert(ends, syn)
            && let Some(place) = places.by_syn.get(&before)
        {
            place.gone.note(Cause::GivenUp);
        }
        places.last += 1;
        let (number, gone) = (places.last, Gone::default());
        let place = Place {
            number,
            asked: (question.id, answers.clone()),
            source: question.source,
            gone: gone.clone(),
            stage: Stage::Held,
            since: Instant::now(),
        };
        places.by_syn.insert(syn, place);
        Asked::Anew(Held {
            question,
            place: number,
            gone,
            table: self.clone(),
            answered: false,
        })
    }

    /// Leads an accepted connection to whoever expects it; gives it back when nobody does.
    pub fn meet(&self, captured: Captured) -> Option<Captured> {
        let Some(sequence) = captured.sequence() else {
            return Some(captured);
        };
        let syn = Syn {
            destination: captured.destination.address(),
            sequence,
        };
        self.places().lead(syn, captured)
    }

    /// The same for one whose SYN the kernel did not keep (`net.ipv4.tcp_syncookies`), by its own source before any redirect.
    pub fn meet_from(&self, source: SocketAddr, captured: Captured) -> Option<Captured> {
        let ends = (source, captured.destination.address());
        let mut places = self.places();
        match places.by_ends.get(&ends).copied() {
            Some(syn) => places.lead(syn, captured),
            None => Some(captured),
        }
    }

    /// Whether nothing is asked about and nobody expected.
    pub fn is_empty(&self) -> bool {
        self.places().by_syn.is_empty()
    }

    /// Who has been waiting for that long. Whoever was let through so long ago and did not come is given up.
    pub fn waiting(&self, for_long: Duration) -> Vec<Waiting> {
        let places = self.places();
        let waiting = places.by_syn.iter().filter_map(|(syn, place)| {
            let waited = place.since.elapsed();
            if matches!(place.stage, Stage::Expected(_)) && waited > ARRIVAL {
                place.gone.note(Cause::GivenUp);
            }
            (waited >= for_long).then(|| Waiting {
                source: place.source,
                destination: syn.destination,
                gone: place.gone.clone(),
            })
        });
        waiting.collect()
    }

    /// The kernel has given up all that is held: nobody hears answers any more. What was let through is awaited as before.
    pub fn all_gone(&self) {
        for place in self.places().by_syn.values() {
            match place.stage {
                Stage::Held => place.gone.note(Cause::HelperGone),
                Stage::Expected(_) => {}
            }
        }
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// Leads a connection to whoever expects it, by the SYN that it began with.
    fn lead(&mut self, syn: Syn, captured: Captured) -> Option<Captured> {
        match self.by_syn.remove(&syn) {
            Some(Place {
                stage: Stage::Expected(arrival),
                ..
            }) => arrival.send(captured).err(),
            Some(held) => {
                self.by_syn.insert(syn, held);
                Some(captured)
            }
            None => Some(captured),
        }
    }

    /// The place, as long as it is that one.
    fn get(&mut self, syn: Syn, number: u64) -> Option<&mut Place> {
        let place = self.by_syn.get_mut(&syn);
        place.filter(|place| place.number == number)
    }

    /// A place that was taken by another question since is that one's.
    fn forget(&mut self, syn: Syn, ends: (SocketAddr, SocketAddr), number: u64) {
        match self.by_syn.get(&syn) {
            Some(place) if place.number != number => return,
            Some(_) => {
                self.by_syn.remove(&syn);
            }
            None => {}
        }
        if self.by_ends.get(&ends) == Some(&syn) {
            self.by_ends.remove(&ends);
        }
    }
}

impl Again {
    /// Lets it through once more, unless it `cannot_come`.
    pub fn answer(self, cannot_come: bool) {
        if cannot_come {
            self.answers.give(self.id, Answer::NetworkUnreachable);
            self.gone.note(Cause::Bound);
        } else {
            self.answers.give(self.id, Answer::Redirect);
        }
    }
}

impl Held {
    /// Tells when it is held no longer.
    pub fn gone(&self) -> Gone {
        self.gone.clone()
    }

    /// Answers with anything but a redirect.
    pub fn answer(mut self, answer: Answer) {
        self.give(answer);
    }

    /// Lets it through to the listener.
    pub fn redirect(mut self) -> Expected {
        let (syn, ends) = (Syn::of(&self.question), self.ends());
        let (sender, arrival) = oneshot::channel();
        if let Some(place) = self.table.places().get(syn, self.place) {
            place.stage = Stage::Expected(sender);
            place.since = Instant::now();
        }
        let (table, place) = (self.table.clone(), self.place);
        self.give(Answer::Redirect);
        Expected {
            arrival,
            place,
            syn,
            ends,
            table,
        }
    }

    fn ends(&self) -> (SocketAddr, SocketAddr) {
        (self.question.source, self.question.destination)
    }

    fn give(&mut self, answer: Answer) {
        self.answered = true;
        let syn = Syn::of(&self.question);
        let mut places = self.table.places();
        // Whoever asks anew for its place answers for itself.
        let Some(place) = places.get(syn, self.place) else {
            return;
        };
        let (id, answers) = place.asked.clone();
        match answer {
            Answer::Redirect => {}
            Answer::Direct
            | Answer::Refuse
            | Answer::HostUnreachable
            | Answer::NetworkUnreachable
            | Answer::Drop => places.forget(syn, self.ends(), self.place),
        }
        drop(places);
        answers.give(id, answer);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.answered {
            // A reset would find another socket at that address, or none.
            self.give(match self.gone.is_so() {
                true => Answer::Drop,
                false => Answer::Refuse,
            });
        }
    }
}

impl Expected {
    /// Resolves when it was accepted. `None`: it never will be.
    pub async fn arrived(&mut self) -> Option<Captured> {
        (&mut self.arrival).await.ok()
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.table.places().forget(self.syn, self.ends, self.place);
    }
}
