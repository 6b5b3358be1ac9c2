//! Peers that break the rules, and what later versions may do without breaking them.

use std::task::{Poll, Waker};

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;

use super::{core, frames, header, output, small};
use crate::core::{Core, Role};
use crate::end::{LinkEnd, OpenError, Violation};
use crate::frame::{FrameError, Header, Kind, put};
use crate::header::{Refusal, RefusalReason};
use crate::limits::Limits;

fn check_violation(role: Role, list: &[(Kind, u32, &[u8])], expected: &Violation) {
    let mut core = core(role, &small());
    if role == Role::Initiator {
        core.open(&header()).unwrap();
    }
    assert_eq!(
        core.receive(frames(list)).as_ref(),
        Err(expected),
        "{list:?}"
    );
}

#[test]
fn rule_breakers_are_told_what_they_broke() {
    let open = header().encode().unwrap();
    let asks = (Kind::Open, 7, &open[..]);
    let gateway = |list: &[_], violation| check_violation(Role::Acceptor, list, &violation);
    gateway(&[(Kind::Data, 1, b"x")], Violation::UnknownStream(1));
    gateway(&[asks, (Kind::Fin, 8, b"")], Violation::UnknownStream(8));
    gateway(&[asks, asks], Violation::ReusedStream(7));
    gateway(
        &[asks, (Kind::Data, 7, &[0; 21])],
        Violation::CreditOverrun(7),
    );
    gateway(
        &[asks, (Kind::Fin, 7, b""), (Kind::Data, 7, b"x")],
        Violation::AfterEnd(7),
    );
    gateway(
        &[asks, (Kind::Fin, 7, b""), (Kind::Fin, 7, b"")],
        Violation::AfterEnd(7),
    );
    gateway(&[asks, (Kind::Opened, 7, b"")], Violation::SecondAnswer(7));
    let much = &[0x7f, 0xff, 0xff, 0xff][..];
    gateway(
        &[asks, (Kind::Window, 7, much)],
        Violation::CreditOverflow(7),
    );
    let wrong = FrameError::WrongStream { kind: 4, stream: 0 };
    gateway(&[(Kind::Data, 0, b"x")], wrong.into());
    let broker = |list: &[_], violation| check_violation(Role::Initiator, list, &violation);
    broker(&[asks], Violation::OpenFromGateway);
    broker(&[(Kind::Data, 1, b"x")], Violation::BeforeAnswer(1));
    broker(&[(Kind::Fin, 1, b"")], Violation::BeforeAnswer(1));
    broker(
        &[(Kind::Opened, 1, b""), (Kind::Opened, 1, b"")],
        Violation::SecondAnswer(1),
    );
    broker(
        &[(Kind::Opened, 1, b""), (Kind::Refused, 1, &[1, 0, 0])],
        Violation::SecondAnswer(1),
    );
    broker(&[(Kind::Opened, 2, b"")], Violation::UnknownStream(2));
}

#[test]
fn what_later_versions_may_add_is_skipped() {
    let mut core = core(Role::Acceptor, &small());
    let mut open = header().encode().unwrap();
    open.put_slice(b"a field of tomorrow");
    let list = [
        (Kind::Skipped, 99, &b"whatever"[..]),
        (Kind::Open, 1, &open[..]),
    ];
    core.receive(frames(&list)).unwrap();
    let Poll::Ready(Some((1, asked))) = core.poll_request(Waker::noop()) else {
        panic!()
    };
    assert_eq!(asked, header());
    let mut unknown = BytesMut::from(&Header::new(Kind::Data, 1, 0).to_bytes()[..]);
    unknown[0] = 0x7f;
    let expected = Violation::Frame(FrameError::UnknownType(0x7f));
    assert_eq!(core.receive(unknown.freeze()), Err(expected));
}

#[test]
fn a_peer_that_never_reads_answers_is_cut_off() {
    let mut core = core(Role::Acceptor, &small());
    let ping = frames(&[(Kind::Ping, 0, &[0; 8])]);
    let outcome = (0..1 << 20).find_map(|_| core.receive(ping.clone()).err());
    assert_eq!(outcome, Some(Violation::Flood));
}

/// Opens streams at a gateway that does `answer` with each, until it cuts the peer off.
fn check_answers_flood(answer: impl Fn(&mut Core, u32) -> Result<(), Violation>) {
    let mut core = core(Role::Acceptor, &small());
    let open = header().encode().unwrap();
    let outcome = (1..1 << 20).find_map(|id| {
        let outcome = core.receive(frames(&[(Kind::Open, id, &open)]));
        match core.poll_request(Waker::noop()) {
            Poll::Ready(Some((id, _))) => outcome.and_then(|()| answer(&mut core, id)).err(),
            Poll::Ready(None) | Poll::Pending => outcome.err(),
        }
    });
    assert_eq!(outcome, Some(Violation::Flood));
}

#[test]
fn a_peer_that_never_reads_refusals_is_cut_off() {
    let refusal = Refusal {
        reason: RefusalReason::Denied,
        detail: "d".repeat(300),
    };
    check_answers_flood(|core, id| {
        core.refuse(id, &refusal);
        Ok(())
    });
}

#[test]
fn a_peer_that_never_reads_about_what_it_resets_is_cut_off() {
    check_answers_flood(|core, id| {
        core.accept(id);
        let outcome = core.receive(frames(&[(Kind::Reset, id, b"")]));
        core.release(id, false);
        outcome
    });
}

#[test]
fn openings_that_a_peer_does_not_take_stay_few() {
    let mut core = core(Role::Initiator, &Limits::default());
    let refused = (0..1 << 20).find_map(|_| match core.open(&header()) {
        Ok(id) => {
            core.release(id, false);
            None
        }
        Err(error) => Some(error),
    });
    assert!(matches!(refused, Some(OpenError::TooMany)), "{refused:?}");
    core.receive(frames(&[(Kind::Ping, 0, &[0; 8])])).unwrap();
    while output(&mut core).is_some() {}
    core.open(&header()).unwrap();
}

#[test]
fn surplus_requests_are_counted() {
    let mut core = core(Role::Acceptor, &small());
    let open = header().encode().unwrap();
    for id in 1..=10 {
        core.receive(frames(&[(Kind::Open, id, &open)])).unwrap();
    }
    assert_eq!(core.refused(), 4, "beside the six that may be open");
    core.drain("later");
    assert_eq!(core.refused(), 10);
}

proptest! {
    #[test]
    fn any_bytes_end_in_a_violation_or_not_at_all(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..20)) {
        for role in [Role::Initiator, Role::Acceptor] {
            let mut core = core(role, &small());
            for piece in &pieces {
                if let Err(violation) = core.receive(Bytes::copy_from_slice(piece)) {
                    core.fail(LinkEnd::Protocol(violation));
                }
                while output(&mut core).is_some() {}
            }
        }
    }

    #[test]
    fn valid_frames_bent_end_in_a_violation_or_not_at_all(
        frames in prop::collection::vec((1..12_u8, 0..4_u32, prop::collection::vec(any::<u8>(), 0..30)), 0..40),
        bent in any::<prop::sample::Index>(),
        to in any::<u8>(),
    ) {
        let mut bytes = BytesMut::new();
        put(&mut bytes, Kind::Open, 1, &header().encode().unwrap());
        for (kind, stream, body) in &frames {
            bytes.put_slice(&[*kind, 0, 0, body.len() as u8, 0, 0, 0, *stream as u8]);
            bytes.put_slice(body);
        }
        let at = bent.index(bytes.len());
        bytes[at] = to;
        for role in [Role::Initiator, Role::Acceptor] {
            let mut core = core(role, &small());
            if role == Role::Initiator {
                core.open(&header()).unwrap();
            }
            let _ = core.receive(bytes.clone().freeze());
        }
    }
}
