//! The `NFQUEUE` target of xtables as a rule of nftables: for kernels that have no queue statement of nftables' own. nft cannot
//! write it, so it is written here, into a chain that nft has made.

use std::io;

use adit_capture::netfilter::{ACK, Header, REQUEST, attribute, message};
use netlink_packet_core::NLA_F_NESTED;

use super::netlink;

/// As nft lists it.
pub(crate) const TARGET: &str = "NFQUEUE";
/// `struct xt_NFQ_info_v3` (linux/netfilter/xt_NFQUEUE.h).
const REVISION: u32 = 3;
/// `NFQ_FLAG_BYPASS` there: whoever has no queue open lets the connection go on.
const BYPASS: u16 = 1;

/// `NFNL_MSG_BATCH_BEGIN`, `NFNL_MSG_BATCH_END`, `NFNL_SUBSYS_NFTABLES` (linux/netfilter/nfnetlink.h).
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NFTABLES: u16 = 10;
/// `NFT_MSG_NEWRULE` (linux/netfilter/nf_tables.h).
const NEW_RULE: u16 = NFTABLES << 8 | 6;
/// `NLM_F_CREATE`, `NLM_F_APPEND` (linux/netlink.h).
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
/// `NFPROTO_INET` (linux/netfilter.h): both families.
const BOTH: u8 = 1;
/// `NFTA_RULE_TABLE`, `NFTA_RULE_CHAIN`, `NFTA_RULE_EXPRESSIONS` of nf_tables.h.
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
/// `NFTA_LIST_ELEM`, `NFTA_EXPR_NAME`, `NFTA_EXPR_DATA` there.
const ELEMENT: u16 = 1;
const NAME: u16 = 1;
const DATA: u16 = 2;
/// `NFTA_TARGET_NAME`, `NFTA_TARGET_REV`, `NFTA_TARGET_INFO` of linux/netfilter/nf_tables_compat.h.
const TARGET_NAME: u16 = 1;
const TARGET_REVISION: u16 = 2;
const TARGET_INFO: u16 = 3;

/// The rule's number among the three messages.
const SEQUENCE: u32 = 2;

/// Appends the rule for this queue to a chain of a table of ours.
pub(crate) fn add_queue_rule(table: &str, chain: &str, number: u16) -> io::Result<()> {
    netlink::done(&netlink::socket()?, &batch(table, chain, number), SEQUENCE)
}

fn batch(table: &str, chain: &str, number: u16) -> Vec<u8> {
    let frame = |kind, sequence| {
        let header = Header {
            kind,
            flags: REQUEST,
            sequence,
            family: 0,
            resource: NFTABLES,
        };
        message(header, &[])
    };
    let rule = Header {
        kind: NEW_RULE,
        flags: REQUEST | ACK | CREATE | APPEND,
        sequence: SEQUENCE,
        family: BOTH,
        resource: 0,
    };
    [
        frame(BATCH_BEGIN, SEQUENCE - 1),
        message(rule, &attributes(table, chain, number)),
        frame(BATCH_END, SEQUENCE + 1),
    ]
    .concat()
}

fn attributes(table: &str, chain: &str, number: u16) -> Vec<u8> {
    let text = |kind, text: &str| attribute(kind, &[text.as_bytes(), &[0]].concat());
    let nested = |kind, parts: &[u8]| attribute(kind | NLA_F_NESTED, parts);
    // The first of how many queues, and the flags; the structure is aligned to eight bytes (`XT_ALIGN`).
    let info = [
        &number.to_ne_bytes()[..],
        &1_u16.to_ne_bytes(),
        &BYPASS.to_ne_bytes(),
        &[0; 2],
    ]
    .concat();
    let target = [
        text(TARGET_NAME, TARGET),
        attribute(TARGET_REVISION, &REVISION.to_be_bytes()),
        attribute(TARGET_INFO, &info),
    ]
    .concat();
    let expression = [text(NAME, "target"), nested(DATA, &target)].concat();
    [
        text(RULE_TABLE, table),
        text(RULE_CHAIN, chain),
        nested(RULE_EXPRESSIONS, &nested(ELEMENT, &expression)),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Byte for byte by linux/netfilter's headers, on a machine whose own order is little-endian.
    #[test]
    fn a_rule_is_what_the_kernel_headers_say() {
        let rule = [
            // NFTA_RULE_TABLE, NFTA_RULE_CHAIN.
            &b"\x09\0\x01\0adit\0\0\0\0"[..],
            b"\x06\0\x02\0c\0\0\0",
            // NFTA_RULE_EXPRESSIONS, NFTA_LIST_ELEM, NFTA_EXPR_NAME, NFTA_EXPR_DATA.
            b"\x38\0\x04\x80\x34\0\x01\x80\x0b\0\x01\0target\0\0\x24\0\x02\x80",
            // NFTA_TARGET_NAME, NFTA_TARGET_REV, NFTA_TARGET_INFO.
            b"\x0c\0\x01\0NFQUEUE\0\x08\0\x02\0\0\0\0\x03",
            b"\x0c\0\x03\0\x05\xad\x01\0\x01\0\0\0",
        ]
        .concat();
        assert_eq!(attributes("adit", "c", 0xad05), rule);
    }
}
