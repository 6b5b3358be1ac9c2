//! The flows of this session: the live ones, and the most recent of those that ended.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use adit_rules::Destination;

use crate::lineage::{Kinship, Lineage};
use crate::original_destination::ClientAddress;

mod flow;

pub use flow::{Action, Flow, FlowView, Judged, Learning, Outcome, State};

/// How many ended flows are remembered.
const REMEMBERED: usize = 1000;

#[derive(Debug, Default)]
struct Flows {
    last_id: u64,
    live: HashMap<u64, Arc<Flow>>,
    ended: VecDeque<Arc<Flow>>,
}

/// All flows of this session.
#[derive(Debug, Default)]
pub struct FlowTable {
    flows: Mutex<Flows>,
}

impl FlowTable {
    /// Enters a new flow.
    pub fn begin(&self, source: ClientAddress, asked: &Destination) -> Arc<Flow> {
        let mut flows = self.flows();
        flows.last_id += 1;
        let flow = Arc::new(Flow::new(flows.last_id, source, asked));
        flows.live.insert(flow.id, flow.clone());
        flow
    }

    /// Notes how a flow ended; the oldest ended one is forgotten.
    pub fn end(&self, flow: &Flow, outcome: Outcome) {
        flow.end(outcome);
        let mut flows = self.flows();
        if let Some(flow) = flows.live.remove(&flow.id) {
            if flows.ended.len() == REMEMBERED {
                flows.ended.pop_front();
            }
            flows.ended.push_back(flow);
        }
    }

    /// Asks a live flow to close; whether there is one.
    pub fn close(&self, id: u64) -> bool {
        let flow = self.flows().live.get(&id).cloned();
        flow.inspect(|flow| flow.close("closed by adit close"))
            .is_some()
    }

    /// Asks every live flow to close.
    pub fn close_all(&self) {
        for flow in self.flows().live.values() {
            flow.close("the broker ends");
        }
    }

    /// Those that are not over, oldest first.
    pub fn live(&self) -> Vec<Arc<Flow>> {
        let mut live: Vec<_> = self.flows().live.values().cloned().collect();
        live.sort_by_key(|flow| flow.id);
        live
    }

    /// All that is remembered, oldest first.
    pub fn views(&self) -> Vec<FlowView> {
        let mut flows: Vec<_> = {
            let flows = self.flows();
            flows
                .ended
                .iter()
                .chain(flows.live.values())
                .cloned()
                .collect()
        };
        flows.sort_by_key(|flow| flow.id);
        flows.iter().map(|flow| flow.view()).collect()
    }

    /// The flow of this id, if it is remembered.
    pub fn flow(&self, id: u64) -> Option<Arc<Flow>> {
        let flows = self.flows();
        let mut ended = flows.ended.iter();
        let live = flows.live.get(&id);
        live.or_else(|| ended.find(|flow| flow.id == id)).cloned()
    }

    /// Of the flows that failed, or wait for an answer, the one that is nearest to `caller`: of the same script or shell, the
    /// last that waits, else the last that ended.
    pub fn last_failed(&self, caller: &Lineage) -> Option<(Arc<Flow>, Kinship)> {
        let mut flows = self.live();
        flows.reverse();
        flows.extend(self.flows().ended.iter().rev().cloned());
        let failed = flows.into_iter().filter_map(|flow| {
            let lineage = flow.lineage_if_it_failed_or_waits();
            lineage.map(|lineage| (flow, lineage))
        });
        let failed: Vec<_> = failed.collect();
        let (flow, kinship) = caller.nearest(&failed)?;
        Some((flow.clone(), kinship))
    }

    /// How many live, and how many ever.
    pub fn counts(&self) -> (usize, u64) {
        let flows = self.flows();
        (flows.live.len(), flows.last_id)
    }

    fn flows(&self) -> MutexGuard<'_, Flows> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
