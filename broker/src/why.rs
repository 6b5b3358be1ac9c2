//! `adit why`: of a flow that failed, where on its way, why, what its program saw, what the rules say and what can be done.

use adit_rules::{Application, Policy};
use serde::{Deserialize, Serialize};

use crate::accepted::Asked;
use crate::flow_table::{Flow, FlowTable, FlowView, Judged};
use crate::lineage::{Kinship, Lineage};
use crate::question::Explained;
use crate::stage::Stage;

/// All that is known of why a flow failed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Why {
    /// The flow, as `adit flows` shows it.
    pub flow: FlowView,
    /// What it has in common with who asks; null when it was asked about by its id.
    pub shares: Option<Shares>,
    /// Where it failed, in words; null when it did not.
    pub what: Option<String>,
    /// What its program saw, in words.
    pub saw: Option<String>,
    /// What can be done.
    pub advice: Option<String>,
    /// What the rules in force say of it now; null when it was never asked of them, or came
    /// through a static tunnel.
    pub explained: Option<Explained>,
}

/// What a flow and who asks have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shares {
    /// Both descend from this process.
    Process(u32),
    /// Both are in the session that this process leads.
    Session(u32),
}

/// Why there is nothing to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NothingToTell {
    /// No such flow.
    #[error("no flow that is remembered has the id {0}")]
    NoFlow(u64),
    /// Who asks can't be seen.
    #[error("cannot see from which shell this is asked; `adit flows` has ids for `adit why ID`")]
    Unseen,
    /// Nothing failed.
    #[error(
        "no connection that was started from this shell failed, as far as the broker knows. What the kernel decides alone is \
        not seen here: `adit explain --app PATH --to HOST:PORT` tells what the rules give; `adit flows` has the ids of all flows"
    )]
    Nothing,
}

/// Why that flow failed; without an id the one that failed last of those started from the shell or script of the process `asks`.
///
/// # Errors
/// When there is no such flow.
pub fn find(
    flows: &FlowTable,
    id: Option<u64>,
    asks: Option<u32>,
) -> Result<(std::sync::Arc<Flow>, Option<Shares>), NothingToTell> {
    if let Some(id) = id {
        let flow = flows.flow(id).ok_or(NothingToTell::NoFlow(id))?;
        return Ok((flow, None));
    }
    let asks = asks.and_then(Lineage::of).ok_or(NothingToTell::Unseen)?;
    let (flow, kinship) = flows.last_failed(&asks).ok_or(NothingToTell::Nothing)?;
    let shares = match kinship {
        Kinship::Process(pid) => Shares::Process(pid),
        Kinship::Session(pid) => Shares::Session(pid),
    };
    Ok((flow, Some(shares)))
}

impl Why {
    /// Of this flow, under the rules that are in force now.
    ///
    /// # Errors
    /// Never, as far as we know: an explanation is plain data.
    pub fn of(flow: &Flow, shares: Option<Shares>, policy: &Policy) -> serde_json::Result<Self> {
        let view = flow.view();
        let asked = |judged: &Judged| matches!(judged.asked, Asked::Destination(_));
        let explained = flow.judgement().filter(asked).map(|judged| {
            let known = || view.application.as_ref().map(Application::of);
            let application = judged.application.clone().or_else(known);
            let application = application.unwrap_or(Application::Unknown);
            Explained::of(&policy.explain(judged.asked.destination(), &application))
        });
        // Who waits can be told what silence would mean.
        let silence = view.state.waits().then_some(Stage::Silent);
        let waits = silence.map(|_| "nothing yet: there is no answer so far");
        Ok(Self {
            what: view.stage.map(Stage::what).or(waits).map(str::to_owned),
            saw: view.saw.map(|saw| saw.what().to_owned()),
            advice: view
                .stage
                .or(silence)
                .map(|stage| stage.advice().to_owned()),
            shares,
            explained: explained.transpose()?,
            flow: view,
        })
    }
}
