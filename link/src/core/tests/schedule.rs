//! Who goes first, how windows grow, what small pieces cost.

use std::collections::VecDeque;
use std::task::{Poll, Waker};

use bytes::BytesMut;

use super::{core, frame_of, frames, header, output};
use crate::core::{Core, Received, Role};
use crate::frame::{FLAG_LIMITED, HEADER, Header, Kind};
use crate::limits::Limits;

fn opened(limits: &Limits, count: u32) -> Core {
    let mut core = core(Role::Initiator, limits);
    for id in 1..=count {
        core.open(&header()).unwrap();
        let credit = (1_u32 << 20).to_be_bytes();
        core.receive(frames(&[
            (Kind::Opened, id, b""),
            (Kind::Window, id, &credit),
        ]))
        .unwrap();
    }
    while output(&mut core).is_some() {}
    core
}

#[test]
fn a_keystroke_goes_before_the_bulk_that_waits() {
    let limits = Limits::default();
    let mut core = opened(&limits, 4);
    let payload = limits.max_payload(u32::MAX);
    for id in [1, 2, 3] {
        for _ in 0..3 {
            core.send(id, frame_of(&vec![0; payload]));
        }
    }
    let first = output(&mut core).unwrap();
    assert_eq!(first.len(), limits.max_chunk);
    core.send(4, frame_of(b"k"));
    let order: Vec<usize> = std::iter::from_fn(|| output(&mut core))
        .map(|chunk| chunk.len())
        .collect();
    let keystroke = order
        .iter()
        .position(|&length| length == HEADER + 1)
        .unwrap();
    assert!(keystroke <= 2, "the keystroke went as number {keystroke}");
    assert_eq!(order.len(), 9);
}

#[test]
fn bulk_goes_in_full_frames() {
    let limits = Limits::default();
    let payload = limits.max_payload(u32::MAX);
    let mut core = opened(&limits, 1);
    let mut sent = Vec::new();
    let credit = (limits.early_window + (1 << 20)) as usize;
    // The driver is slow, and then fast.
    for chunks in [1, 100] {
        loop {
            while let Poll::Ready(Ok(room)) = core.poll_room(1, Waker::noop()) {
                core.send(1, frame_of(&vec![0; room]));
                sent.push(room);
            }
            let took = (0..chunks).filter(|_| output(&mut core).is_some()).count();
            if took == 0 {
                break;
            }
        }
    }
    assert_eq!(sent.iter().sum::<usize>(), credit, "nothing is held back");
    let rest = sent.pop().unwrap();
    assert_eq!(rest, credit % payload);
    assert!(sent.iter().all(|&room| room == payload), "{sent:?}");
}

#[test]
fn streams_that_keep_beginning_do_not_starve_the_others() {
    let limits = Limits::default();
    let mut core = opened(&limits, 40);
    core.send(40, frame_of(&vec![0; 20_000]));
    core.send(40, frame_of(&vec![1; 20_000]));
    output(&mut core).unwrap();
    let waited = (0..200).find(|turn| {
        core.send(1 + turn % 39, frame_of(&[2; 4000]));
        output(&mut core).unwrap().len() > 20_000
    });
    assert!(waited.is_some_and(|turns| turns < 20), "{waited:?}");
}

#[test]
fn windows_grow_for_readers_that_keep_up_and_within_the_budget() {
    let limits = Limits {
        window_budget: 24 << 20,
        ..Limits::default()
    };
    let mut broker = core(Role::Initiator, &limits);
    let mut gateway = core(Role::Acceptor, &limits);
    let mut most = 0;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let id = broker.open(&header()).unwrap();
        while let Some(chunk) = output(&mut broker) {
            gateway.receive(chunk).unwrap();
        }
        gateway.accept(id);
        ids.push(id);
        for _ in 0..200 {
            let mut flight = 0;
            while let Some(chunk) = output(&mut gateway) {
                broker.receive(chunk).unwrap();
            }
            while let Poll::Ready(Ok(room)) = broker.poll_room(id, Waker::noop()) {
                broker.send(id, frame_of(&vec![0; room]));
                flight += room;
                while let Some(chunk) = output(&mut broker) {
                    gateway.receive(chunk).unwrap();
                }
            }
            let mut pieces = VecDeque::new();
            while gateway
                .poll_receive(id, &mut pieces, Waker::noop())
                .is_ready()
            {
                gateway.consumed(id, pieces.drain(..).map(|piece| piece.len()).sum());
            }
            most = most.max(flight);
        }
    }
    let early = ids.len() as u64 * u64::from(limits.early_window);
    assert!(most > 2 << 20, "one flight had at most {most}");
    let sizes: u64 = gateway
        .streams
        .values()
        .map(|state| u64::from(state.window.size()))
        .sum();
    assert!(sizes <= limits.window_budget + early, "{sizes}");
}

/// A gateway's side of a new stream whose peer has used up its early window, and what the peer may
/// send once that was read.
fn window_when_limited(gateway: &mut Core, id: u32) -> u32 {
    let early = gateway.limits.early_window;
    let mut all = BytesMut::from(&frame_of(&vec![0; early as usize])[..]);
    let mut header = Header::new(Kind::Data, id, early as u16);
    header.flags = FLAG_LIMITED;
    all[..HEADER].copy_from_slice(&header.to_bytes());
    gateway.receive(all.freeze()).unwrap();
    let mut pieces = VecDeque::new();
    let read = gateway.poll_receive(id, &mut pieces, Waker::noop());
    assert_eq!(read, Poll::Ready(Ok(Received::Data)));
    gateway.consumed(id, early as usize);
    gateway.streams[&id].window.size()
}

#[test]
fn flows_that_have_much_leave_window_to_those_that_begin() {
    let limits = Limits::default();
    let mut gateway = core(Role::Acceptor, &limits);
    let open = header().encode().unwrap();
    for id in 1..=2000 {
        gateway.receive(frames(&[(Kind::Open, id, &open)])).unwrap();
        gateway.accept(id);
    }
    assert!(gateway.budget.left() >= limits.window_budget / 2 - u64::from(limits.initial_window));
    assert_eq!(gateway.streams[&1].window.size(), limits.initial_window);
    assert_eq!(gateway.streams[&2000].window.size(), limits.early_window);
    assert_eq!(
        window_when_limited(&mut gateway, 2000),
        limits.initial_window
    );
}

#[test]
fn single_bytes_cost_no_entry_each() {
    let limits = Limits::default();
    let mut gateway = core(Role::Acceptor, &limits);
    let open = header().encode().unwrap();
    gateway.receive(frames(&[(Kind::Open, 1, &open)])).unwrap();
    gateway.accept(1);
    let byte = frames(&[(Kind::Data, 1, b"x")]);
    for _ in 0..100_000 {
        gateway.receive(byte.clone()).unwrap();
    }
    let mut pieces = VecDeque::new();
    let mut total = 0;
    while gateway
        .poll_receive(1, &mut pieces, Waker::noop())
        .is_ready()
    {
        total += std::mem::take(&mut pieces).len();
    }
    assert!(total < 100, "{total} pieces");
}
