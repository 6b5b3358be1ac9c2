//! Attempts of a link to reach one of its gateways.

use std::sync::Arc;

use crate::capture_session::MarkedSockets;
use crate::gateway::{Connection, Questions, Target, connect};

/// Those of one link, one after the other.
pub(crate) struct Attempts {
    zone: String,
    sockets: MarkedSockets,
    questions: Questions,
    /// Gateways that wait for a word of the user, and for which: they are left in peace until it is said, as a gateway counts those
    /// who come and say nothing.
    locked: Vec<(Arc<Target>, String)>,
}

/// Why no gateway could be reached.
pub(crate) struct Unreached {
    pub(crate) reason: String,
    /// Trying again can't help before someone changes something.
    pub(crate) lasting: bool,
    /// One shows a host key that is not to be trusted.
    pub(crate) untrusted: bool,
    /// One waits for a word of the user.
    pub(crate) locked: bool,
    /// Each does.
    pub(crate) all_locked: bool,
}

impl Attempts {
    pub(crate) fn new(zone: String, sockets: MarkedSockets, questions: Questions) -> Self {
        Self {
            zone,
            sockets,
            questions,
            locked: Vec::new(),
        }
    }

    /// What gateways wait for may have been said: none is left in peace any more.
    pub(crate) fn try_all(&mut self) {
        self.locked.clear();
    }

    /// Tries each gateway once, in order, but for those that are left in peace.
    pub(crate) async fn make(
        &mut self,
        targets: &[Arc<Target>],
    ) -> Result<(Connection, Arc<Target>), Unreached> {
        let mut reasons = Vec::new();
        let (mut lasting, mut untrusted) = (true, false);
        for (index, target) in targets.iter().enumerate() {
            if let Some(reason) = self.waits_for(target) {
                reasons.push(reason.to_owned());
                continue;
            }
            let error = match connect(target, &self.sockets, &self.questions).await {
                Ok(connection) => {
                    // What those behind it show is not known anew.
                    if index + 1 == targets.len() {
                        self.questions.distrust.settle(untrusted);
                    }
                    self.questions.unlocking.let_in();
                    self.try_all();
                    return Ok((connection, target.clone()));
                }
                Err(error) => error,
            };
            lasting &= error.is_lasting();
            let reason = format!("{}: {error}", target.gateway);
            if error.is_untrusted() {
                untrusted = true;
                self.questions.distrust.arise();
                tracing::error!(zone = self.zone, gateway = %target.gateway, "{error}");
            }
            if error.is_locked() {
                self.locked.push((target.clone(), reason.clone()));
            }
            reasons.push(reason);
        }
        self.questions.distrust.settle(untrusted);
        let locked = self.locked.len();
        Err(Unreached {
            reason: reasons.join("; "),
            lasting,
            untrusted,
            locked: locked > 0,
            all_locked: locked > 0 && locked == targets.len(),
        })
    }

    fn waits_for(&self, target: &Arc<Target>) -> Option<&str> {
        let mut all = self.locked.iter();
        let (_, reason) = all.find(|(locked, _)| locked == target)?;
        Some(reason)
    }
}
