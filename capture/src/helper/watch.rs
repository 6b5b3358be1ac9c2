//! Hears when a table is deleted, by whomever: `nft flush ruleset`, the first line of many a firewall's configuration, takes
//! ours as well, and what is claimed would go out in the clear from then on.

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

/// `NFNLGRP_NFTABLES` of linux/netfilter/nfnetlink.h: every change of every table.
const GROUP: u32 = 7;
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_DELTABLE` (nfnetlink.h, nf_tables.h).
const DELETE_TABLE: u16 = 10 << 8 | 2;
/// `ENOBUFS`: more was said than could be kept for us.
const MISSED: i32 = 105;
/// `struct nlmsghdr` (netlink(7)): length, type, flags, sequence, port.
const HEADER: usize = 16;

/// Starts to listen. A message comes when some table was deleted, or may have been; one that waits stands for all after it. The
/// end of messages says that no more can be heard.
///
/// On a thread of its own: its socket does nothing but wait, and the thread ends with the process.
pub(crate) fn start() -> io::Result<mpsc::Receiver<()>> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    socket.add_membership(GROUP)?;
    let (sender, receiver) = mpsc::channel(1);
    std::thread::Builder::new()
        .name("watch".into())
        .spawn(move || {
            if let Err(error) = listen(&socket, &sender) {
                tracing::error!(%error, "no word of deleted tables any more");
            }
        })?;
    Ok(receiver)
}

fn listen(socket: &Socket, deleted: &mpsc::Sender<()>) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let heard = match socket.recv(&mut &mut buffer[..], 0) {
            Ok(length) => deletes_table(buffer.get(..length).unwrap_or_default()),
            Err(error) if error.raw_os_error() == Some(MISSED) => true,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => false,
            Err(error) => return Err(error),
        };
        if heard && matches!(deleted.try_send(()), Err(TrySendError::Closed(()))) {
            return Ok(());
        }
    }
}

/// Whether one of these messages says so. What is cut off says nothing.
fn deletes_table(mut bytes: &[u8]) -> bool {
    while let Some(header) = bytes.first_chunk::<HEADER>() {
        let [l0, l1, l2, l3, t0, t1, ..] = *header;
        if u16::from_ne_bytes([t0, t1]) == DELETE_TABLE {
            return true;
        }
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        // Messages are aligned to four bytes (NLMSG_ALIGN).
        let step = length.max(HEADER).next_multiple_of(4);
        bytes = bytes.get(step..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(kind: u16, body: usize) -> Vec<u8> {
        let length = u32::try_from(HEADER + body).unwrap();
        let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10]].concat();
        bytes.resize((HEADER + body).next_multiple_of(4), 0xff);
        bytes
    }

    #[test]
    fn only_a_deleted_table_counts() {
        // 0x0a00 is NFT_MSG_NEWTABLE, 0x0a08 NFT_MSG_DELRULE, 0x0a02 NFT_MSG_DELTABLE.
        for (kinds, expected) in [
            (&[][..], false),
            (&[0x0a00, 0x0a08], false),
            (&[0x0a02], true),
            (&[0x0a08, 0x0a00, 0x0a02], true),
        ] {
            let bytes: Vec<u8> = kinds
                .iter()
                .enumerate()
                .flat_map(|(body, kind)| message(*kind, body))
                .collect();
            assert_eq!(deletes_table(&bytes), expected, "{kinds:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = deletes_table(&bytes);
        }
    }
}
