//! What the gateway says of its own accord.

use std::task::{Poll, Waker};

use bytes::{BufMut, Bytes, BytesMut};

use super::{core, frames, output, small};
use crate::core::{Core, Role};
use crate::frame::Kind;
use crate::hello::Hello;

/// docs/PROTOCOL.link.md: type, flags, length, stream; length of the words, words.
fn notice(words: &[u8]) -> Bytes {
    let length = u16::try_from(words.len()).unwrap();
    let mut frame = BytesMut::from(&[0x80, 0][..]);
    frame.put_u16(length + 2);
    frame.put_u32(0);
    frame.put_u16(length);
    frame.put_slice(words);
    frame.freeze()
}

fn heard(core: &mut Core, after: u64) -> Option<(u64, String)> {
    match core.poll_notice(after, Waker::noop()) {
        Poll::Ready(notice) => Some((notice.number, notice.words.to_string())),
        Poll::Pending => None,
    }
}

#[test]
fn a_gateway_says_it_in_a_frame_that_may_be_skipped() {
    let mut gateway = core(Role::Acceptor, &small());
    gateway.notify("soon over");
    assert_eq!(output(&mut gateway), Some(notice(b"soon over")));
    // Words are bounded.
    gateway.notify(&"x".repeat(2000));
    let mut said = BytesMut::new();
    while let Some(piece) = output(&mut gateway) {
        said.extend_from_slice(&piece);
    }
    assert_eq!(said, notice(&[b'x'; 512]));
    gateway.close("over");
    let goodbye = output(&mut gateway).unwrap();
    assert_eq!(goodbye[0], 0x0a);
    gateway.notify("too late");
    assert_eq!(output(&mut gateway), None);
}

#[test]
fn an_older_broker_is_told_nothing_and_an_older_gateway_says_nothing() {
    let older = Hello {
        features: 0,
        ..Hello::ours(&small())
    };
    let mut gateway = Core::new(Role::Acceptor, small(), &older);
    gateway.notify("soon over");
    assert_eq!(output(&mut gateway), None);
    let mut broker = Core::new(Role::Initiator, small(), &older);
    // Nor is what it may mean by that number looked into.
    let other = frames(&[(Kind::Notice, 0, &[0xff])]);
    broker.receive(other).unwrap();
    assert_eq!(heard(&mut broker, 0), None);
}

#[test]
fn a_broker_keeps_the_last_one() {
    let mut broker = core(Role::Initiator, &small());
    assert_eq!(heard(&mut broker, 0), None);
    broker.receive(notice(b"one")).unwrap();
    broker
        .receive(notice("zw\u{f6}\x1b[2J".as_bytes()))
        .unwrap();
    let (number, words) = heard(&mut broker, 0).unwrap();
    assert_eq!(number, 2);
    assert!(
        words.starts_with("zw\u{f6}") && !words.contains('\x1b'),
        "{words:?}"
    );
    assert_eq!(heard(&mut broker, 2), None);
    broker.receive(notice(b"")).unwrap();
    assert_eq!(heard(&mut broker, 2), Some((3, String::new())));
    // Shorter than it says.
    let short = frames(&[(Kind::Notice, 0, &[0, 9, b'x'])]);
    assert!(broker.receive(short).is_err());
    // What a broker says so, a gateway passes over.
    let mut gateway = core(Role::Acceptor, &small());
    gateway.receive(notice(b"one")).unwrap();
    assert_eq!(heard(&mut gateway, 0), None);
}
