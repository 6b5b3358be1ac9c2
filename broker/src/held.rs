//! Connections held at their SYN, and where an accepted connection meets the answer that let it through.
//!
//! A held connection is answered exactly once. Which question an accepted connection belongs to is told by its initial sequence
//! number and where it wanted to go: a redirect may change the source port, but neither of these.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
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

/// Why a connection is held no longer, though nobody answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Its program closed the socket, or opened another with the same addresses.
    GivenUp,
    /// The kernel gave up all that was held, as the helper is gone.
    HelperGone,
}

/// Tells that a connection is held no longer.
#[derive(Debug, Clone, Default)]
pub struct Gone {
    shared: Arc<(OnceLock<Cause>, Notify)>,
}

impl Gone {
    /// Resolves when it is so.
    pub async fn wait(&self) -> Cause {
        loop {
            // One permit is kept: whoever asks later hears of it too.
            self.shared.1.notified().await;
            if let Some(cause) = self.cause() {
                return cause;
            }
        }
    }

    /// Notes it. The first cause is kept.
    pub fn note(&self, cause: Cause) {
        let _ = self.shared.0.set(cause);
        self.shared.1.notify_one();
    }

    fn cause(&self) -> Option<Cause> {
        self.shared.0.get().copied()
    }

    fn is_so(&self) -> bool {
        self.cause().is_some()
    }
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
    /// Takes up a question. `None`: it was asked before, and is answered by whoever took it up then.
    pub fn ask(&self, question: Question, answers: &Answers) -> Option<Held> {
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
                }
                Stage::Expected(_) => answers.give(question.id, Answer::Redirect),
            }
            return None;
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
        Some(Held {
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
        held.gone().note(Cause::GivenUp);
        drop(held);
        assert_eq!(rig.heard().await, (3, Answer::Drop), "nobody hears it");
        assert!(rig.is_empty());
    }

    #[tokio::test]
    async fn the_same_syn_again_is_the_same_question() {
        let mut rig = Rig::new();
        let held = rig.ask(1, SOURCE, 7).unwrap();
        assert!(rig.ask(2, SOURCE, 7).is_none());
        assert_eq!(rig.heard().await, (1, Answer::Drop), "it can't be held");
        let expected = held.redirect();
        assert_eq!(rig.heard().await, (2, Answer::Redirect));
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
        assert_eq!(before.gone().wait().await, Cause::GivenUp);
        assert!(!other.gone().is_so() && !after.gone().is_so());
        drop((before, other));
        assert!(!rig.is_empty(), "the last is still asked about");
        rig.table.all_gone();
        assert_eq!(after.gone().wait().await, Cause::HelperGone);
        drop(after);
        assert!(rig.is_empty());
    }

    #[tokio::test]
    async fn what_was_given_up_is_asked_anew() {
        let mut rig = Rig::new();
        let before = rig.ask(1, SOURCE, 7).unwrap();
        rig.table.all_gone();
        let after = rig.ask(2, SOURCE, 7).unwrap();
        drop(before);
        after.answer(Answer::Direct);
        assert_eq!(
            rig.heard().await,
            (2, Answer::Direct),
            "the first of all answers"
        );
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
    async fn without_a_kept_syn_it_meets_its_question_by_its_own_source() {
        let rig = Rig::new();
        let (captured, sequence, _client) = captured("198.51.100.7:443").await;
        let mut expected = rig.ask(2, SOURCE, sequence ^ 1).unwrap().redirect();
        let other = "192.0.2.1:40001".parse().unwrap();
        let captured = rig.table.meet_from(other, captured).unwrap();
        let source = SOURCE.parse().unwrap();
        assert!(rig.table.meet_from(source, captured).is_none());
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
