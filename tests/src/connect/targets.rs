//! Destinations that answer in all the ways there are, and what each of them is called.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::Result;

use crate::adit::{Gateway, GatewayKind, rules_for_networks};
use crate::lab::{Lab, address};
use crate::order::connecting;
use crate::process::Process;
use crate::users::User;

/// A network behind the gateway to which it has no route.
const NOWHERE: &str = "203.0.113.0/24";
const NOWHERE6: &str = "2001:db8:ffff::/64";

/// An address of the server where everything is refused.
pub const REFUSING: &str = "198.51.100.11";
/// See [`REFUSING`].
pub const REFUSING6: &str = "2001:db8:2::11";
/// Addresses of the server where everything is dropped.
pub const SILENT: &str = "198.51.100.12";
/// See [`SILENT`].
pub const SILENT6: &str = "2001:db8:2::12";
/// Two hundred ports of the server, most of them closed.
pub const MANY: RangeInclusive<u16> = 6001..=6200;
/// Those of [`MANY`] where someone listens.
const MANY_OPEN: RangeInclusive<u16> = 6081..=6110;
/// Those of [`MANY`] that the server drops.
const MANY_FILTERED: RangeInclusive<u16> = 6141..=6145;

/// What a destination does with a SYN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Someone listens.
    Open,
    /// Nobody listens.
    Closed,
    /// The server drops it.
    Filtered,
    /// The server says by ICMP that the host can't be reached.
    Rejected,
    /// Nobody has that address.
    Nobody,
    /// The gateway has no route.
    Nowhere,
    /// Someone listens, and the gateway's policy allows nobody to go there.
    Denied,
    /// A port of the server where the test itself puts someone.
    Spare,
}

/// Address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];
}

impl Target {
    /// Where it is.
    #[must_use]
    pub fn at(self, family: Family) -> SocketAddr {
        let v4 = |last| IpAddr::V4(Ipv4Addr::new(198, 51, 100, last));
        let v6 = |last| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, last));
        let server = match family {
            Family::V4 => v4(10),
            Family::V6 => v6(0x10),
        };
        let host = match (self, family) {
            (Target::Nobody, Family::V4) => v4(99),
            (Target::Nobody, Family::V6) => v6(0x99),
            (Target::Nowhere, Family::V4) => Ipv4Addr::new(203, 0, 113, 1).into(),
            (Target::Nowhere, Family::V6) => {
                Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1).into()
            }
            _ => server,
        };
        SocketAddr::new(host, self.port())
    }

    const fn port(self) -> u16 {
        match self {
            Target::Open | Target::Nobody | Target::Nowhere => 4001,
            Target::Closed => 4002,
            Target::Filtered => 4003,
            Target::Rejected => 4004,
            Target::Spare => 4005,
            Target::Denied => 9001,
        }
    }
}

/// The server's part of the targets.
#[derive(Debug)]
pub struct Targets {
    /// `adit-connect listen`, which writes who came.
    pub listener: Process,
}

impl Targets {
    /// Sets the server up.
    ///
    /// # Errors
    /// When its kernel refuses, or nobody listens in time.
    pub fn start(lab: &Lab) -> Result<Targets> {
        let (filtered, rejected) = (Target::Filtered.port(), Target::Rejected.port());
        let (first, last) = (MANY_FILTERED.start(), MANY_FILTERED.end());
        let rules = format!(
            "table inet lab {{
    chain in {{
        type filter hook input priority 0; policy accept;
        ip daddr {REFUSING} tcp flags syn reject with tcp reset
        ip daddr {SILENT} drop
        ip6 daddr {REFUSING6} tcp flags syn reject with tcp reset
        ip6 daddr {SILENT6} meta l4proto tcp drop
        tcp dport {{ {filtered}, {first}-{last} }} drop
        tcp dport {rejected} reject with icmpx host-unreachable
    }}
}}
"
        );
        lab.write(User::Root, "/run/lab/targets.nft", rules)?;
        let nft = lab.server().argv(&["nft", "-f", "/run/lab/targets.nft"])?;
        nft.ok()?;
        for address in [REFUSING6, SILENT6] {
            let added = format!("ip addr add {address}/64 dev zone nodad");
            lab.server().sh(&added)?.ok()?;
        }
        let words = ["adit-connect", "listen", address::SERVER, address::SERVER6];
        let mut words = words.map(str::to_owned).to_vec();
        let ports = [Target::Open.port(), Target::Denied.port()];
        for port in ports.into_iter().chain(MANY_OPEN) {
            words.extend(["--port".to_owned(), port.to_string()]);
        }
        let mut listener = lab.server().start("targets", &words)?;
        listener.line_with("listening", Duration::from_secs(10))?;
        Ok(Targets { listener })
    }
}

/// A gateway that allows everything but the port of [`Target::Denied`].
///
/// # Errors
/// When it is not ready in time.
pub fn gateway(lab: &Lab) -> Result<Gateway> {
    let networks = [
        address::ZONE,
        &format!("[{}]", address::ZONE6),
        NOWHERE,
        &format!("[{NOWHERE6}]"),
    ];
    let allow = networks.map(|network| format!("{network}:1-9000"));
    Gateway::allowing(
        lab,
        GatewayKind::AditServer,
        &allow.each_ref().map(String::as_str),
    )
}

/// Rules of `user` that tunnel all targets, and tell programs the truth.
#[must_use]
pub fn honestly(user: User) -> String {
    let networks = [address::ZONE, address::ZONE6, NOWHERE, NOWHERE6];
    connecting("honest", &rules_for_networks(user, &networks))
}

/// SYNs of client and gateway are sent again after 1 s and 3 s, and given up after 7 s.
///
/// # Errors
/// When a kernel refuses.
pub fn send_few_syns(lab: &Lab) -> Result<()> {
    let few = "sysctl -qw net.ipv4.tcp_syn_retries=2
        key=net.ipv4.tcp_syn_linear_timeouts
        sysctl -n $key >/dev/null 2>&1 && sysctl -qw $key=0 || true";
    for host in [lab.client().user(User::Root), lab.gateway()] {
        host.sh(few)?.ok()?;
    }
    Ok(())
}
