//! What of the table is there for all users: the chains that the kernel calls, and the maps that lead on to users' chains.

use adit_capture::mark::{
    DIRECT, HOST_UNREACHABLE, MARK, MASK, NETWORK_UNREACHABLE, REDIRECT, REFUSE,
};

/// Only a connection's first packet is judged: conntrack takes up connections that it has not seen begin as new ones too, and
/// those have to go on as they are. The first rule of each chain, as most packets meet no other.
const NOT_A_SYN: &str = "tcp flags & (fin | syn | rst | ack) != syn";
/// The maps that lead to users' chains, with the type of their keys.
pub(crate) const MAPS: [(&str, &str); 5] = [
    (HELD, "uid"),
    (CAPTURED, "uid"),
    (JUDGED, "uid"),
    (GUARDED_V4, "inet_service"),
    (GUARDED_V6, "inet_service"),
];
pub(crate) const HELD: &str = "held";
pub(crate) const CAPTURED: &str = "captured";
pub(crate) const JUDGED: &str = "judged";
pub(crate) const GUARDED_V4: &str = "guarded_v4";
pub(crate) const GUARDED_V6: &str = "guarded_v6";

/// A chain that the kernel calls.
pub(crate) struct BaseChain {
    pub(crate) name: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) hook: &'static str,
    /// A number: some names of priorities are not accepted in every hook.
    pub(crate) priority: i32,
    rules: fn() -> Vec<String>,
}

impl BaseChain {
    pub(crate) fn rules(&self) -> Vec<String> {
        (self.rules)()
    }
}

pub(crate) const BASE_CHAINS: [BaseChain; 5] = [
    // Before the others, which a SYN that was held then meets with its verdict.
    BaseChain {
        name: "hold",
        kind: "filter",
        hook: "output",
        priority: -120,
        rules: hold,
    },
    // Before NAT (-100), so that it sees where a program wants to go.
    BaseChain {
        name: "judge",
        kind: "filter",
        hook: "output",
        priority: -110,
        rules: judge,
    },
    BaseChain {
        name: "capture",
        kind: "nat",
        hook: "output",
        priority: -100,
        rules: capture,
    },
    // A verdict's mark has done its work, and whoever comes after us sees none. Of this type because of the routes, which may
    // depend on marks: the kernel chose one by the verdict's, and here chooses again.
    BaseChain {
        name: "settle",
        kind: "route",
        hook: "output",
        priority: -90,
        rules: settle,
    },
    // A redirected connection may only reach the socket that its user's broker claimed with: else whoever binds a dead
    // broker's port would be given that user's connections.
    BaseChain {
        name: "guard",
        kind: "filter",
        hook: "input",
        priority: 0,
        rules: input,
    },
];

fn hold() -> Vec<String> {
    // A packet whose mark has changed gets another route, if one is found. So the connection bears it in the packet's place
    // where it bears none of someone else's.
    let known = |mark: u32, as_what: u32| {
        format!("meta mark {mark:#x} ct mark 0 ct mark set {as_what:#x} meta mark set 0 accept")
    };
    // On the way to `lo` for want of a route there is no address that an ICMP message of IPv4 could come from.
    let nowhere = |mark, as_what| format!("oif lo meta nfproto ipv4 {}", known(mark, as_what));
    let no_route = "reject with icmpx type no-route";
    vec![
        format!("{NOT_A_SYN} accept"),
        "meta l4proto != tcp accept".into(),
        // Those that were held and come here again with their verdict. Without a route, the kernel's own answer is that.
        nowhere(DIRECT, NETWORK_UNREACHABLE),
        format!("oif lo meta mark {DIRECT:#x} {no_route}"),
        known(DIRECT, DIRECT),
        known(REDIRECT, REDIRECT),
        format!("meta mark {REFUSE:#x} reject with tcp reset"),
        nowhere(HOST_UNREACHABLE, HOST_UNREACHABLE),
        nowhere(NETWORK_UNREACHABLE, NETWORK_UNREACHABLE),
        format!("meta mark {HOST_UNREACHABLE:#x} reject with icmpx type host-unreachable"),
        format!("meta mark {NETWORK_UNREACHABLE:#x} {no_route}"),
        // A verdict may replace the mark, and another's must not get lost.
        "meta mark != 0 accept".into(),
        "fib daddr type local accept".into(),
        format!("meta skuid vmap @{HELD}"),
    ]
}

fn judge() -> Vec<String> {
    output(JUDGED, &[])
}

fn capture() -> Vec<String> {
    // To where there is an address; what the port is does not matter, as `guard` tells the program the truth.
    let tell =
        |mark| format!("meta nfproto ipv4 ct mark {mark:#x} meta l4proto tcp redirect to :9");
    output(
        CAPTURED,
        &[tell(HOST_UNREACHABLE), tell(NETWORK_UNREACHABLE)],
    )
}

fn output(map: &str, more: &[String]) -> Vec<String> {
    let mut rules = vec![
        format!("{NOT_A_SYN} accept"),
        "meta l4proto != tcp accept".into(),
        format!("meta mark & {MASK:#x} == {MARK:#x} accept"),
        format!("meta mark {DIRECT:#x} accept"),
        format!("ct mark {DIRECT:#x} accept"),
    ];
    rules.extend_from_slice(more);
    rules.extend([
        "fib daddr type local accept".into(),
        format!("meta skuid vmap @{map}"),
    ]);
    rules
}

fn settle() -> Vec<String> {
    vec![
        format!("{NOT_A_SYN} accept"),
        format!("meta mark {DIRECT:#x} meta mark set 0"),
        format!("ct mark {DIRECT:#x} ct mark set 0"),
        // Whose socket is closed is nobody's to the chains before, and would leave in clear.
        format!("meta mark {REDIRECT:#x} ct status & dnat == 0 drop"),
        format!("ct mark {REDIRECT:#x} ct status & dnat == 0 drop"),
        format!("meta mark {REDIRECT:#x} meta mark set 0"),
        format!("ct mark {REDIRECT:#x} ct mark set 0"),
    ]
}

fn input() -> Vec<String> {
    vec![
        "iif != lo accept".into(),
        format!("{NOT_A_SYN} accept"),
        "meta l4proto != tcp accept".into(),
        format!(
            "meta nfproto ipv4 ct mark {HOST_UNREACHABLE:#x} reject with icmpx type host-unreachable"
        ),
        format!(
            "meta nfproto ipv4 ct mark {NETWORK_UNREACHABLE:#x} reject with icmpx type no-route"
        ),
        "ct status & dnat == 0 accept".into(),
        format!("meta nfproto ipv4 tcp dport vmap @{GUARDED_V4}"),
        format!("meta nfproto ipv6 tcp dport vmap @{GUARDED_V6}"),
    ]
}
