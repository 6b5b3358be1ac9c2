//! Against a master that is played here, in the words of PROTOCOL.mux and RFC 4254.

mod handing;
mod misbehaviour;

use std::future::poll_fn;
use std::task::Context;

use adit_link::{Host, RefusalReason};
use proptest::prelude::*;
use tokio::io::AsyncReadExt;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Duration, Instant};

use super::wire::{DATA_HEADER, words};
use super::*;

struct Master {
    socket: UnixStream,
    running: JoinHandle<LinkEnd>,
}

/// A stream of someone's. Dropped, it is released.
struct Held {
    channels: Arc<Channels>,
    id: u32,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.channels.release(self.id, false);
    }
}

impl Held {
    async fn answered(&self) -> Result<(), StreamError> {
        poll_fn(|cx| self.channels.poll_opened(self.id, cx.waker())).await
    }

    /// As a relay does.
    async fn send(&self, mut payload: &[u8]) -> Result<(), StreamError> {
        while !payload.is_empty() {
            let room = poll_fn(|cx| self.channels.poll_room(self.id, cx.waker())).await?;
            let (now, later) = payload.split_at(room.min(payload.len()));
            let mut frame = BytesMut::zeroed(DATA_HEADER);
            frame.extend_from_slice(now);
            self.channels.send(self.id, frame);
            payload = later;
        }
        Ok(())
    }

    /// All that has arrived, and is done with; `None` at the end.
    async fn receive(&self) -> Result<Option<Vec<u8>>, StreamError> {
        let mut pieces = VecDeque::new();
        let receive =
            |cx: &mut Context<'_>| self.channels.poll_receive(self.id, &mut pieces, cx.waker());
        match poll_fn(receive).await? {
            Received::Fin => Ok(None),
            Received::Data => {
                let data: Vec<u8> = pieces.into_iter().flatten().collect();
                self.channels.consumed(self.id, data.len());
                Ok(Some(data))
            }
        }
    }

    async fn broken(&self) -> StreamError {
        poll_fn(|cx| self.channels.poll_broken(self.id, cx.waker())).await
    }
}

fn to_web() -> OpenHeader {
    OpenHeader {
        host: Host::Name("web".to_owned()),
        port: 80,
        application: None,
    }
}

fn open(channels: &Arc<Channels>) -> Held {
    Held {
        channels: channels.clone(),
        id: channels.open(&to_web()).unwrap(),
    }
}

impl Master {
    /// Lets someone in.
    async fn with_channels() -> (Master, Arc<Channels>) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let played = async {
            assert_eq!(hear(&mut theirs).await, [0, 0, 0, 1, 0, 0, 0, 4]);
            assert_eq!(hear(&mut theirs).await, [0x10, 0, 0, 15, 0, 0, 0, 0]);
            say(&mut theirs, &[0, 0, 0, 1, 0, 0, 0, 4]).await;
            say(&mut theirs, &[0x80, 0, 0, 15, 0, 0, 0, 0]).await;
        };
        let (entered, ()) = tokio::join!(channels(ours, None), played);
        let (channels, driver) = entered.unwrap();
        let running = tokio::spawn(driver.run());
        let socket = theirs;
        (Master { socket, running }, channels)
    }

    async fn hear(&mut self) -> Vec<u8> {
        hear(&mut self.socket).await
    }

    async fn say(&mut self, message: &[u8]) {
        say(&mut self.socket, message).await;
    }

    /// The number of the channel that is asked for.
    async fn asked(&mut self) -> [u8; 4] {
        let asked = self.hear().await;
        assert_eq!(&asked[..2], [0, 90], "{asked:?}");
        assert_eq!(&asked[2..18], b"\0\0\0\x0cdirect-tcpip");
        // Ours, the window of 2 MiB, messages of 32 KiB, the host.
        assert_eq!(asked[22..30], [0, 0x20, 0, 0, 0, 0, 0x80, 0]);
        assert_eq!(&asked[30..41], b"\0\0\0\x03web\0\0\0\x50");
        [asked[18], asked[19], asked[20], asked[21]]
    }

    /// A channel to port 80 of `web`, which may have so many bytes sent to it.
    async fn opened(&mut self, channels: &Arc<Channels>, leave: u32) -> Held {
        let held = open(channels);
        let id = self.asked().await;
        let confirmed = [&[0, 91][..], &id, &words(&[7, leave, 32 << 10])].concat();
        self.say(&confirmed).await;
        held.answered().await.unwrap();
        held
    }

    /// So many of them, without a limit.
    async fn opened_all(&mut self, channels: &Arc<Channels>, count: usize) -> Vec<Held> {
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(self.opened(channels, u32::MAX).await);
        }
        all
    }
}

async fn hear(socket: &mut UnixStream) -> Vec<u8> {
    let length = socket.read_u32().await.unwrap();
    let mut message = vec![0; length as usize];
    socket.read_exact(&mut message).await.unwrap();
    message
}

async fn say(socket: &mut UnixStream, message: &[u8]) {
    let length = u32::try_from(message.len()).unwrap();
    socket.write_u32(length).await.unwrap();
    socket.write_all(message).await.unwrap();
}

#[tokio::test]
async fn no_more_is_sent_than_there_is_leave_for() {
    let (mut master, channels) = Master::with_channels().await;
    let held = master.opened(&channels, 5).await;
    let writing = tokio::spawn(async move {
        held.send(b"eight by").await.unwrap();
        held.channels.finish(held.id);
        held
    });
    assert_eq!(master.hear().await, b"\0\x5e\0\0\0\x07\0\0\0\x05eight");
    // Two more, then the rest.
    master.say(&[&[0, 93][..], &words(&[0, 2])].concat()).await;
    assert_eq!(master.hear().await, b"\0\x5e\0\0\0\x07\0\0\0\x02 b");
    master.say(&[&[0, 93][..], &words(&[0, 9])].concat()).await;
    assert_eq!(master.hear().await, b"\0\x5e\0\0\0\x07\0\0\0\x01y");
    assert_eq!(master.hear().await, b"\0\x60\0\0\0\x07");
    drop(writing.await.unwrap());
    assert_eq!(master.hear().await, b"\0\x61\0\0\0\x07");
}

/// More than fits into one message goes in several, and no more waits for the master than may.
#[tokio::test]
async fn a_large_piece_goes_in_messages_that_the_server_takes() {
    let (mut master, channels) = Master::with_channels().await;
    let held = master.opened(&channels, 64 << 20).await;
    let sent: Vec<u8> = (0..300_000_u32).map(|number| number as u8).collect();
    let copy = sent.clone();
    let writing = tokio::spawn(async move {
        held.send(&copy).await.unwrap();
        held
    });
    let mut heard = Vec::new();
    while heard.len() < sent.len() {
        let message = master.hear().await;
        assert_eq!(&message[..6], b"\0\x5e\0\0\0\x07");
        let length = u32::from_be_bytes(message[6..10].try_into().unwrap());
        assert_eq!(length as usize, message.len() - 10);
        assert!(length <= 32 << 10);
        heard.extend_from_slice(&message[10..]);
    }
    assert!(heard == sent);
    drop(writing.await.unwrap());
}

/// A master that takes nothing: others are not kept from asking for channels, and memory is bounded.
#[tokio::test]
async fn who_waits_for_the_master_waits_with_little() {
    let (mut master, channels) = Master::with_channels().await;
    let held = master.opened(&channels, 64 << 20).await;
    let mut sent = 0;
    let writing = async {
        loop {
            held.send(&[0; 1000]).await.unwrap();
            sent += 1000;
        }
    };
    let stuck = async {
        let mut queued = (0, 0);
        // All that is ready has had its turn many times.
        while queued.1 < 1000 {
            tokio::task::yield_now().await;
            let now = channels.lock().channel(held.id).unwrap().queued;
            queued = (now, if now == queued.0 { queued.1 + 1 } else { 0 });
        }
    };
    tokio::select! {
        biased;
        () = writing => {}
        () = stuck => {}
    }
    // Besides what the kernel has taken, which is less than half of a megabyte.
    assert!(sent < 1 << 20, "{sent}");
    assert!(channels.open(&to_web()).is_ok());
}

/// Far more programs have much to send than the master takes at once: each has its turn.
#[tokio::test]
async fn nobody_is_passed_over_who_has_something_to_send() {
    const FLOWS: usize = 40;
    let (mut master, channels) = Master::with_channels().await;
    let all = master.opened_all(&channels, FLOWS).await;
    let mut sending = JoinSet::new();
    for (number, held) in all.into_iter().enumerate() {
        let piece = vec![number as u8; 300_000];
        sending.spawn(async move { while held.send(&piece).await.is_ok() {} });
    }
    let mut heard = [0; FLOWS];
    while heard.iter().sum::<usize>() < FLOWS << 20 {
        let message = master.hear().await;
        heard[usize::from(message[10])] += message.len();
    }
    let (least, most) = (heard.iter().min(), heard.iter().max());
    assert!(least.unwrap() * 2 > *most.unwrap(), "{heard:?}");
}

#[tokio::test]
async fn an_end_is_an_end_and_a_close_without_one_is_a_loss() {
    let (mut master, channels) = Master::with_channels().await;
    for ends in [true, false] {
        let held = master.opened(&channels, 5).await;
        let id = words(&[held.id]);
        let data = [&[0, 94][..], &id, &words(&[2]), b"hi"].concat();
        master.say(&data).await;
        assert_eq!(held.receive().await, Ok(Some(b"hi".to_vec())));
        if ends {
            master.say(&[&[0, 96][..], &id].concat()).await;
            assert_eq!(held.receive().await, Ok(None));
        }
        master.say(&[&[0, 97][..], &id].concat()).await;
        // RFC 4254, section 5.3: it is said back at once.
        assert_eq!(master.hear().await, b"\0\x61\0\0\0\x07");
        let expected = if ends {
            Ok(None)
        } else {
            Err(StreamError::Reset)
        };
        assert_eq!(held.receive().await, expected);
        if ends {
            // What is sent to who has closed is lost, and that is told.
            held.send(b"?").await.unwrap();
        }
        assert_eq!(held.broken().await, StreamError::Reset);
    }
    assert_eq!(channels.streams(), 0, "all are forgotten");
}

#[tokio::test]
async fn what_was_read_is_given_leave_for_again() {
    let (mut master, channels) = Master::with_channels().await;
    let held = master.opened(&channels, 5).await;
    let piece = vec![b'x'; 32 << 10];
    let data = [&[0, 94][..], &words(&[0, 32 << 10]), &piece].concat();
    for _ in 0..32 {
        master.say(&data).await;
        assert_eq!(held.receive().await, Ok(Some(piece.clone())));
    }
    // Half of the window: a megabyte.
    assert_eq!(master.hear().await, b"\0\x5d\0\0\0\x07\0\x10\0\0");
}

#[tokio::test]
async fn many_small_pieces_are_few_in_memory_and_stay_in_order() {
    let (mut master, channels) = Master::with_channels().await;
    let held = master.opened(&channels, 5).await;
    let mut sent = Vec::new();
    for round in 0..3_u8 {
        for piece in (0..9000).map(|number| (number % 251) as u8) {
            sent.push(piece);
            master
                .say(&[&[0, 94][..], &words(&[0, 1]), &[piece]].concat())
                .await;
        }
        let large = vec![round; 10_000];
        sent.extend(&large);
        master
            .say(&[&[0, 94][..], &words(&[0, 10_000]), &large].concat())
            .await;
    }
    master.say(&[&[0, 96][..], &words(&[0])].concat()).await;
    // Its end has been heard: all of it is there.
    while !channels.lock().channel(0).unwrap().has_ended {
        tokio::task::yield_now().await;
    }
    let (pieces, bytes) = channels.lock().channel(0).unwrap().waits();
    assert!(pieces <= 12 && bytes == sent.len(), "{pieces}, {bytes}");
    let mut read_so_far = Vec::new();
    while let Some(chunk) = held.receive().await.unwrap() {
        read_so_far.extend(chunk);
    }
    assert!(read_so_far == sent);
}

#[tokio::test]
async fn who_gave_up_is_closed_once_it_is_answered_and_not_before() {
    let (mut master, channels) = Master::with_channels().await;
    drop(open(&channels));
    assert_eq!(master.asked().await, [0; 4]);
    master
        .say(&[&[0, 91][..], &words(&[0, 7, 5, 32 << 10])].concat())
        .await;
    assert_eq!(master.hear().await, b"\0\x61\0\0\0\x07");
    master.say(&[&[0, 97][..], &words(&[0])].concat()).await;
    // One after another: what is asked next is heard after what was said before.
    drop(master.opened(&channels, 5).await);
    assert!(channels.lock().channel(0).is_none());
}

/// Its end goes behind the answer, as the server's number for it comes with that.
#[tokio::test]
async fn a_program_that_ends_before_the_answer_has_ended_after_it() {
    let (mut master, channels) = Master::with_channels().await;
    let held = open(&channels);
    channels.finish(held.id);
    master.asked().await;
    let confirmed = [&[0, 91][..], &words(&[held.id, 7, 5, 32 << 10])].concat();
    master.say(&confirmed).await;
    assert_eq!(master.hear().await, b"\0\x60\0\0\0\x07");
}

#[tokio::test]
async fn a_refusal_is_told_in_the_servers_words() {
    let (mut master, channels) = Master::with_channels().await;
    for (reason, text, expected) in [
        (1, "open failed", RefusalReason::Denied),
        (2, "Connection refused", RefusalReason::Refused),
    ] {
        let held = open(&channels);
        let id = master.asked().await;
        let length = u32::try_from(text.len()).unwrap();
        let refused = [
            &[0, 92][..],
            &id,
            &words(&[reason, length]),
            text.as_bytes(),
            &words(&[0]),
        ];
        master.say(&refused.concat()).await;
        let Err(StreamError::Refused(why)) = held.answered().await else {
            panic!("it is open");
        };
        assert_eq!(why.reason, expected);
    }
    assert_eq!(channels.streams(), 0);
}

/// The master remembers each: another has to take its place, and the old flows go on.
#[tokio::test]
async fn after_many_refusals_no_more_channels_are_to_be_had() {
    let (mut master, channels) = Master::with_channels().await;
    let old = master.opened(&channels, 5).await;
    let mut refused = 0;
    while !channels.is_closing() {
        let held = open(&channels);
        let id = master.asked().await;
        let answer = [&[0, 92][..], &id, &words(&[2, 0, 0])].concat();
        master.say(&answer).await;
        assert!(held.answered().await.is_err());
        refused += 1;
    }
    assert_eq!(refused, 2001);
    assert!(matches!(channels.open(&to_web()), Err(OpenError::Draining)));
    old.send(b"still").await.unwrap();
    assert_eq!(master.hear().await, b"\0\x5e\0\0\0\x07\0\0\0\x05still");
    let id = words(&[old.id]);
    drop(old);
    assert_eq!(master.hear().await, b"\0\x61\0\0\0\x07");
    assert_eq!(channels.end(), None);
    // With the last one it is over.
    master.say(&[&[0, 97][..], &id].concat()).await;
    assert_eq!(master.running.await.unwrap(), LinkEnd::Closed);
}

#[tokio::test]
async fn who_is_not_answered_in_time_is_told_so() {
    let mut state = State::default();
    let noop = Waker::noop();
    let (first, second) = (
        state.open(&to_web()).unwrap(),
        state.open(&to_web()).unwrap(),
    );
    let answer = |id| [&[0, 91][..], &words(&[id, 7, 5, 32 << 10])].concat();
    state.hear(answer(first).into()).unwrap();
    let (until, id) = state.next_unanswered().unwrap();
    assert_eq!(id, second);
    let patience = until.duration_since(Instant::now());
    assert!(patience > Duration::from_secs(25) && patience <= Duration::from_secs(30));
    state.give_up(second);
    let Poll::Ready(Err(StreamError::Refused(why))) = state.poll_opened(second, noop) else {
        panic!("it is open");
    };
    assert_eq!(why.reason, RefusalReason::TimedOut);
    assert_eq!(state.next_unanswered(), None);
    // An answer that comes too late is no offence, and all is forgotten in time.
    state.release(second);
    assert_eq!(state.streams(), 2);
    state.hear(answer(second).into()).unwrap();
    state
        .hear([&[0, 97][..], &words(&[second])].concat().into())
        .unwrap();
    assert_eq!(state.streams(), 1);
    assert_eq!(state.poll_opened(first, noop), Poll::Ready(Ok(())));
}

#[tokio::test]
async fn all_of_what_was_sent_goes_before_the_end() {
    let (mut master, channels) = Master::with_channels().await;
    let held = master.opened(&channels, 64 << 20).await;
    held.send(&[1; 100_000]).await.unwrap();
    drop(held);
    channels.close("");
    let mut heard = 0;
    loop {
        let message = master.hear().await;
        match message[1] {
            94 => heard += message.len() - 10,
            kind => break assert_eq!((kind, heard), (97, 100_000)),
        }
    }
    assert_eq!(master.running.await.unwrap(), LinkEnd::Closed);
}

/// What the server says meanwhile, of channels that are forgotten with the end, keeps nothing back.
#[tokio::test]
async fn what_is_heard_after_the_end_does_not_cut_off_what_was_sent() {
    let (mut master, channels) = Master::with_channels().await;
    let all = master.opened_all(&channels, 14).await;
    for held in &all {
        held.send(&[1; 60_000]).await.unwrap();
    }
    let ids: Vec<u32> = all.into_iter().map(|held| held.id).collect();
    channels.close("");
    for id in ids {
        let leave = [&[0, 93][..], &words(&[id, 60_000])].concat();
        master.say(&leave).await;
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
    }
    let (mut heard, mut closed) = (0, 0);
    while closed < 14 {
        let message = master.hear().await;
        match message[1] {
            94 => heard += message.len() - 10,
            kind => {
                assert_eq!(kind, 97);
                closed += 1;
            }
        }
    }
    assert_eq!(heard, 14 * 60_000);
}

#[tokio::test]
async fn who_leaves_the_driver_leaves_all() {
    let (mut master, channels) = Master::with_channels().await;
    let held = master.opened(&channels, 5).await;
    master.running.abort();
    assert_eq!(
        held.broken().await,
        StreamError::LinkEnded(LinkEnd::Abandoned)
    );
    assert!(matches!(channels.open(&to_web()), Err(OpenError::Ended(_))));
}
