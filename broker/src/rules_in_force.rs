//! The rules that are in force, and the zones that they name. A reload puts others into their place, at once and as a whole.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use adit_rules::{KernelProgram, Policy};

use crate::zone::Zone;

/// Rules, and the links of their zones.
#[derive(Debug)]
pub struct InForce {
    /// The rules.
    pub policy: Policy,
    /// The kernel's part of them.
    pub program: KernelProgram,
    /// The zones that they name.
    pub zones: HashMap<String, Arc<Zone>>,
}

impl InForce {
    /// With the kernel's part of them.
    pub fn new(policy: Policy, zones: HashMap<String, Arc<Zone>>) -> Self {
        Self {
            program: policy.kernel_program(),
            policy,
            zones,
        }
    }
}

/// The one place that says which rules are in force.
#[derive(Debug)]
pub struct RulesInForce {
    now: RwLock<Arc<InForce>>,
}

impl RulesInForce {
    /// The first ones.
    pub fn new(rules: InForce) -> Self {
        Self {
            now: RwLock::new(Arc::new(rules)),
        }
    }

    /// Those in force now. Who decides something keeps them for no longer than that takes, and looks whether they still are
    /// ([`RulesInForce::are_still`]) once it is noted where a reload finds it.
    pub fn now(&self) -> Arc<InForce> {
        self.now
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether `rules` are in force.
    pub fn are_still(&self, rules: &Arc<InForce>) -> bool {
        Arc::ptr_eq(&self.now(), rules)
    }

    /// From now on these are. Gives back those that were.
    pub fn replace(&self, rules: InForce) -> Arc<InForce> {
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *now, Arc::new(rules))
    }
}
