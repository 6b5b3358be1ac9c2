//! Connections held at their SYN, and where an accepted connection meets the answer that let it through.
//!
//! A held connection is answered exactly once. Which question an accepted connection belongs to is told by its initial sequence
//! number and where it wanted to go: a redirect may change the source port, but neither of these.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use adit_capture::questions::{Answer, Answers, Question};
use tokio::sync::{Notify, oneshot};

use crate::original_destination::Captured;

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
}

#[derive(Debug)]
struct Place {
    gone: Gone,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Held,
    /// It was told to come.
    Expected(oneshot::Sender<Captured>),
}

/// Tells that the program that is held has given up: it closed its socket, or opened another with the same addresses.
#[derive(Debug, Clone, Default)]
pub struct Gone {
    shared: Arc<(AtomicBool, Notify)>,
}

impl Gone {
    /// Resolves when it is so.
    pub async fn wait(&self) {
        // One permit is kept: whoever asks later hears of it too.
        self.shared.1.notified().await;
    }

    /// Notes it.
    pub fn note(&self) {
        self.shared.0.store(true, Ordering::Relaxed);
        self.shared.1.notify_one();
    }

    fn is_so(&self) -> bool {
        self.shared.0.load(Ordering::Relaxed)
    }
}

/// A connection held at its SYN. Dropped without an answer, it is refused: its program must not wait for nobody.
#[derive(Debug)]
pub struct Held {
    /// What is asked.
    pub question: Question,
    gone: Gone,
    answers: Answers,
    table: HeldTable,
    answered: bool,
}

/// A connection that was let through to the listener. Dropped, it is awaited no longer.
#[derive(Debug)]
pub struct Expected {
    arrival: oneshot::Receiver<Captured>,
    syn: Syn,
    ends: (SocketAddr, SocketAddr),
    table: HeldTable,
}

impl HeldTable {
    /// Takes up a question. `None`: it was asked before, and has been answered here.
    pub fn ask(&self, question: Question, answers: &Answers) -> Option<Held> {
        let syn = Syn::of(&question);
        let ends = (question.source, question.destination);
        let mut places = self.places();
        if let Some(place) = places.by_syn.get(&syn) {
            let answer = match place.stage {
                Stage::Held => Answer::Drop,
                Stage::Expected(_) => Answer::Redirect,
            };
            drop(places);
            answers.give(question.id, answer);
            return None;
        }
        if let Some(before) = places.by_ends.insert(ends, syn)
            && let Some(place) = places.by_syn.get(&before)
        {
            place.gone.note();
        }
        let gone = Gone::default();
        let place = Place {
            gone: gone.clone(),
            stage: Stage::Held,
        };
        places.by_syn.insert(syn, place);
        Some(Held {
            question,
            gone,
            answers: answers.clone(),
            table: self.clone(),
            answered: false,
        })
    }

    /// Leads an accepted connection to whoever expects it; gives it back when nobody does.
    pub fn meet(&self, captured: Captured) -> Option<Captured> {
        if self.places().by_syn.is_empty() {
            return Some(captured);
        }
        let Some(sequence) = captured.sequence() else {
            return Some(captured);
        };
        let syn = Syn {
            destination: captured.destination.address(),
            sequence,
        };
        let mut places = self.places();
        match places.by_syn.remove(&syn) {
            Some(Place {
                stage: Stage::Expected(arrival),
                ..
            }) => {
                drop(places);
                arrival.send(captured).err()
            }
            Some(held) => {
                places.by_syn.insert(syn, held);
                Some(captured)
            }
            None => Some(captured),
        }
    }

    /// The kernel has given up all that is held: nobody hears answers any more. What was let through is awaited as before.
    pub fn all_gone(&self) {
        for place in self.places().by_syn.values() {
            match place.stage {
                Stage::Held => place.gone.note(),
                Stage::Expected(_) => {}
            }
        }
    }

    fn forget(&self, syn: Syn, ends: (SocketAddr, SocketAddr)) {
        let mut places = self.places();
        places.by_syn.remove(&syn);
        if places.by_ends.get(&ends) == Some(&syn) {
            places.by_ends.remove(&ends);
        }
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Tells when its program has given up.
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
        if let Some(place) = self.table.places().by_syn.get_mut(&syn) {
            place.stage = Stage::Expected(sender);
        }
        let table = self.table.clone();
        self.give(Answer::Redirect);
        Expected {
            arrival,
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
        self.answers.give(self.question.id, answer);
        match answer {
            Answer::Redirect => {}
            Answer::Direct
            | Answer::Refuse
            | Answer::HostUnreachable
            | Answer::NetworkUnreachable
            | Answer::Drop => self.table.forget(Syn::of(&self.question), self.ends()),
        }
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
        self.table.forget(self.syn, self.ends);
    }
}
