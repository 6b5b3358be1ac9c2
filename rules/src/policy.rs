//! Compiled rule files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;

use smol_str::SmolStr;

use crate::address::AddressRange;
use crate::application::{Application, Fact};
use crate::compile;
use crate::date::Date;
use crate::decision::{Block, By, Decision, Judgement, Refusal};
use crate::destination::{Destination, Host};
use crate::diagnostics::Diagnostics;
use crate::entrance::{Entrances, Entry, StaticTunnel};
use crate::explanation::{Asked, Explanation, PortMatters};
use crate::first_few;
use crate::index::Index;
use crate::kernel::{self, KernelProgram};
use crate::layer::{self, Author, Layer};
use crate::name_set::NameSet;
use crate::port;
use crate::rule::{Action, Answer, Circumstances, Rule, Validity};
use crate::sets::Files;
use crate::targets::{Hosts, Targets};
use crate::telling::Telling;
use crate::user::User;
use crate::zone::Zone;

/// Label of what decides when no rule matches.
pub(crate) const DEFAULT: &str = "default";

/// Compiled rule files, as they are for one user on one day. A clone is cheap and shares the rules.
#[derive(Debug, Clone)]
pub struct Policy {
    compiled: Arc<Compiled>,
    circumstances: Arc<Circumstances>,
    /// How many layers are asked.
    layers: usize,
}

/// What is the same on every day and for everybody.
#[derive(Debug)]
pub(crate) struct Compiled {
    /// Where rules stand.
    pub(crate) files: Vec<PathBuf>,
    pub(crate) zones: Vec<Zone>,
    pub(crate) entrances: Entrances,
    /// Of all layers, in the order in which they are asked.
    pub(crate) rules: Vec<Rule>,
    /// At least one.
    pub(crate) layers: Vec<LayerEnd>,
    pub(crate) index: Index,
}

/// Where a layer ends.
#[derive(Debug, Clone)]
pub(crate) struct LayerEnd {
    /// How many rules there are up to here.
    pub(crate) rules: usize,
    /// What a flow gets that none of these matches.
    pub(crate) default: Rule,
}

/// What the rules have for a flow.
enum First<'a> {
    /// One of them asks for this.
    Needs(Fact),
    /// One of them, and where it stands.
    Rule(usize, &'a Rule),
    /// One of which it cannot be said whether it matches.
    Doubt(&'a Rule),
    Default,
}

fn closed_by(label: SmolStr) -> Block {
    let by = By {
        label,
        telling: Telling::default(),
    };
    Block::new(by, Refusal::Reset)
}

/// A policy that passed every check, and what to warn of.
#[derive(Debug)]
pub struct Checked {
    /// The policy, of nobody in particular: see [`Policy::for_user`].
    pub policy: Policy,
    /// What its author may not have meant, and what is good to know.
    pub warnings: Diagnostics,
}

impl Policy {
    /// Reads and compiles the files of all layers and those they name, and runs their `tests:`. Rules that expired before `today`
    /// match nothing.
    ///
    /// # Errors
    ///
    /// All that is wrong; nothing may then be applied.
    pub fn read(
        layers: &[Layer],
        today: Date,
        files: &mut dyn Files,
    ) -> Result<Checked, Diagnostics> {
        compile::compile(layers, None, today, files)
    }

    /// The same of one file whose text is at hand. `file` says where something is, and where the files are that it names.
    ///
    /// # Errors
    ///
    /// See [`Policy::read`].
    pub fn parse(
        file: &Path,
        text: &str,
        today: Date,
        files: &mut dyn Files,
    ) -> Result<Checked, Diagnostics> {
        let layer = Layer {
            author: Author::Administrator,
            files: vec![file.to_path_buf()],
        };
        compile::compile(&[layer], Some(text), today, files)
    }

    /// The policy of `adit up`: all ports of `networks` are tunnelled through `zone`, the rest passes. The rule's label
    /// is `adit up`.
    pub fn for_networks(zone: Zone, networks: Vec<IpNet>) -> Self {
        let action = Action::Tunnel {
            zone: zone.name.as_str().into(),
            on_down: zone.on_down,
            connect: zone.connect,
            elsewhere: None,
        };
        let mut rule = Rule::for_everything("adit up", None, action);
        rule.targets = Some(Arc::new(Targets {
            shown: first_few::list(networks.iter().map(ToString::to_string)),
            any: Hosts {
                addresses: networks.into_iter().map(AddressRange::from).collect(),
                names: NameSet::default(),
            },
            none_of: None,
        }));
        let default = Rule::for_everything(DEFAULT, None, Action::Pass);
        let rules = vec![rule];
        let index = Index::new(&rules);
        let layers = vec![LayerEnd {
            rules: rules.len(),
            default,
        }];
        let compiled = Compiled {
            files: Vec::new(),
            zones: vec![zone],
            entrances: Entrances::default(),
            rules,
            layers,
            index,
        };
        Self::new(compiled, None)
    }

    pub(crate) fn new(compiled: Compiled, today: Option<Date>) -> Self {
        let circumstances = Circumstances {
            user: User::default(),
            today,
        };
        Self {
            layers: compiled.layers.len(),
            compiled: Arc::new(compiled),
            circumstances: Arc::new(circumstances),
        }
    }

    /// The same policy for the flows of `user`: rules of others match nothing, in the kernel too.
    pub fn for_user(&self, user: User) -> Self {
        let today = self.circumstances.today;
        self.under(Circumstances { user, today })
    }

    /// The same policy on another day.
    pub fn on(&self, today: Date) -> Self {
        let user = self.circumstances.user.clone();
        let today = Some(today);
        self.under(Circumstances { user, today })
    }

    fn under(&self, circumstances: Circumstances) -> Self {
        Self {
            circumstances: Arc::new(circumstances),
            ..self.clone()
        }
    }

    /// The same policy as if there were only the first `layers`.
    pub(crate) fn of_layers(&self, layers: usize) -> Self {
        Self {
            layers,
            ..self.clone()
        }
    }

    /// The last day on which the policy is what it is today. `None`: no day changes it.
    pub fn last_day(&self) -> Option<Date> {
        let today = self.circumstances.today;
        let lasts = self.rules().iter().filter_map(|rule| match rule.validity {
            Validity::Until(last) if today.is_none_or(|today| today <= last) => Some(last),
            Validity::Until(_) | Validity::Always | Validity::Off => None,
        });
        lasts.min()
    }

    /// The last days of the rules that have expired, the latest first.
    pub(crate) fn expired(&self) -> Vec<Date> {
        let today = self.circumstances.today;
        let lasts = self.rules().iter().filter_map(|rule| match rule.validity {
            Validity::Until(last) if today.is_some_and(|today| today > last) => Some(last),
            Validity::Until(_) | Validity::Always | Validity::Off => None,
        });
        let mut lasts: Vec<Date> = lasts.collect();
        lasts.sort_unstable_by(|one, another| another.cmp(one));
        lasts.dedup();
        lasts
    }

    /// How many rules `judge` may have to ask, roughly: where one leads elsewhere, earlier layers are asked again.
    pub(crate) fn most_asked(
        &self,
        destination: &Destination,
        application: Option<&Application>,
    ) -> usize {
        let destination = destination.normalized();
        let candidates = self.compiled.index.candidates(&destination, application);
        candidates.most().saturating_mul(self.layers.min(2))
    }

    /// Whether `judge` blocks because a rule is in doubt.
    pub(crate) fn is_in_doubt(
        &self,
        destination: &Destination,
        application: Option<&Application>,
    ) -> bool {
        match self.judge(destination, application) {
            Judgement::Decided(Decision::Block(block)) => block.is_in_doubt(),
            Judgement::Decided(Decision::Tunnel(_) | Decision::Pass(_)) | Judgement::Needs(_) => {
                false
            }
        }
    }

    /// The zones, in the order of the files.
    pub fn zones(&self) -> &[Zone] {
        &self.compiled.zones
    }

    /// The zone of this name.
    pub fn zone(&self, name: &str) -> Option<&Zone> {
        self.zones().iter().find(|zone| zone.name == name)
    }

    /// The listeners that ask programs where they want to go.
    pub fn entries(&self) -> &[Entry] {
        &self.compiled.entrances.entries
    }

    /// The listeners that lead to one destination each.
    pub fn static_tunnels(&self) -> &[StaticTunnel] {
        &self.compiled.entrances.tunnels
    }

    /// Decides about a flow that came in through the static tunnel of this name. A rule that blocks its destination blocks it, and
    /// so does one of an earlier layer that tunnels it otherwise; whatever else the rules say of it, and whatever the default, the
    /// tunnel leads through its own zone. One that is not there leads nowhere.
    pub fn judge_static(&self, tunnel: &str, application: Option<&Application>) -> Judgement {
        let found = self.static_tunnels().iter().find(|it| it.name() == tunnel);
        let Some((tunnel, permit)) = found.and_then(|it| Some((it, it.permit()?))) else {
            return Judgement::Decided(Decision::Block(closed_by(tunnel.into())));
        };
        let to = tunnel.to().normalized();
        let decision = match self.first_match(self.rules(), &to, application) {
            First::Needs(fact) => return Judgement::Needs(fact),
            First::Doubt(rule) => rule.decide_in_doubt(),
            First::Rule(position, rule) => match &rule.action {
                Action::Block(_) => rule.decide(to),
                Action::Tunnel { .. } | Action::Pass => {
                    let is_before = position < tunnel.behind;
                    let closed = is_before.then(|| layer::closed_by(rule, &tunnel.word.action));
                    let closed = closed.flatten();
                    closed.map_or(Decision::Tunnel(permit), Decision::Block)
                }
            },
            First::Default => Decision::Tunnel(permit),
        };
        Judgement::Decided(decision)
    }

    /// Decides about a flow; the first rule that matches wins.
    ///
    /// `application: None` means that it was not looked up yet. The answer is `Needs` when the first rule that can still
    /// match asks for a fact that nobody asked for yet, the cheapest one; and never when that fact was found out or given up.
    /// A rule that has something under `not` that cannot be answered blocks.
    ///
    /// Where a rule of a later layer leads elsewhere, the earlier layers' rules are asked about that destination too: what they
    /// block there, or tunnel otherwise, is blocked.
    pub fn judge(&self, destination: &Destination, application: Option<&Application>) -> Judgement {
        let destination = destination.normalized();
        let decision = match self.first_match(self.rules(), &destination, application) {
            First::Needs(fact) => return Judgement::Needs(fact),
            First::Doubt(rule) => rule.decide_in_doubt(),
            First::Rule(position, rule) => match rule.elsewhere() {
                Some(elsewhere) => {
                    let to = elsewhere.instead_of(destination.clone());
                    let earlier = self.asked().before(position);
                    match self.first_match(earlier, &to, application) {
                        First::Needs(fact) => return Judgement::Needs(fact),
                        First::Doubt(earlier) => earlier.decide_in_doubt(),
                        First::Rule(_, earlier) => layer::closed_by(earlier, &rule.action)
                            .map_or_else(|| rule.decide(destination), Decision::Block),
                        First::Default => rule.decide(destination),
                    }
                }
                None => rule.decide(destination),
            },
            First::Default => self.default().decide(destination),
        };
        Judgement::Decided(decision)
    }

    /// The first match among `rules`, which are all or the first of all.
    fn first_match<'a>(
        &'a self,
        rules: &'a [Rule],
        destination: &Destination,
        application: Option<&Application>,
    ) -> First<'a> {
        if rules.is_empty() {
            return First::Default;
        }
        for position in self.compiled.index.candidates(destination, application) {
            let Some(rule) = rules.get(position) else {
                break;
            };
            match rule.ask(destination, application, &self.circumstances) {
                Answer::No(_) => {}
                Answer::Needs(fact) => return First::Needs(fact),
                Answer::Yes => return First::Rule(position, rule),
                Answer::Doubt(_) => return First::Doubt(rule),
            }
        }
        First::Default
    }

    /// What the kernel can decide alone, in order; the rest is the broker's, which is asked first or handed the flow.
    /// What is the broker's is judged by [`Policy::judge`]; together they give exactly what `judge` alone would.
    pub fn kernel_program(&self) -> KernelProgram {
        kernel::program(self.rules(), self.default(), &self.circumstances)
    }

    /// Why: of each rule in order the first matcher that said no, up to the rule that decided. Facts of the application
    /// that were not asked for count as not known.
    pub fn explain(&self, destination: &Destination, application: &Application) -> Explanation {
        Explanation::new(self.asked(), destination, application).with_gateways(self.zones())
    }

    /// The same for every port of a host.
    ///
    /// # Errors
    ///
    /// When not all ports get the same: it has to be said which is meant.
    pub fn explain_host(
        &self,
        host: &Host,
        application: &Application,
    ) -> Result<Explanation, PortMatters> {
        let explanation = Explanation::of_host(self.asked(), host, application)?;
        Ok(explanation.with_gateways(self.zones()))
    }

    fn asked(&self) -> Asked<'_> {
        Asked {
            files: &self.compiled.files,
            rules: self.rules(),
            default: self.default(),
            circumstances: &self.circumstances,
            layers: &self.compiled.layers,
        }
    }

    pub(crate) fn rules(&self) -> &[Rule] {
        &self.compiled.rules[..self.end().rules]
    }

    fn default(&self) -> &Rule {
        &self.end().default
    }

    fn end(&self) -> &LayerEnd {
        &self.compiled.layers[self.layers - 1]
    }
}

/// Whether a rule asks for nothing at all.
pub(crate) fn matches_everything(rule: &Rule) -> bool {
    rule.applications.is_none()
        && rule.targets.is_none()
        && rule.people.is_none()
        && port::is_all(&rule.ports)
}
