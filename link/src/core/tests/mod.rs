//! The core against a model, against rule breakers, and its schedule.

mod ending;
mod model;
mod notices;
mod rules;
mod schedule;

use std::net::{IpAddr, Ipv4Addr};
use std::task::{Poll, Waker};

use bytes::{BufMut, Bytes, BytesMut};

use super::{Core, Output, Role};
use crate::frame::{HEADER, Kind, put};
use crate::header::{Host, OpenHeader};
use crate::hello::Hello;
use crate::limits::Limits;

fn small() -> Limits {
    Limits {
        max_streams: 6,
        early_window: 20,
        initial_window: 60,
        max_window: 300,
        window_budget: 400,
        max_chunk: 48,
        send_queue: 90,
        send_budget: 200,
    }
}

fn header() -> OpenHeader {
    let host = Host::Address(IpAddr::from(Ipv4Addr::new(10, 1, 2, 3)));
    OpenHeader {
        host,
        port: 443,
        application: Some(String::from("/usr/bin/curl")),
    }
}

fn core(role: Role, limits: &Limits) -> Core {
    Core::new(role, limits.clone(), &Hello::ours(limits))
}

fn frame_of(payload: &[u8]) -> BytesMut {
    let mut frame = BytesMut::new();
    frame.put_bytes(0, HEADER);
    frame.put_slice(payload);
    frame
}

fn output(core: &mut Core) -> Option<Bytes> {
    match core.poll_output(Waker::noop()) {
        Poll::Ready(Output::Chunk(chunk)) => Some(chunk),
        Poll::Ready(Output::Finish) | Poll::Pending => None,
    }
}

/// Frames that a peer sends, in order.
fn frames(list: &[(Kind, u32, &[u8])]) -> Bytes {
    let mut out = BytesMut::new();
    for (kind, stream, body) in list {
        put(&mut out, *kind, *stream, body);
    }
    out.freeze()
}
