//! What a master or a server should not say, and how much of it is kept.

use super::*;

#[tokio::test]
async fn a_master_that_sends_more_than_it_may_is_left() {
    let (mut master, channels) = Master::with_channels().await;
    let held = master.opened(&channels, 5).await;
    let data = [&[0, 94][..], &words(&[0, 64 << 10]), &vec![0; 64 << 10]].concat();
    for _ in 0..33 {
        // It may have been left by the last one.
        let _ = master
            .socket
            .write_u32(u32::try_from(data.len()).unwrap())
            .await;
        let _ = master.socket.write_all(&data).await;
    }
    assert!(matches!(
        master.running.await.unwrap(),
        LinkEnd::Transport(_)
    ));
    assert_eq!(
        held.receive().await.unwrap().map(|all| all.len()),
        Some(2 << 20)
    );
    assert!(matches!(
        held.receive().await,
        Err(StreamError::LinkEnded(_))
    ));
    assert!(channels.open(&to_web()).is_err());
}

/// As sshd asks whether its client is alive, and as one does that wants to fill our memory.
#[test]
fn what_is_asked_is_answered_as_long_as_the_answers_are_taken() {
    let mut state = State::default();
    let id = state.open(&to_web()).unwrap();
    let say = |message: &[u8]| Bytes::copy_from_slice(message);
    let confirmed = [&[0, 91][..], &words(&[id, 7, 0, 32 << 10])].concat();
    state.hear(say(&confirmed)).unwrap();
    let asked = [&[0, 98][..], &words(&[id, 4]), b"ping", &[1]].concat();
    let mut taken = VecDeque::new();
    for _ in 0..100_000 {
        state.hear(say(&asked)).unwrap();
        state.take_out(&mut taken, usize::MAX);
        let last = taken.back().unwrap();
        assert_eq!(last.bytes[..], [0, 0, 0, 6, 0, 100, 0, 0, 0, 7]);
        let bytes = taken.iter().map(|piece| piece.bytes.len()).sum();
        state.written(&mut taken, bytes);
    }
    let answered = (0..100_000).take_while(|_| state.hear(say(&asked)).is_some());
    assert!(answered.count() < 50_000);
}

/// However many channels it asks about.
#[test]
fn answers_that_are_not_taken_are_few_for_all_channels_together() {
    let mut state = State::default();
    let answered = (0..100).map(|_| {
        let id = open_in(&mut state);
        let asked = [&[0, 98][..], &words(&[id, 4]), b"ping", &[1]].concat();
        let asked = Bytes::from(asked);
        (0..20_000)
            .take_while(|_| state.hear(asked.clone()).is_some())
            .count()
    });
    assert!(answered.sum::<usize>() < 500_000);
}

/// An open channel, whose number the server has as 7.
fn open_in(state: &mut State) -> u32 {
    let id = state.open(&to_web()).unwrap();
    let confirmed = [&[0, 91][..], &words(&[id, 7, 0, 32 << 10])].concat();
    state.hear(confirmed.into()).unwrap();
    id
}

/// A master that takes nothing, and very many who send.
#[test]
fn what_all_send_together_waits_in_little_memory() {
    let mut state = State::default();
    let mut sent = 0;
    for _ in 0..1000 {
        let id = open_in(&mut state);
        let leave = [&[0, 93][..], &words(&[id, 64 << 20])].concat();
        state.hear(leave.into()).unwrap();
        while let Poll::Ready(room) = state.poll_room(id, Waker::noop()) {
            let room = room.unwrap();
            state.send(id, BytesMut::zeroed(DATA_HEADER + room));
            sent += room;
        }
    }
    assert!((1 << 19..2 << 20).contains(&sent), "{sent}");
}

#[test]
fn what_is_said_out_of_turn_makes_no_sense() {
    let check = |before: &[&[u8]], last: &[u8], makes_sense: bool| {
        let mut state = State::default();
        state.open(&to_web()).unwrap();
        for message in before {
            state.hear(Bytes::copy_from_slice(message)).unwrap();
        }
        let heard = state.hear(Bytes::copy_from_slice(last)).is_some();
        assert_eq!(heard, makes_sense, "{last:?} after {before:?}");
    };
    let confirmed = [&[0, 91][..], &words(&[0, 7, 0, 32 << 10])].concat();
    let refused = [&[0, 92][..], &words(&[0, 2, 0, 0])].concat();
    let leave = [&[0, 93][..], &words(&[0, 9])].concat();
    let data = [&[0, 94][..], &words(&[0, 2]), b"hi"].concat();
    let and_junk = [&data[..], b"junk"].concat();
    let end = [&[0, 96][..], &words(&[0])].concat();
    let closed = [&[0, 97][..], &words(&[0])].concat();
    let asked = [&[0, 98][..], &words(&[0, 4]), b"ping", &[1]].concat();
    for message in [&leave, &data, &end, &closed, &asked] {
        check(&[], message, false);
        check(&[&confirmed], message, true);
    }
    check(&[&confirmed], &and_junk, false);
    for answer in [&confirmed, &refused] {
        check(&[], answer, true);
        check(&[&confirmed], answer, false);
        check(&[&refused], answer, false);
    }
    for message in [&data, &end, &closed, &asked] {
        check(&[&confirmed, &closed], message, false);
        check(&[&refused], message, false);
    }
    // As ssh lets it pass too.
    check(&[&confirmed, &closed], &leave, true);
}

#[test]
fn nothing_is_said_behind_a_close() {
    let mut state = State::default();
    let id = open_in(&mut state);
    state.release(id);
    let asked = [&[0, 98][..], &words(&[id, 4]), b"ping", &[1]].concat();
    state.hear(asked.into()).unwrap();
    let mut said = VecDeque::new();
    state.take_out(&mut said, usize::MAX);
    assert_eq!(
        said.back().unwrap().bytes[..],
        *b"\0\0\0\x06\0\x61\0\0\0\x07"
    );
}

/// Nobody reads it, so there is room for more at once.
#[test]
fn what_comes_beside_the_data_does_not_use_up_the_window() {
    let mut state = State::default();
    let id = open_in(&mut state);
    let beside = [&[0, 95][..], &words(&[id, 1, 32 << 10]), &[0; 32 << 10]].concat();
    let beside = Bytes::from(beside);
    for _ in 0..1000 {
        state.hear(beside.clone()).unwrap();
    }
    let mut said = VecDeque::new();
    state.take_out(&mut said, usize::MAX);
    let last = said.back().unwrap();
    assert_eq!(last.bytes[..], *b"\0\0\0\x0a\0\x5d\0\0\0\x07\0\x10\0\0");
}

#[tokio::test]
async fn who_waits_for_the_answer_of_a_stream_that_is_let_go_is_told() {
    let (mut master, channels) = Master::with_channels().await;
    let held = open(&channels);
    master.asked().await;
    let (ours, id) = (channels.clone(), held.id);
    let waiting = tokio::spawn(async move { poll_fn(|cx| ours.poll_opened(id, cx.waker())).await });
    tokio::task::yield_now().await;
    drop(held);
    assert_eq!(waiting.await.unwrap(), Err(StreamError::Reset));
    // Not even when the server says yes.
    let confirmed = [&[0, 91][..], &words(&[id, 7, 5, 32 << 10])].concat();
    master.say(&confirmed).await;
    assert_eq!(master.hear().await, b"\0\x61\0\0\0\x07");
    let noop = Waker::noop();
    assert_eq!(
        channels.poll_opened(id, noop),
        Poll::Ready(Err(StreamError::Reset))
    );
}

/// Each message has a header, and a piece of its own in memory.
#[tokio::test]
async fn a_server_that_takes_next_to_nothing_at_a_time_is_left() {
    let (mut master, channels) = Master::with_channels().await;
    let held = open(&channels);
    let id = master.asked().await;
    let confirmed = [&[0, 91][..], &id, &words(&[7, 1 << 20, 16])].concat();
    master.say(&confirmed).await;
    assert!(matches!(
        held.answered().await,
        Err(StreamError::LinkEnded(LinkEnd::Transport(_)))
    ));
}

#[tokio::test]
async fn who_is_no_master_is_not_entered() {
    for said in [
        &b"SSH-2.0-x\r\n........"[..],
        &[0, 0, 0, 4, 0, 0, 0, 9],
        &[0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 3],
    ] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(said).await.unwrap();
        let entered = enter(ours, None, None).await;
        assert!(entered.is_err());
    }
}

proptest! {
    /// Whatever a master says, to a channel that is open or one that is not.
    #[test]
    fn any_message_is_heard(messages in prop::collection::vec((80_u8..104, prop::collection::vec(any::<u8>(), 0..40), 0_u32..3), 0..12)) {
        let mut state = State::default();
        state.open(&to_web()).unwrap();
        for (kind, rest, id) in messages {
            let message = [&[0, kind][..], &words(&[id]), &rest].concat();
            let _ = state.hear(message.into());
            let _ = state.hear(rest.into());
            let waits = state.channel(0).map_or(0, |channel| channel.waits().1);
            prop_assert!(waits <= WINDOW as usize);
        }
    }
}
