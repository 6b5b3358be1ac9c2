//! Connections held at their SYN, and where an accepted connection meets the answer that let it through.
//!
//! A held connection is answered exactly once. Which question an accepted connection belongs to is told by its initial sequence
//! number and where it wanted to go: a redirect may change the source port, but neither of these.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use adit_capture::questions::{Answer, Answers, Question};
use tokio::sync::{Notify, oneshot};

use crate::original_destination::Captured;

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
}

#[derive(Debug)]
struct Place {
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
            source: question.source,
            gone: gone.clone(),
            stage: Stage::Held,
            since: Instant::now(),
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

    /// Who has been waiting for that long. Whoever was let through so long ago and did not come is given up.
    pub fn waiting(&self, for_long: Duration) -> Vec<Waiting> {
        let places = self.places();
        let waiting = places.by_syn.iter().filter_map(|(syn, place)| {
            let waited = place.since.elapsed();
            if matches!(place.stage, Stage::Expected(_)) && waited > ARRIVAL {
                place.gone.note();
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
            place.since = Instant::now();
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

#[cfg(test)]
mod tests {
    use super::*;
    use adit_capture::saved_syn;
    use std::os::unix::net::UnixStream as StdUnixStream;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpStream, UnixStream};

    /// A table and the helper's end of the answers.
    struct Rig {
        table: HeldTable,
        answers: Answers,
        heard: UnixStream,
    }

    impl Rig {
        fn new() -> Rig {
            let (ours, theirs) = StdUnixStream::pair().unwrap();
            theirs.set_nonblocking(true).unwrap();
            Rig {
                table: HeldTable::default(),
                answers: Answers::new(ours.into()).unwrap(),
                heard: UnixStream::from_std(theirs).unwrap(),
            }
        }

        fn ask(&self, id: u32, source: &str, sequence: u32) -> Option<Held> {
            let question = Question {
                id,
                source: source.parse().unwrap(),
                destination: "198.51.100.7:443".parse().unwrap(),
                sequence,
                routed: true,
            };
            self.table.ask(question, &self.answers)
        }

        async fn heard(&mut self) -> (u32, Answer) {
            let mut record = [0; 8];
            self.heard.read_exact(&mut record).await.unwrap();
            Answer::decode(record).unwrap()
        }

        fn is_empty(&self) -> bool {
            let places = self.table.places();
            places.by_syn.is_empty() && places.by_ends.is_empty()
        }
    }

    const SOURCE: &str = "192.0.2.1:40000";

    #[tokio::test]
    async fn each_is_answered_once() {
        let mut rig = Rig::new();
        rig.ask(1, SOURCE, 7).unwrap().answer(Answer::Direct);
        assert_eq!(rig.heard().await, (1, Answer::Direct));
        assert!(rig.is_empty());
        drop(rig.ask(2, SOURCE, 8).unwrap());
        assert_eq!(rig.heard().await, (2, Answer::Refuse), "nobody else would");
        let held = rig.ask(3, SOURCE, 9).unwrap();
        held.gone().note();
        drop(held);
        assert_eq!(rig.heard().await, (3, Answer::Drop), "nobody hears it");
        assert!(rig.is_empty());
    }

    #[tokio::test]
    async fn the_same_syn_again_is_the_same_question() {
        let mut rig = Rig::new();
        let held = rig.ask(1, SOURCE, 7).unwrap();
        assert!(rig.ask(2, SOURCE, 7).is_none());
        assert_eq!(rig.heard().await, (2, Answer::Drop), "one is held already");
        let expected = held.redirect();
        assert_eq!(rig.heard().await, (1, Answer::Redirect));
        assert!(rig.ask(3, SOURCE, 7).is_none());
        assert_eq!(rig.heard().await, (3, Answer::Redirect));
        drop(expected);
        assert!(rig.is_empty());
    }

    #[tokio::test]
    async fn another_syn_from_the_same_port_is_another_program() {
        let rig = Rig::new();
        let before = rig.ask(1, SOURCE, 7).unwrap();
        let other = rig.ask(2, "192.0.2.1:40001", 8).unwrap();
        let after = rig.ask(3, SOURCE, 9).unwrap();
        before.gone().wait().await;
        assert!(!other.gone().is_so() && !after.gone().is_so());
        drop((before, other));
        assert!(!rig.is_empty(), "the last is still asked about");
        rig.table.all_gone();
        after.gone().wait().await;
        drop(after);
        assert!(rig.is_empty());
    }

    /// A connection as the listener gets it after a redirect that changed its source port.
    async fn captured(destination: &str) -> (Captured, u32, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        saved_syn::keep(&listener).unwrap();
        let own = listener.local_addr().unwrap();
        let client = TcpStream::connect(own).await.unwrap();
        let (tcp, peer) = listener.accept().await.unwrap();
        let captured = Captured::accepted((tcp, own), peer, destination.parse().unwrap());
        let sequence = captured.sequence().unwrap();
        (captured, sequence, client)
    }

    #[tokio::test]
    async fn a_connection_meets_its_question_whatever_its_source() {
        let rig = Rig::new();
        let (captured, sequence, _client) = captured("198.51.100.7:443").await;
        let _other = rig
            .ask(1, "192.0.2.1:40001", sequence ^ 1)
            .unwrap()
            .redirect();
        let mut expected = rig.ask(2, SOURCE, sequence).unwrap().redirect();
        assert!(rig.table.meet(captured).is_none());
        expected.arrived().await.unwrap();
    }

    #[tokio::test]
    async fn who_is_not_expected_is_given_back() {
        let rig = Rig::new();
        let (held_one, sequence, _client) = captured("198.51.100.7:443").await;
        let _held = rig.ask(1, SOURCE, sequence).unwrap();
        assert!(rig.table.meet(held_one).is_some(), "not let through yet");
        let (elsewhere, sequence, _client) = captured("198.51.100.8:443").await;
        let _expected = rig.ask(2, "192.0.2.1:40001", sequence).unwrap().redirect();
        assert!(rig.table.meet(elsewhere).is_some(), "another destination");
    }
}
