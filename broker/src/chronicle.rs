//! What is kept and told of each decision, once it is known what became of it: when the flow is open, or has failed.

use adit_rules::Telling;

use crate::decision_log::{DecisionLog, Record, Standing};
use crate::desktop::Desktop;
use crate::flow_table::{Flow, FlowView};
use crate::user::User;

/// Keeps and tells.
#[derive(Debug)]
pub struct Chronicle {
    log: Option<DecisionLog>,
    desktop: Desktop,
    user: User,
}

impl Chronicle {
    /// Of the decisions about this user's flows.
    pub fn new(log: Option<DecisionLog>, user: User) -> Self {
        let desktop = Desktop::of(user.uid);
        Self { log, desktop, user }
    }

    /// How the log of decisions stands; `None`: there is none.
    pub fn standing(&self) -> Option<Standing> {
        self.log.as_ref().map(DecisionLog::standing)
    }

    /// Notes what became of a decision. Of each flow that is done once, whenever it is asked.
    pub(crate) fn note(&self, flow: &Flow) {
        let Some(judged) = flow.take_decision() else {
            return;
        };
        let Telling { log, notify } = judged.decision.telling();
        if self.log.is_none() && !log && !notify {
            return;
        }
        let view = flow.view();
        // What was not carried is said anyway.
        if log && view.stage.is_none() {
            say(&view);
        }
        if notify {
            self.desktop.tell(&view);
        }
        if let Some(log) = &self.log {
            let uid = self.user.uid.as_raw();
            log.record(Record::of(view, judged, &self.user.name, uid));
        }
    }
}

fn say(flow: &FlowView) {
    let application = flow.application.as_deref().unwrap_or("unknown");
    tracing::info!(
        flow = flow.id,
        destination = %flow.destination,
        application = %application.escape_debug(),
        rule = flow.rule.as_deref().unwrap_or("-"),
        zone = flow.zone.as_deref().unwrap_or("-"),
        state = %flow.state,
        "flow decided"
    );
}
