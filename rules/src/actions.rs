//! What is meant by the actions of rules and by defaults.

use std::sync::Arc;

use smol_str::SmolStr;

use crate::compile::{Compiler, KnownZone};
use crate::decision::Refusal;
use crate::diagnostics::{Fault, Place};
use crate::elsewhere::{self, Elsewhere};
use crate::findings::Findings;
use crate::first_few;
use crate::language;
use crate::layer;
use crate::policy::DEFAULT;
use crate::port;
use crate::rule::{Action, Rule};
use crate::suggestion;
use crate::words;
use crate::written::{self, At, WrittenRule};
use crate::zone::{Connect, OnDown};

/// What a rule says instead of its zone, and of the program.
#[derive(Debug, Clone, Default)]
pub(crate) struct OwnWords {
    pub(crate) on_down: Option<(Place, OnDown)>,
    pub(crate) connect: Option<Connect>,
    pub(crate) elsewhere: Option<(Place, Elsewhere)>,
}

impl Compiler<'_> {
    pub(crate) fn action(&mut self, written: &WrittenRule) -> Option<Action> {
        let action = &written.action;
        let on_down = self.optional(written.seldom().on_down.as_ref(), words::on_down_of);
        let connect = self.optional(written.seldom().connect.as_ref(), words::connect_of);
        let elsewhere = self.elsewhere(written);
        let place = written.seldom().on_down.as_ref().map(|at| at.place);
        let own = OwnWords {
            on_down: place.zip(on_down?),
            connect: connect?,
            elsewhere: elsewhere?,
        };
        let refusal = self.optional(written.seldom().with.as_ref(), words::refusal_of)?;
        if let (Some(At { place, .. }), "tunnel" | "pass") =
            (&written.seldom().with, action.value.as_str())
        {
            let fault = Fault::new("`with` says nothing without `action: block`");
            let hint = format!("this rule's action is {}", action.value);
            self.findings.error(*place, fault.hint(hint));
        }
        let action = match action.value.as_str() {
            "tunnel" => return self.tunnel(action.place, written.zone.as_ref(), own),
            "pass" => Action::Pass,
            "block" => Action::Block(refusal.unwrap_or(Refusal::Reset)),
            other => {
                self.findings
                    .error_of(action.place, |_| wrong_action(other));
                return None;
            }
        };
        let only_tunnels = [
            ("zone", &written.zone),
            ("destination", &written.seldom().destination),
            ("port", &written.seldom().port),
            ("on_down", &written.seldom().on_down),
            ("connect", &written.seldom().connect),
        ];
        for (key, value) in only_tunnels {
            if let Some(At { place, .. }) = value {
                let fault = Fault::new(format!("`{key}` says nothing without `action: tunnel`"));
                let hint = match (key, &written.ports) {
                    ("port", None) => written::PORTS_ARE_MEANT.to_owned(),
                    (_, _) => format!("this rule's action is {}", action.as_str()),
                };
                self.findings.error(*place, fault.hint(hint));
            }
        }
        Some(action)
    }

    /// `destination:` and `port:`.
    fn elsewhere(&mut self, written: &WrittenRule) -> Option<Option<(Place, Elsewhere)>> {
        let host = self.optional(written.seldom().destination.as_ref(), elsewhere::host);
        let port = self.optional(written.seldom().port.as_ref(), port::single);
        let (host, port) = (host?, port?);
        let Some(At { place, .. }) = written
            .seldom()
            .destination
            .as_ref()
            .or(written.seldom().port.as_ref())
        else {
            return Some(None);
        };
        if let (None, Some(port), None) = (&host, port, &written.ports) {
            let fault = Fault::new(format!(
                "connections to every port are tunnelled to port {port}"
            ));
            self.findings
                .warning(*place, fault.hint(written::PORTS_ARE_MEANT));
        }
        Some(Some((*place, Elsewhere { host, port })))
    }

    /// `zone`: as written; when it is not, and one zone is defined, that is meant.
    pub(crate) fn tunnel(
        &mut self,
        place: Place,
        zone: Option<&At<SmolStr>>,
        own: OwnWords,
    ) -> Option<Action> {
        let place = zone.map_or(place, |zone| zone.place);
        let name = zone.map(|zone| zone.value.as_str());
        let found = match name {
            Some(name) => self.by_name.get(name).copied(),
            None if self.known_zones.len() == 1 => Some(0),
            None => None,
        };
        let Some(zone) = found.and_then(|found| self.known_zones.get_mut(found)) else {
            let zones = &self.known_zones;
            self.findings
                .error_of(place, |findings| no_zone(zones, name, findings));
            return None;
        };
        zone.is_used = true;
        let mut on_down = own.on_down.map_or(zone.on_down, |(_, own)| own);
        if let Some((place, own)) = own.on_down
            && zone.layer < self.ends.len()
            && !layer::keeps_closed(own, zone.on_down)
        {
            on_down = zone.on_down;
            let (own, kept) = (own.as_str(), on_down.as_str());
            let fault = Fault::new(format!(
                "`on_down: {own}` would weaken the zone {:?} of an earlier layer, and is `{kept}` instead",
                zone.name
            ));
            let hint = "a later layer can be stricter than those before it, never less strict";
            self.findings.warning(place, fault.hint(hint));
        }
        if let (Some((place, _)), OnDown::Pass) = (&own.elsewhere, on_down) {
            let fault = no_way_around("another destination", &zone.name, own.on_down.is_none());
            self.findings.error(*place, fault);
        }
        Some(Action::Tunnel {
            zone: Arc::clone(&zone.name),
            on_down,
            connect: own.connect.unwrap_or(zone.connect),
            elsewhere: own.elsewhere.map(|(_, elsewhere)| Box::new(elsewhere)),
        })
    }

    pub(crate) fn default(&mut self, written: &At<SmolStr>) -> Option<Rule> {
        let At { place, value } = written;
        let (word, zone) = match value.split_once(char::is_whitespace) {
            Some((word, zone)) => (word, Some(zone.trim())),
            None => (value.as_str(), None),
        };
        let action = match (word, zone) {
            ("tunnel", zone) => {
                let zone = zone.map(|zone| At {
                    place: *place,
                    value: zone.into(),
                });
                let action = self.tunnel(*place, zone.as_ref(), OwnWords::default())?;
                self.warn_of_logging_in_everywhere(*place, &action);
                action
            }
            ("pass", None) => Action::Pass,
            ("block", None) => Action::Block(Refusal::Reset),
            (_, _) => {
                let fault = Fault::new(format!("{value:?} is not a default"));
                let fault = match suggestion::nearest(value, ["pass", "block"]) {
                    Some(meant) => fault.hint(format!("did you mean `{meant}`?")),
                    None => fault.hint("write `pass`, `block` or `tunnel ZONE`"),
                };
                self.findings.error(*place, fault);
                return None;
            }
        };
        let at = Some((*place).into());
        Some(Rule::for_everything(DEFAULT, at, action))
    }
}

/// A direct connection would go where the program asked, which is not what was written.
pub(crate) fn no_way_around(what: &str, zone: &str, by_zone: bool) -> Fault {
    let fault = Fault::new(format!("{what} cannot be passed while no gateway answers"));
    let words = "write `on_down: reject` or `on_down: hold`";
    match by_zone {
        true => fault.hint(format!(
            "the zone {:?} has `on_down: pass`: {words} here",
            zone
        )),
        false => fault.hint(words),
    }
}

fn no_zone(zones: &[KnownZone], name: Option<&str>, findings: &mut Findings) -> Fault {
    let names = zones.iter().map(|zone| &*zone.name);
    let all = first_few::list(names.clone().map(str::to_owned));
    match name {
        None if zones.is_empty() => Fault::new("there is no zone to tunnel through")
            .hint("define one: `zones: {NAME: {gateways: [USER@HOST:PORT]}}`"),
        None => Fault::new("it is not said through which zone").hint(format!("name one: {all}")),
        Some(name) => {
            let fault = Fault::new(format!("no zone is called {name:?}"));
            match findings.suggest(name, names) {
                Some(meant) => fault.hint(format!("did you mean {meant:?}?")),
                None if zones.is_empty() => fault.hint("define it under `zones:`"),
                None => fault.hint(format!("the zones are {all}")),
            }
        }
    }
}

fn wrong_action(word: &str) -> Fault {
    let fault = Fault::new(format!("{word:?} is not an action"));
    if let Some(zone) = word.strip_prefix("tunnel ") {
        return fault.hint(format!(
            "write `action: tunnel` and `zone: {}`",
            zone.trim()
        ));
    }
    if word == "drop" || word == "reset" {
        return fault.hint(format!("write `action: block` and `with: {word}`"));
    }
    words::choose(fault, word, language::ACTIONS)
}
