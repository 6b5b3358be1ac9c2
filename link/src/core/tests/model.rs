//! Two cores joined by wires, any order of events, and what each end must then have seen.

use std::collections::{BTreeMap, VecDeque};
use std::task::{Poll, Waker};

use bytes::Bytes;
use proptest::prelude::*;

use super::{core, frame_of, header, output, small};
use crate::core::{Core, ReceiveEnd, Received, Role};
use crate::end::StreamError;
use crate::header::{Refusal, RefusalReason};

/// What the model knows of one side's hold on a stream.
#[derive(Debug, Default)]
struct End {
    held: bool,
    sent: u64,
    received: u64,
    finished: bool,
    saw_fin: bool,
    broken: Option<StreamError>,
    /// Let go of before both had finished; `Some(true)` when what it had sent was to go first.
    reset: Option<bool>,
    refused: bool,
}

struct Side {
    core: Core,
    ends: BTreeMap<u32, End>,
    /// On their way from here.
    wire: VecDeque<u8>,
}

impl Side {
    fn new(role: Role) -> Self {
        Self {
            core: core(role, &small()),
            ends: BTreeMap::new(),
            wire: VecDeque::new(),
        }
    }

    fn held(&self, index: usize) -> Option<u32> {
        let held: Vec<u32> = self
            .ends
            .iter()
            .filter(|(_, end)| end.held)
            .map(|(&id, _)| id)
            .collect();
        (!held.is_empty()).then(|| held[index % held.len()])
    }

    fn write(&mut self, id: u32, most: usize) {
        let end = self.ends.get_mut(&id).unwrap();
        if end.finished {
            return;
        }
        match self.core.poll_room(id, Waker::noop()) {
            Poll::Ready(Ok(room)) => {
                let length = room.min(most);
                let salt = u64::from(self.core.role == Role::Acceptor);
                let payload: Vec<u8> = (0..length as u64)
                    .map(|i| content(id, salt, end.sent + i))
                    .collect();
                self.core.send(id, frame_of(&payload));
                end.sent += length as u64;
            }
            Poll::Ready(Err(error)) => end.broken = Some(error),
            Poll::Pending => {}
        }
    }

    fn read(&mut self, id: u32) -> bool {
        let end = self.ends.get_mut(&id).unwrap();
        let mut pieces = VecDeque::new();
        match self.core.poll_receive(id, &mut pieces, Waker::noop()) {
            Poll::Ready(Ok(Received::Data)) => {
                let salt = u64::from(self.core.role == Role::Initiator);
                for byte in pieces.iter().flatten() {
                    assert_eq!(
                        *byte,
                        content(id, salt, end.received),
                        "stream {id} at {}",
                        end.received
                    );
                    end.received += 1;
                }
                self.core.consumed(id, pieces.iter().map(Bytes::len).sum());
                true
            }
            Poll::Ready(Ok(Received::Fin)) => {
                end.saw_fin = true;
                false
            }
            Poll::Ready(Err(error)) => {
                end.broken = Some(error);
                false
            }
            Poll::Pending => false,
        }
    }

    fn finish(&mut self, id: u32) {
        self.core.finish(id);
        self.ends.get_mut(&id).unwrap().finished = true;
    }

    fn release(&mut self, id: u32, ordered: bool) {
        let end = self.ends.get_mut(&id).unwrap();
        let state = &self.core.streams[&id];
        let read = state.receive_end == ReceiveEnd::Fin && state.inbox.len() == 0;
        if !(end.finished && read) {
            end.reset = Some(ordered);
        }
        end.held = false;
        self.core.release(id, ordered);
    }

    /// Moves chunks to the wire.
    fn transmit(&mut self, most: usize) -> bool {
        let mut any = false;
        for _ in 0..most {
            let Some(chunk) = output(&mut self.core) else {
                break;
            };
            assert!(
                chunk.len() <= small().max_chunk,
                "a chunk of {}",
                chunk.len()
            );
            self.wire.extend(chunk);
            any = true;
        }
        assert!(self.core.queued <= small().send_budget + small().max_chunk);
        any
    }

    fn deliver(&mut self, to: &mut Self, piece: usize) -> bool {
        let piece: Bytes = self.wire.drain(..piece.min(self.wire.len())).collect();
        let any = !piece.is_empty();
        to.core.receive(piece).unwrap();
        any
    }
}

fn content(id: u32, salt: u64, offset: u64) -> u8 {
    (u64::from(id).wrapping_mul(31) + salt * 101 + offset * 7 + (offset >> 8)) as u8
}

#[derive(Debug, Clone)]
enum Action {
    Open,
    Accept,
    Refuse,
    Write(bool, usize, usize),
    Read(bool, usize),
    Finish(bool, usize),
    Release(bool, usize, bool),
    Transmit(bool, usize),
    Deliver(bool, usize),
}

fn action() -> impl Strategy<Value = Action> {
    let (side, index) = (any::<bool>(), 0..8_usize);
    prop_oneof![
        2 => Just(Action::Open),
        2 => Just(Action::Accept),
        1 => Just(Action::Refuse),
        8 => (side, index.clone(), 1..80_usize).prop_map(|(s, i, n)| Action::Write(s, i, n)),
        8 => (side, index.clone()).prop_map(|(s, i)| Action::Read(s, i)),
        1 => (side, index.clone()).prop_map(|(s, i)| Action::Finish(s, i)),
        1 => (side, index, any::<bool>()).prop_map(|(s, i, o)| Action::Release(s, i, o)),
        6 => (side, 1..4_usize).prop_map(|(s, n)| Action::Transmit(s, n)),
        6 => (side, 1..100_usize).prop_map(|(s, n)| Action::Deliver(s, n)),
    ]
}

struct Pair {
    broker: Side,
    gateway: Side,
}

impl Pair {
    fn new() -> Self {
        Self {
            broker: Side::new(Role::Initiator),
            gateway: Side::new(Role::Acceptor),
        }
    }

    fn side(&mut self, broker: bool) -> &mut Side {
        if broker {
            &mut self.broker
        } else {
            &mut self.gateway
        }
    }

    fn perform(&mut self, action: &Action) {
        match *action {
            Action::Open => {
                if let Ok(id) = self.broker.core.open(&header()) {
                    self.broker.ends.insert(
                        id,
                        End {
                            held: true,
                            ..End::default()
                        },
                    );
                }
            }
            Action::Accept => drop(self.answer(true)),
            Action::Refuse => drop(self.answer(false)),
            Action::Write(broker, index, most) => {
                let side = self.side(broker);
                if let Some(id) = side.held(index) {
                    side.write(id, most);
                }
            }
            Action::Read(broker, index) => {
                let side = self.side(broker);
                if let Some(id) = side.held(index) {
                    side.read(id);
                }
            }
            Action::Finish(broker, index) => {
                let side = self.side(broker);
                if let Some(id) = side.held(index) {
                    side.finish(id);
                }
            }
            Action::Release(broker, index, ordered) => {
                let side = self.side(broker);
                if let Some(id) = side.held(index) {
                    side.release(id, ordered);
                }
            }
            Action::Transmit(broker, most) => drop(self.side(broker).transmit(most)),
            Action::Deliver(true, piece) => drop(self.broker.deliver(&mut self.gateway, piece)),
            Action::Deliver(false, piece) => drop(self.gateway.deliver(&mut self.broker, piece)),
        }
    }

    fn answer(&mut self, yes: bool) -> bool {
        let Poll::Ready(Some((id, asked))) = self.gateway.core.poll_request(Waker::noop()) else {
            return false;
        };
        assert_eq!(asked, header());
        self.gateway.ends.insert(
            id,
            End {
                held: yes,
                refused: !yes,
                ..End::default()
            },
        );
        if yes {
            self.gateway.core.accept(id);
        } else {
            self.gateway.core.refuse(id, &refusal());
        }
        true
    }

    /// Lets everything happen that can; the reader of `stalled` (on the gateway) has stopped.
    fn settle(&mut self, stalled: Option<u32>) {
        loop {
            let mut any = false;
            any |= self.answer(true);
            for broker in [true, false] {
                let side = self.side(broker);
                any |= side.transmit(100);
                for id in side
                    .ends
                    .iter()
                    .filter(|(_, end)| end.held)
                    .map(|(&id, _)| id)
                    .collect::<Vec<_>>()
                {
                    if broker || Some(id) != stalled {
                        any |= side.read(id);
                    }
                }
            }
            any |= self.broker.deliver(&mut self.gateway, 1 << 20);
            any |= self.gateway.deliver(&mut self.broker, 1 << 20);
            if !any {
                return;
            }
        }
    }

    fn check(&mut self, stalled: Option<u32>) {
        let ids: Vec<u32> = self.broker.ends.keys().copied().collect();
        for id in ids {
            check_end(&mut self.broker, &mut self.gateway, id, false);
            check_end(&mut self.gateway, &mut self.broker, id, Some(id) == stalled);
        }
    }
}

fn refusal() -> Refusal {
    Refusal {
        reason: RefusalReason::Denied,
        detail: String::from("not you"),
    }
}

/// What the end of `id` at `here` must have seen, given what `there` did.
fn check_end(here: &mut Side, there: &mut Side, id: u32, stalled: bool) {
    let Some(end) = here.ends.get(&id).filter(|end| end.held) else {
        return;
    };
    let other = there.ends.get(&id);
    let broken = match here.core.poll_broken(id, Waker::noop()) {
        Poll::Ready(error) => Some(error),
        Poll::Pending => None,
    };
    let Some(other) = other else {
        // Never asked for at the gateway: it had as many as it takes.
        assert!(matches!(broken, Some(StreamError::Refused(r)) if r.reason == RefusalReason::Busy));
        return;
    };
    if other.refused {
        assert_eq!(broken, Some(StreamError::Refused(refusal())));
        return;
    }
    assert!(end.received <= other.sent);
    if let Some(ordered) = other.reset {
        assert_eq!(broken, Some(StreamError::Reset));
        assert!(
            !ordered || stalled || end.received == other.sent,
            "a reset overtook its data"
        );
        return;
    }
    assert_eq!(broken, None);
    if !stalled {
        assert_eq!(end.received, other.sent);
        assert_eq!(end.saw_fin, other.finished);
        let back = there.core.poll_room(id, Waker::noop());
        assert!(
            !other.held || other.finished || back.is_ready(),
            "stream {id} stands still"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn two_cores_behave_as_the_model(actions in prop::collection::vec(action(), 1..200), stall in any::<bool>()) {
        let mut pair = Pair::new();
        for action in &actions {
            pair.perform(action);
        }
        let stalled = stall.then(|| pair.gateway.held(0)).flatten();
        pair.settle(stalled);
        pair.check(stalled);
        for broker in [true, false] {
            let side = pair.side(broker);
            while let Some(id) = side.held(0) {
                side.release(id, false);
            }
        }
        pair.settle(None);
        for side in [&pair.broker, &pair.gateway] {
            prop_assert_eq!(side.core.streams(), 0);
            prop_assert_eq!(side.core.queued, 0);
            prop_assert_eq!(side.core.budget.left(), small().window_budget);
        }
    }
}
