//! Claims to text, and text through nft and the kernel back to programs.

use std::process::{Command, Stdio};
use std::sync::LazyLock;

use adit_capture::wire::{MAX_OTHER, QueueBy, Reply, Request};
use adit_capture::{Claim, Family, OnBrokerGone, Step, Verdict};
use proptest::prelude::*;

use super::program::{Live, Ports, Program, QueueRule, handed_over};
use super::ranges::Ranges;
use super::{readback, render};

const PORTS: Ports = Ports {
    v4: Some(4004),
    v6: Some(4006),
};

/// A claim as a reader writes it: `VERDICT NETWORKS PORTS` lines, the last one the default.
fn claim(text: &str, word: OnBrokerGone) -> Claim {
    let verdict = |word: &str| match word {
        "ask" => Verdict::Ask,
        "over" => Verdict::HandOver,
        "pass" => Verdict::Pass,
        "block" => Verdict::Block,
        other => panic!("no verdict {other}"),
    };
    let mut steps: Vec<Step> = text
        .lines()
        .map(|line| {
            let mut words = line.split_whitespace();
            let verdict = verdict(words.next().unwrap());
            let list = |words: Option<&str>| -> Vec<String> {
                let words = words.filter(|words| *words != "*").unwrap_or_default();
                words
                    .split(',')
                    .filter(|word| !word.is_empty())
                    .map(str::to_owned)
                    .collect()
            };
            let to = list(words.next())
                .iter()
                .map(|net| net.parse().unwrap())
                .collect();
            let range = |range: &String| {
                let (low, high) = range.split_once('-').unwrap_or((range, range));
                low.parse().unwrap()..=high.parse().unwrap()
            };
            let ports = list(words.next()).iter().map(range).collect();
            Step { to, ports, verdict }
        })
        .collect();
    let default = steps.pop().unwrap().verdict;
    Claim {
        steps,
        default,
        on_broker_gone: word,
    }
}

/// What nft is given is in a file; written anew with `UPDATE_SNAPSHOTS=1`, to be read in the diff.
fn check_snapshot(name: &str, text: &str) {
    let path = format!(
        "{}/src/helper/snapshots/{name}.nft",
        env!("CARGO_MANIFEST_DIR")
    );
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(&path).unwrap(), "{path}");
}

const EXAMPLE: &str = "\
pass 10.20.0.5/32 *
block * 23
over 10.20.0.0/16,10.21.0.0/16,fd00:20::/32 443,8000-8100
over 192.168.7.0/25 *
pass";

/// A family that is asked about, and what comes after the last question.
const ASKING: &str = "\
pass 10.20.0.5/32 *
ask 10.20.0.0/16 443
block * 23
ask 10.20.0.0/15 8000-8100
over 192.168.7.0/25,fd00:20::/32 *
pass";

fn queue(number: u16, by: QueueBy) -> Option<QueueRule> {
    let by = Some(by);
    Some(QueueRule { number, by })
}

#[test]
fn what_nft_is_given() {
    let blocking = Program::of_claim(&claim(EXAMPLE, OnBrokerGone::Block), PORTS, None);
    let releasing = Program::of_claim(
        &claim("over fd00::/8 *\nblock", OnBrokerGone::Release),
        Ports {
            v4: None,
            v6: Some(5006),
        },
        None,
    );
    let asking = |by| {
        let claim = claim(ASKING, OnBrokerGone::Block);
        Program::of_claim(&claim, PORTS, queue(44_288, by))
    };
    let (by_nft, by_xtables) = (asking(QueueBy::Nft), asking(QueueBy::Xtables));
    check_snapshot("skeleton", &render::skeleton());
    check_snapshot("first_claim", &render::replace(1000, None, &blocking));
    check_snapshot(
        "second_claim",
        &render::replace(1000, Some(&blocking), &releasing),
    );
    check_snapshot("gone", &render::swap(1000, &blocking, Live::Gone));
    check_snapshot("removed", &render::remove(1000, &blocking));
    check_snapshot("asking_by_nft", &render::replace(1000, None, &by_nft));
    check_snapshot(
        "asking_by_xtables",
        &render::replace(1000, None, &by_xtables),
    );
    let other_queue = Program::of_claim(
        &claim(ASKING, OnBrokerGone::Block),
        PORTS,
        queue(44_289, QueueBy::Nft),
    );
    check_snapshot(
        "asking_by_another_queue",
        &render::replace(1000, Some(&by_nft), &other_queue),
    );
    check_snapshot(
        "asking_no_more",
        &render::replace(1000, Some(&by_nft), &blocking),
    );
    check_snapshot("asking_gone", &render::swap(1000, &by_nft, Live::Gone));
    check_snapshot("asking_removed", &render::remove(1000, &by_nft));
}

#[test]
fn routes_lead_to_what_is_handed_over_and_nowhere_else() {
    let check = |text: &str, family: Family, expected: &str| {
        let ranges = handed_over(&claim(text, OnBrokerGone::Block), family);
        let networks: Vec<String> = ranges
            .networks(family)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(networks.join(" "), expected, "{text}");
    };
    check(
        EXAMPLE,
        Family::V4,
        "10.20.0.0/30 10.20.0.4/32 10.20.0.6/31 10.20.0.8/29 10.20.0.16/28 10.20.0.32/27 10.20.0.64/26 10.20.0.128/25 10.20.1.0/24 10.20.2.0/23 10.20.4.0/22 10.20.8.0/21 10.20.16.0/20 10.20.32.0/19 10.20.64.0/18 10.20.128.0/17 10.21.0.0/16 192.168.7.0/25",
    );
    check(EXAMPLE, Family::V6, "fd00:20::/32");
    check("over * *\npass", Family::V6, "::/0");
    check("pass * *\nover", Family::V4, "");
    check("pass * 80\nover", Family::V4, "0.0.0.0/0");
    check("pass 0.0.0.0/1 *\nover", Family::V4, "128.0.0.0/1");
    check(
        "block 10.0.0.0/8 *\nover 10.0.0.0/8 443\npass",
        Family::V4,
        "",
    );
}

fn verdicts() -> impl Strategy<Value = Verdict> {
    prop::sample::select(vec![
        Verdict::Ask,
        Verdict::HandOver,
        Verdict::Pass,
        Verdict::Block,
    ])
}

fn networks() -> impl Strategy<Value = ipnet::IpNet> {
    let v4 = (any::<u32>(), 0_u8..=32).prop_map(|(bits, length)| {
        ipnet::IpNet::new(std::net::Ipv4Addr::from_bits(bits).into(), length).unwrap()
    });
    let v6 = (any::<u128>(), 0_u8..=128).prop_map(|(bits, length)| {
        ipnet::IpNet::new(std::net::Ipv6Addr::from_bits(bits).into(), length).unwrap()
    });
    // Neighbours and overlaps are where sets of ranges go wrong.
    let close = (0_u32..64, 26_u8..=32).prop_map(|(bits, length)| {
        let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 | bits);
        ipnet::IpNet::new(address.into(), length).unwrap()
    });
    prop_oneof![v4, v6, close]
}

/// So many networks that they are a set of their own.
fn many() -> impl Strategy<Value = Step> {
    (0u32..40, 65u32..90, any::<bool>()).prop_map(|(first, count, blocks)| Step {
        to: (first..first + count)
            .map(|number| {
                std::net::IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + 2 * number))
                    .into()
            })
            .collect(),
        ports: Vec::new(),
        verdict: if blocks { Verdict::Block } else { Verdict::Ask },
    })
}

pub(super) fn claims() -> impl Strategy<Value = Claim> {
    let port = prop_oneof![any::<u16>(), Just(0), Just(65_535), 440_u16..450];
    let range = (port.clone(), port).prop_map(|(a, b)| a.min(b)..=a.max(b));
    let step = (
        prop::collection::vec(networks(), 0..8),
        prop::collection::vec(range, 0..4),
        verdicts(),
    )
        .prop_map(|(to, ports, verdict)| Step { to, ports, verdict });
    let word = prop::sample::select(vec![OnBrokerGone::Block, OnBrokerGone::Release]);
    let step = prop_oneof![9 => step, 1 => many()];
    (prop::collection::vec(step, 0..6), verdicts(), word).prop_map(
        |(steps, default, on_broker_gone)| Claim {
            steps,
            default,
            on_broker_gone,
        },
    )
}

pub(super) fn ports() -> impl Strategy<Value = Ports> {
    (any::<u16>(), any::<u16>(), 0..3).prop_map(|(v4, v6, which)| Ports {
        v4: (which != 0).then_some(v4.max(1)),
        v6: (which != 1).then_some(v6.max(1)),
    })
}

/// What nft alone can write on each kernel.
const UNFINISHED: Option<QueueRule> = Some(QueueRule {
    number: 44_288,
    by: None,
});

/// A shell in a network namespace of its own is given transactions, and says what the table then is.
fn through_the_kernel(transactions: &[String]) -> String {
    listed(&["list table inet adit".to_owned()], transactions)
}

fn probed() -> &'static readback::Skeleton {
    static PROBED: LazyLock<readback::Skeleton> = LazyLock::new(|| {
        let lists: Vec<String> = render::probed().map(|words| words.join(" ")).collect();
        let all = listed(&lists, &[render::probe()]);
        let listings: Vec<String> = all
            .lines()
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect();
        readback::skeleton(&listings).unwrap()
    });
    &PROBED
}

fn listed(lists: &[String], transactions: &[String]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let mut script = String::from("ip link set lo up\n");
    for (number, text) in transactions.iter().enumerate() {
        let path = directory.path().join(number.to_string());
        std::fs::write(&path, text).unwrap();
        script.push_str(&format!("nft -c -f {0} && nft -f {0}\n", path.display()));
    }
    for list in lists {
        script.push_str(&format!("nft -j {list}\n"));
    }
    let output = Command::new("unshare")
        .args(["--net", "sh", "-ec", &script])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{said}\n{}",
        transactions.join("\n---\n")
    );
    String::from_utf8(output.stdout).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever is claimed, nft takes it, and what the kernel then has is what was meant.
    #[test]
    fn every_program_comes_back(first in claims(), second in claims(), other in claims(), ports in ports(), swap in any::<bool>()) {
        let mut first = Program::of_claim(&first, ports, UNFINISHED);
        let second = Program::of_claim(&second, PORTS, Some(QueueRule { number: 44_289, by: None }));
        let other = Program::of_claim(&other, Ports { v4: Some(7), v6: Some(7) }, None);
        let mut transactions = vec![
            render::skeleton() + &render::replace(1000, None, &first),
            render::replace(4_294_967_294, None, &other),
        ];
        if swap {
            transactions.push(render::swap(1000, &first, Live::Gone));
            first.live = Live::Gone;
        }
        let both = |program| [(1000, program), (4_294_967_294, other.clone())].into();
        let found = readback::programs(&through_the_kernel(&transactions), probed()).unwrap();
        prop_assert_eq!(found, both(first.clone()));
        transactions.push(render::replace(1000, Some(&first), &second));
        let found = readback::programs(&through_the_kernel(&transactions), probed()).unwrap();
        prop_assert_eq!(found, both(second.clone()));
        transactions.push(render::remove(1000, &second));
        let found = readback::programs(&through_the_kernel(&transactions), probed()).unwrap();
        prop_assert_eq!(found, [(4_294_967_294, other)].into());
    }
}

/// What a claim means, said without any rules: the first step that matches.
pub(super) fn meaning(claim: &Claim, address: std::net::IpAddr, port: u16) -> Verdict {
    let matches = |step: &&Step| {
        (step.to.is_empty() || step.to.iter().any(|net| net.contains(&address)))
            && (step.ports.is_empty() || step.ports.iter().any(|range| range.contains(&port)))
    };
    claim
        .steps
        .iter()
        .find(matches)
        .map_or(claim.default, |step| step.verdict)
}

fn first_rule(
    rules: &[super::program::Rule],
    family: Family,
    address: u128,
    port: u16,
) -> super::program::Action {
    try_first_rule(rules, family, address, port).expect("the default is a rule as well")
}

fn try_first_rule(
    rules: &[super::program::Rule],
    family: Family,
    address: u128,
    port: u16,
) -> Option<super::program::Action> {
    let has = |set: &Ranges, number: u128| set.iter().any(|(l, h)| (l..=h).contains(&number));
    let rule = rules.iter().find(|rule| {
        rule.family == family && has(&rule.to, address) && has(&rule.ports, port.into())
    });
    rule.map(|rule| rule.action)
}

proptest! {
    /// The three lists of rules give what the claim says, for addresses that its steps are about.
    #[test]
    fn the_program_means_what_the_claim_says(claim in claims(), ports in ports(), port in any::<u16>(), which in any::<prop::sample::Index>()) {
        use super::program::Action;
        let program = Program::of_claim(&claim, ports, queue(1, QueueBy::Nft));
        let mut addresses: Vec<std::net::IpAddr> = claim.steps.iter().flat_map(|step| &step.to)
            .flat_map(|net| [net.network(), net.broadcast()]).collect();
        addresses.extend(["10.0.0.9".parse::<std::net::IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
        let address = *which.get(&addresses);
        let (family, bits, listens) = match address {
            std::net::IpAddr::V4(v4) => (Family::V4, u128::from(v4.to_bits()), ports.v4),
            std::net::IpAddr::V6(v6) => (Family::V6, v6.to_bits(), ports.v6),
        };
        let (open, nat, gone) = match (meaning(&claim, address, port), listens) {
            (Verdict::Pass, _) => (Action::Accept, Action::Accept, Action::Accept),
            (Verdict::Block, _) => (Action::Reject, Action::Accept, Action::Reject),
            (Verdict::Ask | Verdict::HandOver, Some(port)) => (Action::Accept, Action::Redirect(port), Action::Reject),
            (Verdict::Ask | Verdict::HandOver, None) => (Action::Reject, Action::Accept, Action::Reject),
        };
        let hold = match (meaning(&claim, address, port), listens) {
            (Verdict::Ask, Some(_)) => Action::Ask(1),
            _ => Action::Accept,
        };
        let rules = program.hold.as_ref().map_or(&[][..], |hold| &hold.rules);
        prop_assert_eq!(try_first_rule(rules, family, bits, port).unwrap_or(Action::Accept), hold);
        prop_assert_eq!(first_rule(&program.open, family, bits, port), open);
        prop_assert_eq!(first_rule(&program.nat, family, bits, port), nat);
        match claim.on_broker_gone {
            OnBrokerGone::Block => prop_assert_eq!(first_rule(&program.gone, family, bits, port), gone),
            OnBrokerGone::Release => prop_assert!(program.gone.is_empty()),
        }
        let reachable = handed_over(&claim, family).iter().any(|(l, h)| (l..=h).contains(&bits));
        prop_assert!(reachable || !matches!(meaning(&claim, address, port), Verdict::HandOver | Verdict::Ask));
    }

    #[test]
    fn requests_survive_the_journey(claim in claims(), version in any::<u32>()) {
        for request in [
            Request::Claim { claim: claim.clone() },
            Request::Hello { version },
            Request::MarkedSocket { family: Family::V6 },
            Request::OriginalSources { of: vec![adit_capture::wire::Redirected { listener: ([127, 0, 0, 1], 1).into(), peer: ([0_u16; 8], 2).into() }] },
            Request::Queue,
            Request::Release,
        ] {
            prop_assert_eq!(Request::decode(&request.encode().unwrap()).unwrap(), request);
        }
    }

    /// Any bytes, and messages with some bytes changed: an error, or a message that is within its bounds; never a panic.
    #[test]
    fn decoders_take_anything(bytes in prop::collection::vec(any::<u8>(), 0..300), claim in claims(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6)) {
        let mut mutated = Request::Claim { claim }.encode().unwrap();
        for (index, byte) in changes {
            *index.get_mut(&mut mutated[..]) = byte;
        }
        for body in [bytes, mutated] {
            let _ = Reply::decode(&body);
            if let Ok(Request::Claim { claim }) = Request::decode(&body)
                && claim.check().is_ok()
            {
                let program = Program::of_claim(&claim, PORTS, queue(1, QueueBy::Nft));
                prop_assert!(program.nat.len() <= 2 * (claim.steps.len() + 1));
            }
            let _ = readback::programs(&String::from_utf8_lossy(&body), probed());
        }
    }

    #[test]
    fn refusals_fit_into_a_frame(text in "\\PC{0,3000}") {
        let reply = Reply::refusal(adit_capture::wire::ErrorCode::Kernel, text);
        let body = reply.encode().unwrap();
        prop_assert!(body.len() <= MAX_OTHER, "{}", body.len());
        prop_assert_eq!(Reply::decode(&body).unwrap(), reply);
    }
}
