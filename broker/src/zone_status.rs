//! How a zone stands, as it is told over the control socket.

use crate::behind::Behind;
use crate::control::protocol::{ZoneNotice, ZoneQuestion, ZoneStatus};
use crate::zone::Zone;
use crate::zone_link::{ZoneLink, ZoneState};

/// As `adit status` shows it, each of its links.
pub(crate) fn status_of(zone: &Zone) -> Vec<ZoneStatus> {
    let links = zone.links().into_iter();
    let links: Vec<_> = links
        .map(|(behind, link)| link_status(&zone.name, &behind, &link))
        .collect();
    match links.is_empty() {
        true => vec![ZoneStatus::new(&zone.name, "idle")],
        false => links,
    }
}

fn link_status(zone: &str, behind: &Behind, link: &ZoneLink) -> ZoneStatus {
    let mut status = ZoneStatus {
        host: behind.host().map(str::to_owned),
        questions: questions(link),
        notice: notice(link),
        ..ZoneStatus::new(zone, "connecting")
    };
    match &*link.state().borrow() {
        ZoneState::Connecting { last } => status.reason.clone_from(last),
        ZoneState::Up {
            link, target, way, ..
        } => {
            status.state = "up".to_owned();
            status.gateway = Some(target.gateway.to_string());
            status.via.clone_from(&way.via);
            status.proxy.clone_from(&way.proxy);
            status.engine = Some(way.engine.as_str().to_owned());
            status.engine_because = Some(way.because.to_string());
            status.streams = link.streams();
        }
        ZoneState::Down {
            reason, retry_at, ..
        } => {
            status.state = "down".to_owned();
            status.reason = Some(reason.clone());
            let now = tokio::time::Instant::now();
            let left = retry_at.map(|at| at.saturating_duration_since(now).as_millis());
            status.retry_in_ms = left.and_then(|left| u64::try_from(left).ok());
        }
    }
    status
}

fn notice(link: &ZoneLink) -> Option<ZoneNotice> {
    let heard = link.heard()?;
    Some(ZoneNotice {
        gateway: heard.gateway,
        words: heard.words.to_string(),
        age_ms: u64::try_from(heard.at.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

fn questions(link: &ZoneLink) -> Vec<ZoneQuestion> {
    let unlocking = &link.questions.unlocking;
    let keys = link.questions.unknown_keys().into_iter();
    let keys = keys.map(|key| ZoneQuestion::HostKey {
        host: key.host(),
        kind: key.kind(),
        fingerprint: key.fingerprint(),
    });
    let locked = unlocking.locked().into_iter();
    let locked = locked.map(|form| ZoneQuestion::Unlock {
        wants: form.about,
        gateway: form.gateway,
    });
    let touches = unlocking.touches().into_iter();
    let touches = touches.map(|key| ZoneQuestion::Touch { key });
    keys.chain(locked).chain(touches).collect()
}
