//! Addresses that a list of somebody's services hardly holds.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::address::AddressRange;

/// Bits of IPv4 and IPv6 within which the addresses of one list entry may differ: a /8 and a /16.
const WIDEST: (u32, u32) = (24, 112);

/// What is unusual about an entry of a list that somebody else writes.
pub(crate) fn unusual(range: AddressRange) -> Option<&'static str> {
    match range {
        AddressRange::V4(first, last) if last - first >= 1 << WIDEST.0 => {
            Some("is wider than a /8")
        }
        AddressRange::V6(first, last) if last - first >= 1 << WIDEST.1 => {
            Some("is wider than a /16")
        }
        AddressRange::V4(first, last) => {
            let holds = |[a, b]: [u8; 2], host_bits: u32| {
                let network = u32::from(Ipv4Addr::new(a, b, 0, 0));
                first <= network | ((1 << host_bits) - 1) && network <= last
            };
            said(
                holds([0, 0], 24),
                holds([127, 0], 24),
                holds([169, 254], 16),
            )
        }
        AddressRange::V6(first, last) => {
            let holds = |address: Ipv6Addr| (first..=last).contains(&u128::from(address));
            let link_local = u128::from(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0));
            let holds_link_local = first <= link_local | ((1 << 118) - 1) && link_local <= last;
            said(
                holds(Ipv6Addr::UNSPECIFIED),
                holds(Ipv6Addr::LOCALHOST),
                holds_link_local,
            )
        }
    }
}

fn said(unspecified: bool, loopback: bool, link_local: bool) -> Option<&'static str> {
    if unspecified {
        Some("holds addresses of no host")
    } else if loopback {
        Some("holds loopback addresses")
    } else {
        link_local.then_some("holds link-local addresses")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address;

    #[test]
    fn is_said_of_what_no_service_has() {
        for (text, expected) in [
            ("10.0.0.0/8", None),
            ("2000::/16", None),
            ("192.0.2.1", None),
            ("126.0.0.0-126.255.255.255", None),
            ("170.0.0.0/8", None),
            ("10.0.0.0/7", Some("is wider than a /8")),
            ("0.0.0.0/0", Some("is wider than a /8")),
            ("2000::/15", Some("is wider than a /16")),
            ("::/0", Some("is wider than a /16")),
            ("0.0.0.0", Some("holds addresses of no host")),
            ("0.255.255.255", Some("holds addresses of no host")),
            ("::", Some("holds addresses of no host")),
            ("127.9.0.1", Some("holds loopback addresses")),
            ("126.255.0.0-127.0.0.1", Some("holds loopback addresses")),
            ("::1", Some("holds loopback addresses")),
            ("169.254.169.254", Some("holds link-local addresses")),
            ("169.0.0.0/8", Some("holds link-local addresses")),
            ("fe80::/16", Some("holds link-local addresses")),
            ("febf::1", Some("holds link-local addresses")),
        ] {
            let range = address::parse(text).unwrap().unwrap();
            assert_eq!(unusual(range), expected, "{text}");
        }
    }
}
