//! The second stage of `entries:` and `tunnels:`.

use smol_str::SmolStr;

use crate::actions::OwnWords;
use crate::actions::no_way_around;
use crate::compile::Compiler;
use crate::decision::{Decision, Judgement};
use crate::destination;
use crate::diagnostics::{Fault, Place};
use crate::entrance::{Entry, Listen, StaticTunnel};
use crate::findings::Findings;
use crate::policy::Policy;
use crate::rule::{Action, Rule};
use crate::words;
use crate::written::{At, WrittenFile};
use crate::written_entrances::WrittenTunnel;
use crate::zone::{Connect, OnDown};

/// Listeners of a broker, which take descriptors of its flows.
const MOST_ENTRIES: usize = 16;
const MOST_TUNNELS: usize = 64;

/// Warns of static tunnels that lead nowhere for any program, as a rule comes first.
pub(crate) fn warn_of_blocked(policy: &Policy, written: &[WrittenTunnel], findings: &mut Findings) {
    for tunnel in written {
        let judgement = policy.judge_static(&tunnel.name.value, None);
        let Judgement::Decided(Decision::Block(block)) = judgement else {
            continue;
        };
        // In doubt it is not for everybody: too little is said here of who asks.
        if !block.is_in_doubt() {
            let fault = Fault::new(format!("{:?} leads nowhere", tunnel.name.value));
            let hint = format!(
                "the rule {:?} comes first, and blocks its destination or leads it elsewhere",
                block.rule()
            );
            findings.warning(tunnel.to.place, fault.hint(hint));
        }
    }
}

impl Compiler<'_> {
    /// Adds what could be understood of what listens by the word of a file.
    pub(crate) fn add_entrances(&mut self, written: &WrittenFile) {
        for entry in &written.entries {
            if let Some(listen) = self.listen(&entry.listen) {
                let protocol = entry.protocol;
                self.entrances.entries.push(Entry { protocol, listen });
            }
            if self.entrances.entries.len() == MOST_ENTRIES + 1 {
                self.refuse_more(entry.listen.place, "addresses of entries", MOST_ENTRIES);
            }
        }
        for tunnel in &written.tunnels {
            let understood = self.static_tunnel(tunnel);
            self.entrances.tunnels.extend(understood);
            if self.entrances.tunnels.len() == MOST_TUNNELS + 1 {
                self.refuse_more(tunnel.place, "static tunnels", MOST_TUNNELS);
            }
        }
    }

    fn refuse_more(&mut self, place: Place, what: &str, most: usize) {
        let fault = Fault::new(format!("there are more than {most} {what}"));
        self.findings.error(place, fault);
    }

    fn static_tunnel(&mut self, written: &WrittenTunnel) -> Option<StaticTunnel> {
        let listen = self.listen(&written.listen);
        let to = self.noted(written.to.place, destination::parse(&written.to.value));
        let on_down = self.optional(written.on_down.as_ref(), words::on_down_of);
        let own = OwnWords {
            on_down: written.on_down.as_ref().map(|at| at.place).zip(on_down?),
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
        if let Some(floor) = self.floor.as_ref().filter(|floor| !floor.admits(&action)) {
            let fault = Fault::new(format!(
                "the static tunnel {:?} would weaken the default of {}, and is left out",
                written.name.value,
                floor.author()
            ));
            let hint = format!("what no rule before it matches gets {}", floor.shown());
            self.findings.warning(written.name.place, fault.hint(hint));
            return None;
        }
        let at = Some(written.name.place.into());
        Some(StaticTunnel {
            listen: listen?,
            to: to?,
            word: Rule::for_everything(&written.name.value, at, action),
            behind: self.rules_of_earlier_layers(),
        })
    }

    fn listen(&mut self, written: &At<SmolStr>) -> Option<Listen> {
        let listen = self.noted(written.place, Listen::parse(&written.value))?;
        for address in listen.addresses() {
            if let Some(first) = self.taken.insert(address, written.place) {
                let fault = Fault::new(format!("{address} is listened at already"));
                let at = self.findings.seen_from(written.place, first);
                self.findings
                    .error(written.place, fault.hint(format!("{at} takes it")));
                return None;
            }
        }
        Some(listen)
    }
}
