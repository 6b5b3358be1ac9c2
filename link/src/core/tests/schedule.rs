//! Who goes first, how windows grow, what small pieces cost.

use std::collections::VecDeque;
use std::task::{Poll, Waker};

use super::{core, frame_of, frames, header, output};
use crate::core::{Core, Role};
use crate::frame::{HEADER, Kind};
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
        window_budget: 3 << 20,
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
