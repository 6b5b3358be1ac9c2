//! The table by itself, with the helper's end of the answers in the test's hand.

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
        match self.asked(id, source, sequence) {
            Asked::Anew(held) => Some(held),
            Asked::Before | Asked::AfterIt(_) => None,
        }
    }

    fn asked(&self, id: u32, source: &str, sequence: u32) -> Asked {
        let question = Question {
            id,
            source: source.parse().unwrap(),
            destination: "198.51.100.7:443".parse().unwrap(),
            sequence,
            routed: true,
        };
        self.table.ask(question, &self.answers)
    }

    fn again(&self, id: u32) -> Again {
        match self.asked(id, SOURCE, 7) {
            Asked::AfterIt(again) => again,
            other @ (Asked::Anew(_) | Asked::Before) => panic!("{other:?}"),
        }
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
    rig.again(3).answer(false);
    assert_eq!(rig.heard().await, (3, Answer::Redirect));
    assert!(!rig.table.is_empty());
    drop(expected);
    assert!(rig.is_empty());
}

#[tokio::test]
async fn one_that_can_not_come_is_told_so() {
    let mut rig = Rig::new();
    let held = rig.ask(1, SOURCE, 7).unwrap();
    let gone = held.gone();
    let _expected = held.redirect();
    assert_eq!(rig.heard().await, (1, Answer::Redirect));
    rig.again(2).answer(true);
    assert_eq!(rig.heard().await, (2, Answer::NetworkUnreachable));
    assert_eq!(gone.wait().await, Cause::Bound);
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
