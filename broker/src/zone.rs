//! A zone and its links: one for all of it, or where its gateways are taken from the destination one for each host that flows go to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use adit_rules::{Destination, OnDown};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::behind::Behind;
use crate::capture_session::MarkedSockets;
use crate::gateway::{Askpass, NotTrusted, Questions};
use crate::zone_link::{OpenLink, ZoneDown, ZoneLink};
use crate::zone_targets::ZoneTargets;

/// How long a flow of a zone with `on_down: hold` waits for a gateway.
pub(crate) const HOLD_PATIENCE: Duration = Duration::from_secs(60);
/// Links of one zone to hosts.
const MOST_HOSTS: usize = 256;
/// How long a link to a host is kept for the next flow.
const KEPT: Duration = Duration::from_secs(300);
/// How long it is tried to reach a host that does not answer and that no flow wants to go to any more.
const KEPT_DOWN: Duration = Duration::from_secs(60);

/// Why there is no link for a flow.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NoLink {
    /// No gateway answers.
    #[error(transparent)]
    Down(#[from] ZoneDown),
    /// There are too many.
    #[error("the zone {zone} has links to {MOST_HOSTS} hosts, and all are in use")]
    TooMany {
        /// Which zone.
        zone: String,
    },
}

/// A zone of the rules, as long as they name it.
#[derive(Debug)]
pub struct Zone {
    /// Its name in the rules.
    pub name: String,
    sockets: MarkedSockets,
    links: Arc<Mutex<Links>>,
    hold_patience: Duration,
}

#[derive(Debug)]
struct Links {
    targets: ZoneTargets,
    /// What is common to what each of them asks the user.
    questions: Questions,
    kept: BTreeMap<Behind, Kept>,
    closed: bool,
}

/// A link, which whoever waits for it holds as well.
#[derive(Debug)]
struct Kept {
    link: Arc<ZoneLink>,
    used: Instant,
    /// Ends with this.
    _retiring: JoinSet<()>,
}

impl Zone {
    /// Starts connecting, where it is known whereto.
    pub fn start(name: String, targets: ZoneTargets, sockets: MarkedSockets) -> Self {
        let links = Links {
            targets,
            questions: Questions::asked_by(Askpass::from_environment()),
            kept: BTreeMap::new(),
            closed: false,
        };
        let zone = Self {
            name,
            sockets,
            links: Arc::new(Mutex::new(links)),
            hold_patience: HOLD_PATIENCE,
        };
        zone.start_for_all(&mut zone.lock());
        zone
    }

    /// The same for tests, which have less.
    #[cfg(test)]
    pub(crate) fn with_hold_patience(self, hold_patience: Duration) -> Self {
        Self {
            hold_patience,
            ..self
        }
    }

    /// The link that carries flows to `destination`. While no gateway answers it is waited for as `on_down` says.
    pub async fn link(
        &self,
        destination: &Destination,
        on_down: OnDown,
    ) -> Result<OpenLink, NoLink> {
        let link = self.link_to(destination)?;
        let open = match on_down {
            OnDown::Hold => link.link_held(self.hold_patience).await,
            OnDown::Reject | OnDown::Pass => link.link().await,
        };
        Ok(open?)
    }

    /// From now on these are its gateways. A link through one that still is goes on; any other takes no new streams, and the next
    /// one is made at once. Who waits for a link waits for that.
    pub fn lead_to(&self, targets: ZoneTargets) {
        let mut links = self.lock();
        links.targets = targets;
        let Links { targets, kept, .. } = &mut *links;
        kept.retain(|behind, kept| match targets.before(behind) {
            Ok(targets) => {
                kept.link.lead_to(targets);
                true
            }
            Err(_) => {
                close_beside(kept.link.clone());
                false
            }
        });
        self.start_for_all(&mut links);
    }

    /// Its gateways.
    pub fn targets(&self) -> ZoneTargets {
        self.lock().targets.clone()
    }

    /// Its links, and what is behind each.
    pub fn links(&self) -> Vec<(Behind, Arc<ZoneLink>)> {
        let links = self.lock();
        let kept = links.kept.iter();
        kept.map(|(behind, kept)| (behind.clone(), kept.link.clone()))
            .collect()
    }

    /// Notes the host key with this fingerprint, of every gateway that showed it, and lets its links try again. It waits for the disk.
    ///
    /// # Errors
    /// When no gateway waits for a word on it, or the first that did cannot have it.
    pub fn trust(&self, fingerprint: &str) -> Result<(), NotTrusted> {
        let mut outcome = Err(NotTrusted::NotAsked(fingerprint.to_owned()));
        for (_, link) in self.links() {
            match link.questions.trust(fingerprint) {
                Err(NotTrusted::NotAsked(_)) => {}
                Ok(()) => outcome = Ok(()),
                Err(error) => return Err(error),
            }
        }
        outcome
    }

    /// Says goodbye to its gateways once its flows are gone. Resolves when that is done.
    pub async fn close(&self) {
        let mut closing: JoinSet<()> = {
            let mut links = self.lock();
            links.closed = true;
            let kept = std::mem::take(&mut links.kept).into_values();
            kept.map(|kept| async move { kept.link.close().await })
                .collect()
        };
        while closing.join_next().await.is_some() {}
    }

    fn link_to(&self, destination: &Destination) -> Result<Arc<ZoneLink>, NoLink> {
        let mut links = self.lock();
        let behind = links.targets.behind(destination);
        let behind = behind.ok_or_else(|| self.without_gateway("there is no host to go to"))?;
        if let Some(kept) = links.kept.get_mut(&behind) {
            kept.used = Instant::now();
            return Ok(kept.link.clone());
        }
        if links.closed {
            return Err(self.without_gateway("the zone is ending").into());
        }
        links.make_room().ok_or_else(|| NoLink::TooMany {
            zone: self.name.clone(),
        })?;
        let link = self.start_link(&mut links, behind);
        Ok(link.map_err(|why| self.without_gateway(&why))?)
    }

    /// A zone whose gateways are known has its link before a flow asks for it.
    fn start_for_all(&self, links: &mut Links) {
        if !links.kept.contains_key(&Behind::Zone) {
            // The others wait for a flow that says whereto.
            let _ = self.start_link(links, Behind::Zone);
        }
    }

    fn start_link(&self, links: &mut Links, behind: Behind) -> Result<Arc<ZoneLink>, String> {
        let link = Arc::new(ZoneLink::start(
            self.name.clone(),
            links.targets.before(&behind)?,
            self.sockets.clone(),
            links.questions.beside(),
        ));
        let mut retiring = JoinSet::new();
        if behind.host().is_some() {
            retiring.spawn(retire(Arc::downgrade(&self.links), behind.clone()));
        }
        let kept = Kept {
            link: link.clone(),
            used: Instant::now(),
            _retiring: retiring,
        };
        links.kept.insert(behind, kept);
        Ok(link)
    }

    fn without_gateway(&self, why: &str) -> ZoneDown {
        ZoneDown {
            zone: self.name.clone(),
            reason: why.to_owned(),
            may_pass: false,
            untrusted: false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Links> {
        lock(&self.links)
    }
}

impl Links {
    /// Gives up the link that was not used for longest, if there are as many as there may be. `None`: all are in use.
    fn make_room(&mut self) -> Option<()> {
        if self.kept.len() < MOST_HOSTS {
            return Some(());
        }
        let idle = self.kept.iter().filter(|(_, kept)| !kept.is_in_use());
        let (behind, _) = idle.min_by_key(|(_, kept)| kept.used)?;
        let behind = behind.clone();
        self.give_up(&behind);
        Some(())
    }

    /// Gives a link up that was not used for a while; whether it is gone.
    fn is_given_up(&mut self, behind: &Behind, now: Instant) -> bool {
        let Some(kept) = self.kept.get_mut(behind) else {
            return true;
        };
        if kept.is_in_use() {
            kept.used = now;
        }
        let is_over = kept.until() <= now;
        if is_over {
            tracing::debug!(host = behind.host(), "no flow goes there any more");
            self.give_up(behind);
        }
        is_over
    }

    fn give_up(&mut self, behind: &Behind) {
        if let Some(kept) = self.kept.remove(behind) {
            close_beside(kept.link);
        }
    }
}

impl Kept {
    /// A flow goes through it, or waits for it.
    fn is_in_use(&self) -> bool {
        self.link.streams() > 0 || Arc::strong_count(&self.link) > 1
    }

    /// Until when it is kept if nobody uses it.
    fn until(&self) -> Instant {
        self.used
            + match self.link.is_worth_keeping() {
                true => KEPT,
                false => KEPT_DOWN,
            }
    }
}

/// Gives the link to a host up once it was not used for a while.
async fn retire(links: Weak<Mutex<Links>>, behind: Behind) {
    loop {
        sleep(KEPT_DOWN).await;
        let Some(links) = links.upgrade() else {
            return;
        };
        if lock(&links).is_given_up(&behind, Instant::now()) {
            return;
        }
    }
}

fn close_beside(link: Arc<ZoneLink>) {
    tokio::spawn(async move { link.close().await });
}

fn lock(links: &Mutex<Links>) -> MutexGuard<'_, Links> {
    links.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use adit_rules::{Date, Policy};
    use tokio::sync::mpsc;

    use super::*;
    use crate::capture_session::CaptureSession;
    use crate::listeners::Listeners;
    use crate::user::User;

    /// A zone that is entered at the destination; there is no helper, so no link ever stands.
    fn zone(gateway: &str) -> Zone {
        let (questioning, _asked) = mpsc::channel(1);
        let listeners = Arc::new(Listeners::bind().unwrap());
        let nowhere = PathBuf::from("/dev/null/capture.sock");
        let session = CaptureSession::start(nowhere, listeners, questioning);
        Zone::start("far".to_owned(), targets(gateway), session.sockets.clone())
    }

    fn targets(gateway: &str) -> ZoneTargets {
        let text = format!(
            "version: 1\nzones: {{far: {{gateways: \"{gateway}\", ssh_config: false}}}}\n\
             rules: [{{to: 10.0.0.0/8, action: tunnel}}]\ndefault: pass\n"
        );
        let file = Path::new("rules.yaml");
        let today = Date::new(2026, 7, 1).unwrap();
        let mut no_file = |_: &Path, _: usize| Err("there is none".to_owned());
        let checked = Policy::parse(file, &text, today, &mut no_file).unwrap();
        ZoneTargets::of(&checked.policy.zones()[0], &User::current().unwrap())
    }

    fn host(number: usize) -> Destination {
        Destination::parse(&format!("h{number}.corp:443")).unwrap()
    }

    #[tokio::test]
    async fn a_host_that_nobody_goes_to_any_more_is_given_up() {
        let zone = zone("%h");
        assert!(zone.links().is_empty());
        assert!(matches!(
            zone.link(&host(1), OnDown::Reject).await,
            Err(NoLink::Down(_))
        ));
        let began = Instant::now();
        let behind = Behind::Host("h1.corp".to_owned());
        assert!(!zone.lock().is_given_up(&behind, began + KEPT_DOWN / 2));
        assert_eq!(zone.links().len(), 1);
        assert!(zone.lock().is_given_up(&behind, began + KEPT_DOWN));
        assert!(zone.links().is_empty());
    }

    #[tokio::test]
    async fn a_host_that_is_waited_for_is_kept() {
        let zone = zone("%h");
        let waiting = zone.link_to(&host(1)).unwrap();
        let later = Instant::now() + KEPT * 5;
        let behind = Behind::Host("h1.corp".to_owned());
        assert!(!zone.lock().is_given_up(&behind, later));
        drop(waiting);
        assert!(!zone.lock().is_given_up(&behind, later + KEPT_DOWN / 2));
        assert!(zone.lock().is_given_up(&behind, later + KEPT_DOWN));
    }

    #[tokio::test]
    async fn hosts_are_bounded_and_the_longest_idle_makes_room() {
        let zone = zone("%h");
        let mut used: Vec<_> = (0..MOST_HOSTS)
            .map(|number| zone.link_to(&host(number)).unwrap())
            .collect();
        assert!(matches!(
            zone.link_to(&host(MOST_HOSTS)),
            Err(NoLink::TooMany { .. })
        ));
        drop(used.remove(7));
        zone.link_to(&host(MOST_HOSTS)).unwrap();
        let behind = |number: usize| Behind::Host(format!("h{number}.corp"));
        let kept: Vec<_> = zone.links().into_iter().map(|(it, _)| it).collect();
        assert_eq!(kept.len(), MOST_HOSTS);
        assert!(!kept.contains(&behind(7)) && kept.contains(&behind(MOST_HOSTS)));
    }

    #[tokio::test]
    async fn gateways_of_another_kind_end_the_links() {
        let zone = zone("%h");
        let _used = zone.link_to(&host(1)).unwrap();
        zone.lead_to(targets("gw.example"));
        let links: Vec<_> = zone.links().into_iter().map(|(it, _)| it).collect();
        assert_eq!(links, [Behind::Zone]);
        zone.lead_to(targets("%h:443"));
        assert!(zone.links().is_empty());
    }

    #[tokio::test]
    async fn a_zone_that_is_closed_makes_no_links() {
        let zone = zone("%h");
        zone.link_to(&host(1)).unwrap();
        zone.close().await;
        assert!(zone.links().is_empty());
        assert!(zone.link_to(&host(2)).is_err());
    }
}
