//! Who opened a flow, as far as the rules had to know.

use adit_capture::attribution::Process;
use adit_rules::{Application, Fact};

use super::ending::{Cause, Ending};
use crate::attribution::{Attributed, Attribution};
use crate::flow_table::Flow;
use crate::stage::Stage;

/// Who opened a flow, and the process of which more can be found out.
pub(super) struct Opener {
    pub(super) application: Application,
    process: Option<Process>,
}

impl Opener {
    /// Notes in the flow who opened it.
    pub(super) fn of(attributed: Attributed, flow: &Flow) -> Result<Self, Ending> {
        match attributed {
            Attributed::Process(process) => {
                flow.attributed(process.pid, process.path.clone());
                Ok(Self {
                    application: Application::of(&process.path),
                    process: Some(process),
                })
            }
            Attributed::Unknown => Ok(Self {
                application: Application::Unknown,
                process: None,
            }),
            Attributed::NotAsked { reason } => Err(Ending::failed(
                Cause::Broken,
                format!("the application could not be looked up: {reason}"),
            )
            .at(Stage::Helper)),
            Attributed::Foreign { uid } => Err(super::foreign(uid)),
        }
    }

    /// Finds out one more fact, or gives it up.
    pub(super) async fn learn(&mut self, fact: Fact, attribution: &Attribution) {
        if let (Application::Known(facts), Some(process)) = (&mut self.application, &self.process) {
            attribution.learn(process, fact, facts).await;
        }
        self.application.give_up(fact);
    }
}
