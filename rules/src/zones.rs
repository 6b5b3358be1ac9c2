//! The second stage of `zones:`.

use std::collections::HashSet;

use smol_str::SmolStr;

use crate::compile::Compiler;
use crate::diagnostics::{Fault, Place};
use crate::gateway_pattern::{self, GatewayPattern};
use crate::rule::Action;
use crate::words;
use crate::written::{At, WrittenZone};
use crate::zone::{Connect, Engine, HostKeys, Identity, Method, OnDown, Zone};

impl Compiler<'_> {
    /// The zone, if it could be understood.
    pub(crate) fn zone(&mut self, written: &WrittenZone) -> Option<Zone> {
        let name = self.noted(written.name.place, words::zone_name(&written.name.value));
        let gateways = written.gateways.iter();
        let gateways: Vec<GatewayPattern> = gateways
            .filter_map(|at| self.noted(at.place, gateway_pattern::parse(&at.value)))
            .collect();
        self.warn_of_gateways_twice(&written.gateways, &gateways);
        self.refuse_gateways_of_two_kinds(&written.gateways, &gateways);
        let reach = self.reach(&written.settings().reach);
        let identity = self.optional(written.settings().identity.as_ref(), |text| match text {
            "agent" => Ok(Identity::Agent),
            path => words::file(path).map(Identity::File),
        });
        let certificate = self.optional(written.settings().certificate.as_ref(), words::file);
        let methods = self.methods(written);
        let known_hosts = written.settings().known_hosts.iter();
        let known_hosts: Vec<_> = known_hosts
            .filter_map(|at| self.noted(at.place, words::file(&at.value)))
            .collect();
        let host_keys = self.optional(written.settings().host_keys.as_ref(), words::host_keys_of);
        let engine = self.optional(written.settings().engine.as_ref(), words::engine_of);
        let hands_over = self.optional(written.settings().hand_over.as_ref(), words::switch);
        if let (Some(at), Some(Some(true)), Some(Some(Engine::Embedded))) =
            (&written.settings().hand_over, hands_over, engine)
        {
            let fault = Fault::new(
                "connections can be handed over to `ssh` only, and `engine` says not to take it",
            );
            let hint = "write `engine: auto`, or leave `hand_over` out";
            self.findings.error(at.place, fault.hint(hint));
        }
        let on_down = self.optional(written.settings().on_down.as_ref(), words::on_down_of);
        let connect = self.optional(written.settings().connect.as_ref(), words::connect_of);
        let accepts_new = host_keys == Some(Some(HostKeys::AcceptNew));
        let asks = |method: &Method| *method != Method::PublicKey;
        if accepts_new
            && gateways.iter().any(GatewayPattern::is_from_destination)
            && methods.iter().any(asks)
        {
            self.warn_of_passwords_for_anybody(written);
        }
        Some(Zone {
            name: name?,
            gateways,
            reach: reach?,
            identity: identity?,
            certificate: certificate?,
            methods,
            known_hosts,
            host_keys: host_keys?.unwrap_or(HostKeys::Strict),
            engine: engine?.unwrap_or(Engine::Auto),
            hands_over: hands_over?.unwrap_or(false),
            on_down: on_down?.unwrap_or(OnDown::Reject),
            connect: connect?.unwrap_or(Connect::Honest),
        })
    }

    /// A gateway that did not answer is not tried again at once because it is there twice.
    fn warn_of_gateways_twice(&mut self, written: &[At<SmolStr>], gateways: &[GatewayPattern]) {
        let mut before = HashSet::new();
        // Where one is wrong, it is not known which is which.
        if written.len() != gateways.len() || gateways.len() < 2 {
            return;
        }
        for (at, gateway) in written.iter().zip(gateways) {
            if !before.insert(gateway) {
                let fault = Fault::new(format!("the gateway {gateway} is there twice"));
                self.findings.warning(at.place, fault.hint("leave one out"));
            }
        }
    }

    /// Of a gateway that is the destination itself a flow goes to its loopback, of any other onwards.
    fn refuse_gateways_of_two_kinds(
        &mut self,
        written: &[At<SmolStr>],
        gateways: &[GatewayPattern],
    ) {
        let is_first = gateways.first().map(GatewayPattern::is_from_destination);
        let is_other = |gateway: &GatewayPattern| Some(gateway.is_from_destination()) != is_first;
        let other = gateways.iter().position(is_other);
        // Where one is wrong, it is not known which is which.
        let Some(other) = other.filter(|_| written.len() == gateways.len()) else {
            return;
        };
        let fault = Fault::new(format!(
            "{} and {} are gateways of two kinds: one is the host that a connection is for, the other leads there",
            gateways[0], gateways[other]
        ));
        let hint = "make two zones of them";
        self.findings.error(written[other].place, fault.hint(hint));
    }

    /// Whoever answers at an address first is a gateway, and hears what the user says.
    fn warn_of_passwords_for_anybody(&mut self, written: &WrittenZone) {
        if let Some(at) = &written.settings().host_keys {
            let fault = Fault::new(
                "whichever host answers first at an address is given the user's passwords and answers",
            );
            let hint = "write `host_keys: ask`, or let an authority sign the hosts' keys (`@cert-authority` in known_hosts)";
            self.findings.warning(at.place, fault.hint(hint));
        }
    }

    /// Whatever a program connects to would have to be a Secure Shell server that lets the user in.
    pub(crate) fn warn_of_logging_in_everywhere(&mut self, place: Place, default: &Action) {
        let Action::Tunnel { zone: name, .. } = default else {
            return;
        };
        let mut zones = self.zones.iter();
        let is_meant = |zone: &&Zone| zone.name == **name;
        let Some(gateway) = zones
            .find(is_meant)
            .and_then(|zone| zone.gateways.first())
            .filter(|gateway| gateway.is_from_destination())
        else {
            return;
        };
        let fault = Fault::new(format!(
            "whatever no rule matches is taken to be a Secure Shell server ({gateway} of the zone {name:?})"
        ));
        let hint = "write a rule for the hosts that are, and `default: pass` or `default: block`";
        self.findings.warning(place, fault.hint(hint));
    }

    /// By key alone, unless others are written.
    fn methods(&mut self, written: &WrittenZone) -> Vec<Method> {
        let mut methods = Vec::new();
        for at in &written.settings().methods {
            let method = words::method_of(&at.value).and_then(|method| {
                let twice = || Fault::new(format!("the method {:?} is there twice", at.value));
                if methods.contains(&method) {
                    return Err(twice());
                }
                Ok(method)
            });
            methods.extend(self.noted(at.place, method));
        }
        if methods.is_empty() {
            methods.push(Method::PublicKey);
        }
        methods
    }
}
