//! How large a program for the kernel may be, and what becomes of one that is larger: the kernel asks the broker about more
//! than it must. The broker's answer is the same as the kernel's would be.

use ipnet::IpNet;

use crate::address::{AddressRange, AddressSet};
use crate::commuting::Bundle;
use crate::diagnostics::{Fault, Place};
use crate::findings::Findings;
use crate::kernel::{KernelStep, KernelVerdict};
use crate::policy::Policy;
use crate::targets::every_address;

/// Most of everything in a program, all steps together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelRoom {
    /// Steps.
    pub steps: usize,
    /// Networks.
    pub networks: usize,
    /// Ranges of ports.
    pub port_ranges: usize,
}

/// What a capture helper takes, but for what a broker puts before it.
pub const KERNEL_ROOM: KernelRoom = KernelRoom {
    steps: 4095,
    networks: 131_000,
    port_ranges: 32_000,
};

impl KernelRoom {
    fn without(self, used: Self) -> Option<Self> {
        Some(Self {
            steps: self.steps.checked_sub(used.steps)?,
            networks: self.networks.checked_sub(used.networks)?,
            port_ranges: self.port_ranges.checked_sub(used.port_ranges)?,
        })
    }

    fn of(step: &KernelStep) -> Self {
        Self {
            steps: 1,
            networks: step.to.len(),
            port_ranges: step.ports.len(),
        }
    }
}

/// The steps of `bundles`, if there is room for them.
pub(crate) fn fitting(
    bundles: Vec<Bundle>,
    mut room: KernelRoom,
) -> Result<Vec<KernelStep>, Vec<KernelStep>> {
    let half = room.networks / 2;
    let (mut steps, mut rest) = (Vec::new(), Vec::new());
    for bundle in bundles {
        let step = KernelStep::from(bundle.clone());
        match room
            .without(KernelRoom::of(&step))
            .filter(|_| rest.is_empty())
        {
            Some(left) => {
                room = left;
                steps.push(step);
            }
            None => rest.extend(bundle.to),
        }
    }
    if rest.is_empty() {
        return Ok(steps);
    }
    // The first half stays, and what is left is for all that comes behind it.
    while room.networks < half || room.steps == 0 {
        let Some(last) = steps.pop() else { break };
        room.networks += last.to.len();
        room.steps += 1;
        rest.extend(last.to.into_iter().map(AddressRange::from));
    }
    steps.push(KernelStep {
        to: widened(&rest, room.networks),
        ports: Vec::new(),
        verdict: KernelVerdict::Ask,
    });
    Err(steps)
}

/// Rules with fewer addresses than this surely find room: of each, no more than 62 networks come of a range of IPv4.
const SURELY_SMALL: usize = 512;

/// Warns of rules for which there is no room in the kernel. `places`: of the rules.
pub(crate) fn warn(policy: &Policy, places: &[Place], findings: &mut Findings) {
    let of_rule = |rule: &crate::rule::Rule| match &rule.targets {
        None => 1,
        Some(targets) => 1 + targets.possible_addresses().ranges().count(),
    };
    let mut seen = 0;
    let large = policy.rules().iter().map(of_rule).any(|more| {
        seen += more;
        seen > SURELY_SMALL
    });
    let Some(place) = places
        .first()
        .filter(|_| large && !policy.kernel_program().is_whole)
    else {
        return;
    };
    let fault = Fault::new("the kernel has no room for all that these rules let it decide alone");
    let hint = "the broker is asked about the rest, early rules too: their connections are held, and while no broker runs \
                they are refused; fewer and wider networks, and the same `ports` in many rules, take less room";
    findings.warning(*place, fault.hint(hint));
}

/// At most so many networks that have all these addresses.
fn widened(ranges: &[AddressRange], at_most: usize) -> Vec<IpNet> {
    // Of both families, how many of the last bits do not count.
    [
        (0, 0),
        (4, 64),
        (8, 80),
        (12, 88),
        (16, 96),
        (20, 104),
        (24, 112),
    ]
    .into_iter()
    .map(|bits| {
        let wide: AddressSet = ranges.iter().map(|range| range.widened(bits)).collect();
        wide.networks()
    })
    .find(|networks| networks.len() <= at_most)
    .unwrap_or_else(|| every_address().networks())
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;

    use super::*;
    use crate::port::PortSet;

    /// What a kernel says of an address and a port.
    fn said(steps: &[KernelStep], address: IpAddr, port: u16) -> Option<KernelVerdict> {
        let says = |step: &&KernelStep| {
            let ports = &step.ports;
            step.to.iter().any(|network| network.contains(&address))
                && (ports.is_empty() || ports.iter().any(|range| range.contains(&port)))
        };
        steps.iter().find(says).map(|step| step.verdict)
    }

    fn bundle() -> impl Strategy<Value = Bundle> {
        let verdict = prop::sample::select(vec![
            KernelVerdict::Ask,
            KernelVerdict::HandOver,
            KernelVerdict::Pass,
            KernelVerdict::Block,
        ]);
        let range =
            (0u32..4096, 0u32..90).prop_map(|(low, more)| AddressRange::V4(low, low + more));
        (prop::collection::vec(range, 1..5), 0u16..4, verdict).prop_map(|(to, port, verdict)| {
            Bundle {
                to,
                ports: PortSet::new(vec![(port, port + 1)]),
                verdict,
            }
        })
    }

    proptest! {
        #[test]
        fn what_finds_no_room_is_asked_about(
            bundles in prop::collection::vec(bundle(), 0..12),
            steps in 1usize..10,
            networks in 2usize..60,
            port_ranges in 0usize..12,
            flows in prop::collection::vec((0u32..4300, 0u16..6), 40),
        ) {
            let room = KernelRoom { steps, networks, port_ranges };
            let all: Vec<KernelStep> = bundles.iter().cloned().map(KernelStep::from).collect();
            let (squeezed, whole) = match fitting(bundles, room) {
                Ok(steps) => (steps, true),
                Err(steps) => (steps, false),
            };
            let used = squeezed.iter().map(KernelRoom::of).fold(
                KernelRoom { steps: 0, networks: 0, port_ranges: 0 },
                |sum, step| KernelRoom {
                    steps: sum.steps + step.steps,
                    networks: sum.networks + step.networks,
                    port_ranges: sum.port_ranges + step.port_ranges,
                },
            );
            prop_assert!(room.without(used).is_some(), "{:?} of {:?}", used, room);
            for (address, port) in flows {
                let address = Ipv4Addr::from(address).into();
                let (said, meant) = (said(&squeezed, address, port), said(&all, address, port));
                let asked = said == Some(KernelVerdict::Ask);
                prop_assert!(said == meant || !whole && asked, "{:?} {:?} {:?}", address, said, meant);
            }
        }
    }
}
