//! `adit unlock`, as the broker carries it out: it lets a zone try again, hands out what is asked meanwhile, and tells how it ended.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::control::protocol::{Answer, Answers};
use crate::zone::{Zone, ZoneState};

/// How long a zone may take to ask something, or to come up.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Begins, or goes on with `answers`. Gives what is to be answered next, `Done` once the zone is up, or why it is not.
pub(crate) async fn unlock(zone: &Zone, answers: Option<Answers>) -> Answer {
    let mut state = zone.state();
    let unlocking = &zone.questions.unlocking;
    let begins = answers.is_none();
    let is_up = matches!(&*state.borrow_and_update(), ZoneState::Up { .. });
    match answers {
        None if is_up => return Answer::Done,
        None => {
            unlocking.attend();
            if !unlocking.is_open() {
                zone.questions.try_again();
            }
        }
        Some(Answers { id, answers }) => {
            if let Err(error) = unlocking.answer(id, answers) {
                return Answer::Error(error.to_string());
            }
        }
    }
    let next = async {
        tokio::select! {
            form = unlocking.form() => Answer::Form(Box::new(form)),
            ended = ended(zone, state, begins) => ended,
        }
    };
    match timeout(PATIENCE, next).await {
        Ok(answer) => answer,
        Err(_) => Answer::Error(format!("not within {} s", PATIENCE.as_secs())),
    }
}

/// How the attempt ends. One that may have been under way before, with nobody there, is followed by the next, as is one that only
/// broke off.
async fn ended(
    zone: &Zone,
    mut state: watch::Receiver<ZoneState>,
    mut may_be_older: bool,
) -> Answer {
    while state.changed().await.is_ok() {
        match &*state.borrow_and_update() {
            ZoneState::Up { .. } => return Answer::Done,
            ZoneState::Down { locked: true, .. } if may_be_older => {
                may_be_older = false;
                zone.questions.unlocking.attend();
                zone.questions.try_again();
            }
            ZoneState::Down {
                reason,
                lasting: true,
                ..
            } => return Answer::Error(reason.clone()),
            ZoneState::Down { .. } | ZoneState::Connecting { .. } => {}
        }
    }
    Answer::Error("the broker is ending".to_owned())
}
