//! What other rules change: of zones, and of flows.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use adit_rules::{Application, Decision, Judgement, Policy};

use crate::control::reload::{ChangedFlow, Given, Outcome, ZoneChanges};
use crate::flow_table::{Flow, FlowTable, Judged};
use crate::gateway::Target;
use crate::zone::Zone;
use crate::zone_targets::ZoneTargets;

/// The gateways of each zone that rules name.
pub(super) type WantedZones = BTreeMap<String, ZoneTargets>;

/// What becomes of zones that are there when others are wanted.
pub(super) fn of_zones(now: &HashMap<String, Arc<Zone>>, wanted: &WantedZones) -> ZoneChanges {
    let mut changes = ZoneChanges::default();
    for (name, targets) in wanted {
        match now.get(name) {
            None => changes.added.push(name.clone()),
            Some(zone) if zone.targets() != *targets => changes.changed.push(name.clone()),
            Some(_) => {}
        }
    }
    let gone = now.keys().filter(|name| !wanted.contains_key(*name));
    changes.removed = gone.cloned().collect();
    changes.removed.sort();
    changes
}

/// Flows that get something else, and how many do not.
pub(super) struct FlowChanges {
    pub(super) kept: usize,
    pub(super) changed: Vec<(Arc<Flow>, ChangedFlow)>,
}

/// Judges all live flows by other rules. A flow of which nothing was decided yet is of no rules.
pub(super) fn of_flows(flows: &FlowTable, policy: &Policy, wanted: &WantedZones) -> FlowChanges {
    let mut changes = FlowChanges {
        kept: 0,
        changed: Vec::new(),
    };
    for flow in flows.live() {
        let Some(judged) = flow.judgement() else {
            continue;
        };
        match change(&flow, &judged, policy, wanted) {
            Some(change) => changes.changed.push((flow, change)),
            None => changes.kept += 1,
        }
    }
    changes
}

fn change(
    flow: &Flow,
    judged: &Judged,
    policy: &Policy,
    wanted: &WantedZones,
) -> Option<ChangedFlow> {
    let decision = judge(policy, judged, flow);
    let mut from = given(&judged.decision);
    let mut to = given(&decision);
    if is_same(&judged.decision, &decision, flow.is_passed_when_down()) {
        // A gateway that is none of the zone's any more carries nothing of it.
        let through = flow.through()?;
        let gateways = gateways_of(&decision, wanted)?;
        if gateways.contains(&through) {
            return None;
        }
        from.gateway = Some(through.gateway.to_string());
        to.gateway = gateways.first().map(|target| target.gateway.to_string());
    }
    let view = flow.view();
    Some(ChangedFlow {
        id: flow.id,
        application: view.application,
        destination: view.destination,
        from,
        to,
        outcome: Outcome::Closed,
    })
}

/// What the rules give for what is known of a flow that is on its way. What is not known by now, nobody will find out.
fn judge(policy: &Policy, judged: &Judged, flow: &Flow) -> Decision {
    let mut application = judged.application.clone();
    loop {
        let fact = match judged.asked.judge(policy, application.as_ref()) {
            Judgement::Decided(decision) => return decision,
            Judgement::Needs(fact) => fact,
        };
        match &mut application {
            Some(application) => application.give_up(fact),
            None => {
                application = Some(match flow.application() {
                    Some(path) => Application::of(path),
                    None => Application::Unknown,
                });
            }
        }
    }
}

/// Whether a flow goes on: the same action, through the same zone, to the same destination.
fn is_same(had: &Decision, gets: &Decision, passed_when_down: bool) -> bool {
    match (had, gets) {
        (Decision::Tunnel(had), Decision::Tunnel(gets)) => {
            let is_alike = had.zone() == gets.zone() && had.destination() == gets.destination();
            is_alike && (!passed_when_down || gets.when_down().is_some())
        }
        (Decision::Pass(had), Decision::Pass(gets)) => had.destination() == gets.destination(),
        (Decision::Tunnel(had), Decision::Pass(gets)) => {
            passed_when_down && had.destination() == gets.destination()
        }
        (Decision::Block(_), Decision::Block(_)) => true,
        (Decision::Tunnel(_) | Decision::Pass(_) | Decision::Block(_), _) => false,
    }
}

/// Those that lead to what is dialled of a flow that is tunnelled.
fn gateways_of(decision: &Decision, wanted: &WantedZones) -> Option<Vec<Target>> {
    let Decision::Tunnel(permit) = decision else {
        return None;
    };
    let targets = wanted.get(permit.zone())?;
    let behind = targets.behind(permit.destination())?;
    Some(targets.before(&behind).unwrap_or_default())
}

fn given(decision: &Decision) -> Given {
    Given {
        action: decision.action().to_owned(),
        zone: decision.zone().map(str::to_owned),
        gateway: None,
        rule: decision.rule().to_owned(),
    }
}
