//! `adit unlock`, as the broker carries it out: it lets a zone try again, hands out what is asked meanwhile, and tells how it ended.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::control::protocol::{Answer, Answers};
use crate::zone::Zone;
use crate::zone_link::{ZoneLink, ZoneState};

/// How long a zone may take to ask something, or to come up.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Begins, or goes on with `answers`. Gives what is to be answered next, `Done` once the zone is up, or why it is not.
pub(crate) async fn unlock(zone: &Zone, answers: Option<Answers>) -> Answer {
    let mut links = zone.links();
    if links.is_empty() {
        return Answer::Error("no flow goes to any host of the zone: nothing is locked".to_owned());
    }
    let first = |is_meant: &dyn Fn(&ZoneLink) -> bool| {
        let mut links = links.iter();
        links.position(|(_, link)| is_meant(link))
    };
    let meant = match &answers {
        Some(Answers { id, .. }) => first(&|link| link.questions.unlocking.asks(*id)),
        // One that is down for another reason is not to be waited for where others are there.
        None => first(&|link| link.questions.unlocking.locked().is_some())
            .or_else(|| first(&|link| link.questions.unlocking.is_open()))
            .or_else(|| first(&is_up)),
    };
    let (_, link) = links.swap_remove(meant.unwrap_or_default());
    if answers.is_none() {
        for (_, other) in &links {
            other.questions.refused_try_again();
        }
    }
    let answer = unlock_link(&link, answers).await;
    if let Answer::Done = answer {
        for (_, other) in links {
            other.questions.another_is_unlocked();
        }
    }
    answer
}

fn is_up(link: &ZoneLink) -> bool {
    matches!(&*link.state().borrow(), ZoneState::Up { .. })
}

async fn unlock_link(link: &ZoneLink, answers: Option<Answers>) -> Answer {
    let mut state = link.state();
    let unlocking = &link.questions.unlocking;
    let begins = answers.is_none();
    let is_up = matches!(&*state.borrow_and_update(), ZoneState::Up { .. });
    match answers {
        None if is_up => return Answer::Done,
        None => {
            unlocking.attend();
            if !unlocking.is_open() {
                link.questions.try_again();
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
            ended = ended(link, state, begins) => ended,
        }
    };
    let answer = match timeout(PATIENCE, next).await {
        Ok(answer) => answer,
        Err(_) => Answer::Error(format!("not within {} s", PATIENCE.as_secs())),
    };
    if !matches!(answer, Answer::Form(_)) {
        unlocking.leave();
    }
    answer
}

/// How the attempt ends. One that may have been under way before, with nobody there, is followed by the next, as is one that only
/// broke off.
async fn ended(
    link: &ZoneLink,
    mut state: watch::Receiver<ZoneState>,
    mut may_be_older: bool,
) -> Answer {
    while state.changed().await.is_ok() {
        match &*state.borrow_and_update() {
            ZoneState::Up { .. } => return Answer::Done,
            ZoneState::Down { locked: true, .. } if may_be_older => {
                may_be_older = false;
                link.questions.unlocking.attend();
                link.questions.try_again();
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
