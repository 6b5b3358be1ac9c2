//! A compiled rule file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;

use crate::address::AddressRange;
use crate::application::Application;
use crate::compile;
use crate::decision::Judgement;
use crate::destination::Destination;
use crate::diagnostics::Diagnostics;
use crate::explanation::{self, Explanation};
use crate::index::Index;
use crate::kernel::{self, KernelProgram};
use crate::port;
use crate::rule::{Action, Rule, Targets};
use crate::zone::Zone;

/// Label of what decides when no rule matches.
pub(crate) const DEFAULT: &str = "default";

/// A compiled rule file. A clone is cheap and shares the rules.
#[derive(Debug, Clone)]
pub struct Policy {
    compiled: Arc<Compiled>,
}

#[derive(Debug)]
struct Compiled {
    file: Option<PathBuf>,
    zones: Vec<Zone>,
    rules: Vec<Rule>,
    default: Rule,
    index: Index,
}

/// A policy that passed every check, and what to warn of.
#[derive(Debug)]
pub struct Checked {
    /// The policy.
    pub policy: Policy,
    /// What its author may not have meant.
    pub warnings: Diagnostics,
}

impl Policy {
    /// Parses and compiles a rule file and runs its `tests:`. `file` is only used to say where something is.
    ///
    /// # Errors
    ///
    /// All that is wrong with the file; nothing of it may then be applied.
    pub fn parse(file: &Path, text: &str) -> Result<Checked, Diagnostics> {
        compile::compile(file, text)
    }

    /// The policy of `adit up`: all ports of `networks` are tunnelled through `zone`, the rest passes. The rule's label
    /// is `adit up`.
    pub fn for_networks(zone: Zone, networks: Vec<IpNet>) -> Self {
        let action = Action::Tunnel {
            zone: zone.name.as_str().into(),
            on_down: zone.on_down,
            connect: zone.connect,
        };
        let mut rule = Rule::for_everything("adit up", None, action);
        rule.targets = Some(Targets {
            shown: explanation::list(networks.iter().map(ToString::to_string)),
            addresses: networks.into_iter().map(AddressRange::from).collect(),
            names: Vec::new(),
        });
        let default = Rule::for_everything(DEFAULT, None, Action::Pass);
        Self::new(None, vec![zone], vec![rule], default)
    }

    pub(crate) fn new(
        file: Option<PathBuf>,
        zones: Vec<Zone>,
        rules: Vec<Rule>,
        default: Rule,
    ) -> Self {
        let index = Index::new(&rules);
        let compiled = Compiled {
            file,
            zones,
            rules,
            default,
            index,
        };
        Self {
            compiled: Arc::new(compiled),
        }
    }

    /// The zones, in the order of the file.
    pub fn zones(&self) -> &[Zone] {
        &self.compiled.zones
    }

    /// The zone of this name.
    pub fn zone(&self, name: &str) -> Option<&Zone> {
        self.zones().iter().find(|zone| zone.name == name)
    }

    /// Decides about a flow; the first rule that matches wins.
    ///
    /// `application: None` means that it was not looked up yet. The answer then is `NeedsApplication` when the first
    /// rule that can still match asks for the application, and never when an application was given.
    pub fn judge(&self, destination: &Destination, application: Option<&Application>) -> Judgement {
        let destination = destination.normalized();
        for position in self.compiled.index.candidates(&destination) {
            let rule = &self.compiled.rules[position];
            let mismatch = match application {
                Some(application) => rule.mismatch(&destination, application),
                None => rule.mismatch_of_destination(&destination),
            };
            match mismatch {
                Some(_) => {}
                None if application.is_none() && rule.applications.is_some() => {
                    return Judgement::NeedsApplication;
                }
                None => return Judgement::Decided(rule.decide(destination)),
            }
        }
        Judgement::Decided(self.compiled.default.decide(destination))
    }

    /// What the kernel can decide alone, in order; the rest is the broker's, which is asked first or handed the flow.
    /// What is the broker's is judged by [`Policy::judge`]; together they give exactly what `judge` alone would.
    pub fn kernel_program(&self) -> KernelProgram {
        kernel::program(&self.compiled.rules, &self.compiled.default)
    }

    /// Why: of each rule in order the first matcher that said no, up to the rule that matched.
    pub fn explain(&self, destination: &Destination, application: &Application) -> Explanation {
        let Compiled {
            file,
            rules,
            default,
            ..
        } = &*self.compiled;
        Explanation::new(file.as_deref(), rules, default, destination, application)
    }

    pub(crate) fn rules(&self) -> &[Rule] {
        &self.compiled.rules
    }
}

/// Whether a rule asks for nothing at all.
pub(crate) fn matches_everything(rule: &Rule) -> bool {
    rule.applications.is_none() && rule.targets.is_none() && port::is_all(&rule.ports)
}
