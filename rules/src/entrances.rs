//! The second stage of `entries:` and `tunnels:`.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::compile::{Compiler, OwnWords, no_way_around};
use crate::decision::{Decision, Judgement};
use crate::destination;
use crate::diagnostics::{Fault, Findings, Place};
use crate::entrance::{Entrances, Entry, Listen, StaticTunnel};
use crate::policy::Policy;
use crate::rule::{Action, Rule};
use crate::words;
use crate::written::{At, WrittenFile};
use crate::written_entrances::WrittenTunnel;
use crate::zone::{Connect, OnDown};

/// Listeners of a broker, which take descriptors of its flows.
const MOST_ENTRIES: usize = 16;
const MOST_TUNNELS: usize = 64;

/// Warns of static tunnels that lead nowhere: a rule blocks their destination for every program.
pub(crate) fn warn_of_blocked(policy: &Policy, written: &[WrittenTunnel], findings: &mut Findings) {
    for tunnel in written {
        let judgement = policy.judge_static(&tunnel.name.value, None);
        let Judgement::Decided(Decision::Block(block)) = judgement else {
            continue;
        };
        // In doubt it is not for everybody: too little is said here of who asks.
        if !block.is_in_doubt() {
            let fault = Fault::new(format!("{:?} leads nowhere", tunnel.name.value));
            let hint = format!("the rule {:?} blocks its destination", block.rule());
            findings.warning(tunnel.to.place, fault.hint(hint));
        }
    }
}

impl Compiler<'_> {
    /// What could be understood of what listens.
    pub(crate) fn entrances(&mut self, written: &WrittenFile) -> Entrances {
        let mut taken = HashMap::new();
        let entries = written.entries.iter().filter_map(|entry| {
            let listen = self.listen(&entry.listen, &mut taken)?;
            let protocol = entry.protocol;
            Some(Entry { protocol, listen })
        });
        let entries: Vec<Entry> = entries.collect();
        let tunnels = written.tunnels.iter();
        let tunnels = tunnels.filter_map(|tunnel| self.static_tunnel(tunnel, &mut taken));
        let tunnels: Vec<StaticTunnel> = tunnels.collect();
        if let Some(first) = written.entries.get(MOST_ENTRIES) {
            self.refuse_more(first.listen.place, "addresses of entries", MOST_ENTRIES);
        }
        if let Some(first) = written.tunnels.get(MOST_TUNNELS) {
            self.refuse_more(first.place, "static tunnels", MOST_TUNNELS);
        }
        Entrances { entries, tunnels }
    }

    fn refuse_more(&mut self, place: Place, what: &str, most: usize) {
        let fault = Fault::new(format!("there are more than {most} {what}"));
        self.findings.error(place, fault);
    }

    fn static_tunnel(
        &mut self,
        written: &WrittenTunnel,
        taken: &mut HashMap<SocketAddr, u32>,
    ) -> Option<StaticTunnel> {
        let listen = self.listen(&written.listen, taken);
        let to = self.noted(written.to.place, destination::parse(&written.to.value));
        let on_down = self.optional(written.on_down.as_ref(), words::on_down_of);
        let own = OwnWords {
            on_down: on_down?,
            // It is accepted before anything is known.
            connect: Some(Connect::Early),
            elsewhere: None,
        };
        let by_zone = own.on_down.is_none();
        let action = self.tunnel(written.place, written.zone.as_ref(), own)?;
        if let Action::Tunnel {
            on_down: OnDown::Pass,
            zone,
            ..
        } = &action
        {
            let place = written
                .on_down
                .as_ref()
                .map_or(written.place, |at| at.place);
            let fault = no_way_around("a static tunnel", zone, by_zone);
            self.findings.error(place, fault);
        }
        let line = usize::try_from(written.name.place.line).ok();
        Some(StaticTunnel {
            listen: listen?,
            to: to?,
            word: Rule::for_everything(&written.name.value, line, action),
        })
    }

    /// `taken`: what is listened at already, and in which line that is said.
    fn listen(
        &mut self,
        written: &At<String>,
        taken: &mut HashMap<SocketAddr, u32>,
    ) -> Option<Listen> {
        let listen = self.noted(written.place, Listen::parse(&written.value))?;
        for address in listen.addresses() {
            if let Some(line) = taken.insert(address, written.place.line) {
                let fault = Fault::new(format!("{address} is listened at already"));
                let fault = fault.hint(format!("line {line} takes it"));
                self.findings.error(written.place, fault);
                return None;
            }
        }
        Some(listen)
    }
}
