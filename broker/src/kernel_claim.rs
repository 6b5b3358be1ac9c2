//! What the capture helper is asked for: the kernel's part of the rules.

use adit_capture::{Claim, OnBrokerGone, Step, Verdict};
use adit_rules::{KernelProgram, KernelVerdict};
use ipnet::{IpNet, Ipv6Net};

/// RFC 4291, section 2.5.6.
const LINK_LOCAL: Ipv6Net =
    Ipv6Net::new_assert(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);
/// The claim of these rules: their steps behind what is never handed over.
pub(crate) fn claim_of(program: KernelProgram, on_broker_gone: OnBrokerGone) -> Claim {
    let verdict = |verdict| match verdict {
        KernelVerdict::Ask => Verdict::Ask,
        KernelVerdict::HandOver => Verdict::HandOver,
        KernelVerdict::Pass => Verdict::Pass,
        KernelVerdict::Block => Verdict::Block,
    };
    let steps = program.steps.into_iter().map(|step| Step {
        to: step.to,
        ports: step.ports,
        verdict: verdict(step.verdict),
    });
    Claim {
        steps: std::iter::once(link_local()).chain(steps).collect(),
        default: verdict(program.default),
        on_broker_gone,
    }
}

/// A link-local address means something only together with an interface (RFC 4007), which a redirected connection
/// does not tell: it goes direct, whatever the rules say of its number.
fn link_local() -> Step {
    Step {
        to: vec![IpNet::from(LINK_LOCAL)],
        ports: Vec::new(),
        verdict: Verdict::Pass,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::net::{IpAddr, Ipv6Addr};
    use std::path::Path;

    use adit_capture::MAX_STEPS;
    use adit_capture::wire::{MAX_CLAIM, Request};
    use adit_rules::{Application, Date, Destination, Judgement, KERNEL_ROOM, KernelStep, Policy};
    use proptest::prelude::*;

    use super::*;

    /// What a claim says of a connection (docs/PROTOCOL.capture.md): the first step that matches.
    fn said(claim: &Claim, to: IpAddr, port: u16) -> Verdict {
        let matches = |step: &&Step| {
            (step.to.is_empty() || step.to.iter().any(|network| network.contains(&to)))
                && (step.ports.is_empty() || step.ports.iter().any(|range| range.contains(&port)))
        };
        let step = claim.steps.iter().find(matches);
        step.map_or(claim.default, |step| step.verdict)
    }

    fn rules() -> impl Strategy<Value = String> {
        let to = prop::sample::select(vec![
            "10.0.0.0/8",
            "10.1.0.0/16",
            "10.1.2.0/24",
            "10.1.2.3",
            "10.1.2.3-10.1.2.9",
            "2001:db8::/32",
            "2001:db8::1",
            "fe80::/10",
            "{not: [10.1.0.0/16, \"2001:db8::/32\"]}",
            "erp.corp",
        ]);
        let rule = (
            prop::option::of(to),
            prop::sample::select(vec!["", ", ports: [80, 443]", ", ports: {not: 1-100}"]),
            prop::sample::select(vec!["", "", ", app: curl", ", app: {not: curl}"]),
            prop::sample::select(vec![
                "pass",
                "block",
                "block, with: drop",
                "tunnel",
                "tunnel, connect: early",
            ]),
        );
        let default = prop::sample::select(vec!["pass", "block", "tunnel z"]);
        (prop::collection::vec(rule, 0..7), default).prop_map(|(rules, default)| {
            let mut text =
                format!("version: 1\nzones: {{z: {{gateways: gw}}}}\ndefault: {default}\nrules:\n");
            for (to, ports, app, action) in rules {
                let to = to.unwrap_or("any");
                let to = if to.starts_with('{') {
                    to.to_owned()
                } else {
                    format!("\"{to}\"")
                };
                let _ = writeln!(text, "  - {{to: {to}{ports}{app}, action: {action}}}");
            }
            text
        })
    }

    /// `None`: a rule is shadowed, or something else is wrong with it.
    fn policy(text: &str) -> Option<Policy> {
        let mut none = |_: &Path, _: usize| Err("there is none".to_owned());
        let day = Date::new(2026, 7, 1)?;
        let checked = Policy::parse(Path::new("rules.yaml"), text, day, &mut none);
        checked.ok().map(|checked| checked.policy)
    }

    proptest! {
        /// The rules alone, and what the kernel does by the claim together with the rules.
        #[test]
        fn a_claim_and_the_broker_give_what_the_rules_give(text in rules(), port in prop::sample::select(vec![22u16, 80, 443, 8080])) {
            let Some(policy) = policy(&text) else { return Ok(()) };
            let claim = claim_of(policy.kernel_program(), OnBrokerGone::Block);
            prop_assert_eq!(claim.check(), Ok(()));
            let sent = Request::Claim { claim: claim.clone() }.encode().unwrap();
            prop_assert_eq!(Request::decode(&sent).unwrap(), Request::Claim { claim: claim.clone() });
            for to in ["10.1.2.3", "10.1.2.9", "10.1.9.9", "10.9.9.9", "192.0.2.1", "2001:db8::1", "2001:db8::2", "2001:db9::1"] {
                let to: IpAddr = to.parse().unwrap();
                let destination = Destination { address: Some(to), name: None, port };
                for application in [Application::of("/usr/bin/curl"), Application::of("/bin/x"), Application::Unknown] {
                    let Judgement::Decided(decision) = policy.judge(&destination, Some(&application)) else {
                        panic!("everything was given");
                    };
                    let action = match said(&claim, to, port) {
                        Verdict::Pass => "pass",
                        Verdict::Block => "block",
                        // Whoever is asked judges as above.
                        Verdict::Ask | Verdict::HandOver => continue,
                    };
                    prop_assert_eq!(action, decision.action(), "{} {}\n{}", to, port, &text);
                }
            }
            // Of these the rules are not asked at all.
            prop_assert_eq!(said(&claim, "fe80::1".parse().unwrap(), port), Verdict::Pass);
        }
    }

    /// A program that fills its room is a claim that a helper takes, in one frame.
    #[test]
    fn the_largest_program_is_a_claim() {
        let network = |number: usize| {
            let address = Ipv6Addr::from_bits(u128::MAX - 2 * number as u128);
            IpNet::new_assert(address.into(), 128)
        };
        let of_each = |all: usize| all / KERNEL_ROOM.steps;
        let mut steps: Vec<KernelStep> = (0..KERNEL_ROOM.steps)
            .map(|step| KernelStep {
                to: (0..of_each(KERNEL_ROOM.networks))
                    .map(|number| network(step * 100 + number))
                    .collect(),
                ports: vec![60_000..=60_001; of_each(KERNEL_ROOM.port_ranges)],
                verdict: KernelVerdict::HandOver,
            })
            .collect();
        let networks = KERNEL_ROOM.networks % KERNEL_ROOM.steps;
        steps[0].to.extend((0..networks).map(network));
        let ranges = KERNEL_ROOM.port_ranges % KERNEL_ROOM.steps;
        steps[0].ports.extend(vec![60_000..=60_001; ranges]);
        let program = KernelProgram {
            steps,
            default: KernelVerdict::HandOver,
            is_whole: true,
        };
        let claim = claim_of(program, OnBrokerGone::Release);
        assert_eq!((claim.steps.len(), claim.check()), (MAX_STEPS, Ok(())));
        let sent = Request::Claim { claim }.encode().unwrap();
        assert!(sent.len() <= MAX_CLAIM, "{} bytes", sent.len());
    }
}
