//! Connections that are handed over to a master, which is played here.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::net::UnixListener;

use super::*;
use crate::gateway::mux::handing::Place;

/// What a master says: its greeting, and an answer of this kind.
const GREETING: [u8; 8] = [0, 0, 0, 1, 0, 0, 0, 4];
const OPENED: [u8; 12] = [0x80, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 2];
const FAILURE: [u8; 12] = [0x80, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0];
const ALIVE: [u8; 12] = [0x80, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 7];

struct Played {
    master: Master,
    channels: Arc<Channels>,
    listener: UnixListener,
    handing: Handing,
}

impl Played {
    async fn new() -> Self {
        let (master, channels) = Master::with_channels().await;
        let place = Place::new().unwrap();
        let listener = UnixListener::bind(place.path()).unwrap();
        let handing = Handing::new(channels.clone(), place.socket().unwrap());
        Self {
            master,
            channels,
            listener,
            handing,
        }
    }

    /// Lets someone in; what is asked.
    async fn asked(&self) -> (UnixStream, Vec<u8>) {
        let (mut control, _) = self.listener.accept().await.unwrap();
        say(&mut control, &GREETING).await;
        assert_eq!(hear(&mut control).await, GREETING);
        let question = hear(&mut control).await;
        (control, question)
    }

    /// The same of one that hands over, with what it hands.
    async fn handed(&self) -> (UnixStream, [OwnedFd; 2]) {
        let (control, question) = self.asked().await;
        assert_eq!(
            question,
            b"\x10\0\0\x08\0\0\0\0\0\0\0\0\0\0\0\x03web\0\0\0\x50"
        );
        let both = [descriptor(&control).await, descriptor(&control).await];
        (control, both)
    }

    /// Hands over a connection of its own.
    fn hands(&self) -> JoinHandle<Result<Handed, NotHanded>> {
        let handing = self.handing.clone();
        tokio::spawn(async move {
            let (_near, far) = pair();
            handing.hand(far.as_fd(), &to_web()).await
        })
    }
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

/// One that comes with a byte, as `mm_receive_fd` reads it.
async fn descriptor(control: &UnixStream) -> OwnedFd {
    let receive = || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        recvmsg(
            control,
            &mut [IoSliceMut::new(&mut [0])],
            &mut ancillary,
            RecvFlags::empty(),
        )?;
        let mut messages = ancillary.drain();
        let Some(RecvAncillaryMessage::ScmRights(mut rights)) = messages.next() else {
            panic!("no descriptor");
        };
        Ok(rights.next().unwrap())
    };
    control
        .async_io(tokio::io::Interest::READABLE, receive)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_link_that_drains_waits_for_what_was_handed_over() {
    let played = Played::new().await;
    let hands = played.hands();
    let (mut control, _both) = played.handed().await;
    say(&mut control, &OPENED).await;
    let handed = hands.await.unwrap().unwrap();
    assert_eq!(played.channels.streams(), 1);
    played.channels.drain("");
    assert_eq!(played.channels.end(), None);
    // No more are taken.
    let (_near, far) = pair();
    let refused = played.handing.hand(far.as_fd(), &to_web()).await;
    assert!(matches!(
        refused,
        Err(NotHanded::NotOpened(OpenError::Draining))
    ));
    drop(handed);
    assert_eq!(played.master.running.await.unwrap(), LinkEnd::Closed);
}

#[tokio::test]
async fn an_end_is_one_only_if_the_master_goes_on() {
    let played = Played::new().await;
    for goes_on in [true, false] {
        let hands = played.hands();
        let (mut control, _both) = played.handed().await;
        say(&mut control, &OPENED).await;
        let done = tokio::spawn(hands.await.unwrap().unwrap().done());
        drop(control);
        if goes_on {
            let (mut control, question) = played.asked().await;
            assert_eq!(question, [0x10, 0, 0, 4, 0, 0, 0, 0]);
            say(&mut control, &ALIVE).await;
            assert_eq!(done.await.unwrap(), Ok(()));
            // The next one asks there too, and is not answered.
            drop(control);
        } else {
            played.channels.close("");
            assert_eq!(done.await.unwrap(), Err(LinkEnd::Closed));
        }
    }
}

/// Thousands may end within a second, and each answer takes the master a turn.
#[tokio::test]
async fn one_answer_is_good_for_all_that_have_ended_before() {
    let played = Played::new().await;
    let mut controls = Vec::new();
    let mut ends = JoinSet::new();
    for _ in 0..100 {
        let hands = played.hands();
        let (mut control, _both) = played.handed().await;
        say(&mut control, &OPENED).await;
        ends.spawn(hands.await.unwrap().unwrap().done());
        controls.push(control);
    }
    drop(controls);
    let (mut control, mut question) = played.asked().await;
    let mut asked = 0;
    while !ends.is_empty() {
        assert_eq!(question, [0x10, 0, 0, 4, 0, 0, 0, 0]);
        asked += 1;
        while played.handing.ended() < 100 {
            tokio::task::yield_now().await;
        }
        say(&mut control, &ALIVE).await;
        question = tokio::select! {
            question = hear(&mut control) => question,
            () = async { while let Some(end) = ends.join_next().await { assert_eq!(end.unwrap(), Ok(())) } } => break,
        };
    }
    assert!(asked <= 2, "{asked} questions");
}

/// A master that loses whoever asks before it has an answer ends itself.
#[tokio::test]
async fn whoever_gives_up_leaves_what_was_asked_until_it_is_answered() {
    let played = Played::new().await;
    let hands = played.hands();
    let (mut control, _both) = played.handed().await;
    hands.abort();
    assert!(hands.await.is_err_and(|error| error.is_cancelled()));
    let mut byte = [0];
    let early = control.try_read(&mut byte);
    assert_eq!(early.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert_eq!(played.channels.streams(), 1);
    say(&mut control, &OPENED).await;
    assert_eq!(control.read(&mut byte).await.unwrap(), 0);
    assert_eq!(played.channels.streams(), 0);
}

#[tokio::test]
async fn a_master_that_takes_nothing_or_talks_nonsense_costs_nothing() {
    let played = Played::new().await;
    for (answer, is_refusal) in [(&FAILURE[..], true), (&[1, 2], false), (&[], false)] {
        let hands = played.hands();
        let (mut control, _both) = played.handed().await;
        match answer {
            [] => drop(control),
            answer => say(&mut control, answer).await,
        }
        let not = hands.await.unwrap().err().unwrap();
        assert_eq!(matches!(not, NotHanded::Refused), is_refusal, "{not:?}");
        assert_eq!(played.channels.streams(), 0);
    }
    // Nor does one that cannot be reached any more.
    drop(played.listener);
    let (_near, far) = pair();
    let not = played.handing.hand(far.as_fd(), &to_web()).await;
    assert!(matches!(not, Err(NotHanded::Unasked(_))));
    assert_eq!(played.channels.streams(), 0);
}
