//! What is left of streams, requests and ids when a link ends.

use std::collections::VecDeque;
use std::task::{Poll, Waker};

use bytes::Bytes;

use super::{core, frame_of, header, output};
use crate::core::{Core, Received, Role};
use crate::end::{LinkEnd, OpenError, StreamError};
use crate::limits::Limits;

/// Broker and gateway with one accepted stream.
fn joined() -> (Core, Core) {
    let limits = Limits::default();
    let mut broker = core(Role::Initiator, &limits);
    let mut gateway = core(Role::Acceptor, &limits);
    assert_eq!(broker.open(&header()).unwrap(), 1);
    carry(&mut broker, &mut gateway);
    assert!(gateway.poll_request(Waker::noop()).is_ready());
    gateway.accept(1);
    carry(&mut gateway, &mut broker);
    (broker, gateway)
}

fn carry(from: &mut Core, to: &mut Core) {
    while let Some(chunk) = output(from) {
        to.receive(chunk).unwrap();
    }
}

/// Everything that can be read from stream 1, and what came after it.
fn read(core: &mut Core) -> (usize, Poll<Result<Received, StreamError>>) {
    let mut total = 0;
    loop {
        let mut pieces = VecDeque::new();
        match core.poll_receive(1, &mut pieces, Waker::noop()) {
            Poll::Ready(Ok(Received::Data)) => {
                total += pieces.iter().map(Bytes::len).sum::<usize>();
            }
            last @ (Poll::Ready(_) | Poll::Pending) => return (total, last),
        }
    }
}

const SENT: usize = 30_000;

#[test]
fn what_a_complete_stream_brought_outlives_its_link() {
    let (mut broker, mut gateway) = joined();
    broker.finish(1);
    carry(&mut broker, &mut gateway);
    gateway.send(1, frame_of(&[5; SENT]));
    gateway.finish(1);
    carry(&mut gateway, &mut broker);
    assert_eq!(read(&mut gateway).1, Poll::Ready(Ok(Received::Fin)));
    gateway.drain("later");
    gateway.release(1, false);
    carry(&mut gateway, &mut broker);
    assert!(matches!(broker.end(), Some(LinkEnd::PeerClosed(_))));
    assert!(broker.poll_broken(1, Waker::noop()).is_pending());
    assert_eq!(read(&mut broker), (SENT, Poll::Ready(Ok(Received::Fin))));
}

/// A destination that accepts, speaks and resets before the broker has looked.
#[test]
fn an_answer_is_one_whatever_follows_it() {
    let (mut broker, mut gateway) = joined();
    gateway.send(1, frame_of(&[5; SENT]));
    gateway.release(1, true);
    carry(&mut gateway, &mut broker);
    let opened = broker.poll_opened(1, Waker::noop());
    assert_eq!(opened, Poll::Ready(Ok(())));
    let reset = Poll::Ready(Err(StreamError::Reset));
    assert_eq!(read(&mut broker), (SENT, reset));
}

/// Whoever still waits for its answer waits for nothing.
#[test]
fn a_stream_that_was_let_go_is_one_that_was_reset() {
    let mut broker = core(Role::Initiator, &Limits::default());
    let id = broker.open(&header()).unwrap();
    broker.release(id, false);
    let noop = Waker::noop();
    let reset = Poll::Ready(Err(StreamError::Reset));
    assert_eq!(broker.poll_opened(id, noop), reset);
    assert_eq!(
        broker.poll_broken(id, noop),
        Poll::Ready(StreamError::Reset)
    );
}

#[test]
fn an_incomplete_stream_ends_with_its_link() {
    for finish_gateway in [true, false] {
        let (mut broker, mut gateway) = joined();
        let finished = if finish_gateway {
            &mut gateway
        } else {
            &mut broker
        };
        finished.finish(1);
        carry(&mut gateway, &mut broker);
        carry(&mut broker, &mut gateway);
        gateway.close("now");
        carry(&mut gateway, &mut broker);
        for core in [&mut broker, &mut gateway] {
            let broken = core.poll_broken(1, Waker::noop());
            assert!(
                matches!(broken, Poll::Ready(StreamError::LinkEnded(_))),
                "{broken:?}"
            );
        }
    }
}

#[test]
fn closing_sends_what_finished_streams_left_behind() {
    for held in [true, false] {
        let (mut broker, mut gateway) = joined();
        gateway.finish(1);
        carry(&mut gateway, &mut broker);
        assert_eq!(read(&mut broker).1, Poll::Ready(Ok(Received::Fin)));
        broker.send(1, frame_of(&[6; SENT]));
        broker.finish(1);
        if !held {
            broker.release(1, false);
        }
        broker.close("now");
        assert!(!held || broker.poll_broken(1, Waker::noop()).is_pending());
        carry(&mut broker, &mut gateway);
        assert!(matches!(gateway.end(), Some(LinkEnd::PeerClosed(_))));
        assert_eq!(read(&mut gateway), (SENT, Poll::Ready(Ok(Received::Fin))));
    }
}

#[test]
fn requests_end_with_their_link() {
    let limits = Limits::default();
    let mut broker = core(Role::Initiator, &limits);
    let mut gateway = core(Role::Acceptor, &limits);
    broker.open(&header()).unwrap();
    broker.close("now");
    carry(&mut broker, &mut gateway);
    assert_eq!(gateway.poll_request(Waker::noop()), Poll::Ready(None));
    assert_eq!(gateway.streams(), 0);
}

#[test]
fn the_last_id_ends_the_link_with_the_last_stream() {
    let limits = Limits::default();
    let mut broker = core(Role::Initiator, &limits);
    broker.highest = u32::MAX - 1;
    let mut gateway = core(Role::Acceptor, &limits);
    let id = broker.open(&header()).unwrap();
    assert!(matches!(broker.open(&header()), Err(OpenError::Draining)));
    carry(&mut broker, &mut gateway);
    assert!(broker.end().is_none() && gateway.poll_request(Waker::noop()).is_ready());
    broker.release(id, false);
    assert_eq!(broker.end(), Some(&LinkEnd::Closed));
}
