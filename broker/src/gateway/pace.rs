//! How often a gateway is bothered that has refused the user: more and more seldom, since it may shut out whoever comes again and again
//! (fail2ban; sshd_config(5), PerSourcePenalties), and at once when something has changed that it may let in by.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use adit_rules::{Gateway, Identity};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::agent;
use super::authentication::AuthenticationError;
use super::connection::{self, ConnectError, Connection, Target};
use super::openssh::OpenSshError;
use super::questions::Questions;
use crate::capture_session::MarkedSockets;

/// After the first refusal; after each of the next twice as long.
const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(300);
/// Files of a `.ssh` that are looked at.
const MOST_FILES: usize = 1000;

/// Dials, passes jump hosts, checks host keys, authenticates and opens the link; or says that it is too early for that.
pub async fn connect(
    target: &Target,
    sockets: &MarkedSockets,
    questions: &Questions,
) -> Result<Connection, ConnectError> {
    // Nothing is looked at for a gateway that has refused nobody.
    let means = match questions.pace.knows(target) {
        true => Some(Means::of(target).await),
        false => None,
    };
    if let Some(means) = &means
        && let Some(refused) = questions.pace.not_yet(target, means, Instant::now())
    {
        return Err(refused.into());
    }
    let connected = connection::connect(target, sockets, questions).await;
    match &connected {
        Ok(_) => questions.pace.forget(target),
        Err(error) if is_refusal(error) => {
            let words = error.to_string();
            let means = match means {
                Some(means) => means,
                None => Means::of(target).await,
            };
            questions.pace.refused(target, means, words, Instant::now());
        }
        Err(_) => {}
    }
    connected
}

fn is_refusal(error: &ConnectError) -> bool {
    if let ConnectError::OnTheWay { error, .. } = error {
        return is_refusal(error);
    }
    matches!(
        error,
        ConnectError::Authentication(AuthenticationError::Refused {
            unsigned: false,
            ..
        }) | ConnectError::OpenSsh(OpenSshError::Denied(_))
    )
}

/// What the gateways of one link have refused. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Pace(Arc<Mutex<HashMap<Gateway, Refused>>>);

/// The last of several refusals in a row.
#[derive(Debug)]
struct Refused {
    target: Target,
    means: Means,
    words: String,
    times: u32,
    last: Instant,
}

impl Pace {
    fn knows(&self, target: &Target) -> bool {
        self.all().contains_key(&target.gateway)
    }

    /// Why `target` is left in peace: it has refused the same user with the same means, lately.
    fn not_yet(&self, target: &Target, means: &Means, now: Instant) -> Option<AuthenticationError> {
        let all = self.all();
        let refused = all.get(&target.gateway)?;
        if refused.target != *target || refused.means != *means {
            return None;
        }
        let doubled = 1_u32.checked_shl(refused.times.saturating_sub(1));
        let wait = FIRST
            .saturating_mul(doubled.unwrap_or(u32::MAX))
            .min(LONGEST);
        let wait = (refused.last + wait).checked_duration_since(now)?;
        (!wait.is_zero()).then(|| AuthenticationError::NotYet {
            words: refused.words.clone(),
            wait,
        })
    }

    fn refused(&self, target: &Target, means: Means, words: String, now: Instant) {
        let mut all = self.all();
        let before = all.remove(&target.gateway);
        let before = before.filter(|it| it.target == *target && it.means == means);
        let refused = Refused {
            target: target.clone(),
            means,
            words,
            times: before.map_or(0, |it| it.times).saturating_add(1),
            last: now,
        };
        all.insert(target.gateway.clone(), refused);
    }

    fn forget(&self, target: &Target) {
        self.all().remove(&target.gateway);
    }

    /// The user has said something, or there are other gateways. Whether any was left in peace.
    pub(super) fn forget_all(&self) -> bool {
        let mut all = self.all();
        let was_any = !all.is_empty();
        all.clear();
        was_any
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Gateway, Refused>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a login may be made with, as far as it is seen without opening it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Means {
    files: Vec<(PathBuf, State)>,
    held: Vec<String>,
}

/// Which file it is, its length, and when something of it was changed; `None`: it is not there.
type State = Option<(u64, u64, i64, i64)>;

impl Means {
    async fn of(target: &Target) -> Self {
        let places = places(target);
        let home = target.home.clone();
        let looking = spawn_blocking(move || looked_at(places, &home));
        let (files, held) = tokio::join!(looking, agent::held_lately());
        Self {
            // Who cannot look sees nothing change.
            files: files.unwrap_or_default(),
            held,
        }
    }
}

/// Keys and certificates that the rules name, and ssh's configuration.
fn places(target: &Target) -> Vec<PathBuf> {
    let mut places = vec![PathBuf::from("/etc/ssh/ssh_config")];
    for hop in target.via.iter().chain([target]) {
        places.extend(hop.certificate.clone());
        if let Some(Identity::File(file)) = &hop.identity {
            for end in ["", ".pub", "-cert.pub"] {
                let mut name = file.as_os_str().to_owned();
                name.push(end);
                places.push(name.into());
            }
        }
    }
    places
}

/// These, and what is in the user's `.ssh`, without the hosts that are known: a zone notes them there itself.
fn looked_at(mut places: Vec<PathBuf>, home: &Path) -> Vec<(PathBuf, State)> {
    let entries = std::fs::read_dir(home.join(".ssh")).into_iter().flatten();
    let own = entries.flatten().take(MOST_FILES).filter(|entry| {
        let name = entry.file_name();
        !name.as_encoded_bytes().starts_with(b"known_hosts")
    });
    places.extend(own.map(|entry| entry.path()));
    places.sort();
    places.dedup();
    let state = |file: &Path| {
        let seen = std::fs::metadata(file).ok()?;
        Some((seen.ino(), seen.len(), seen.ctime(), seen.ctime_nsec()))
    };
    let seen = places.into_iter().map(|file| (state(&file), file));
    seen.map(|(state, file)| (file, state)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::plain_target::plain_target;

    /// Seconds for which the gateway is left in peace at this time.
    fn left(pace: &Pace, target: &Target, means: &Means, now: Instant) -> Option<u64> {
        let error = pace.not_yet(target, means, now)?;
        let AuthenticationError::NotYet { wait, words } = error else {
            panic!("{error}");
        };
        assert_eq!(words, "no");
        Some(wait.as_secs())
    }

    #[test]
    fn a_gateway_that_refuses_is_bothered_more_and_more_seldom() {
        let (pace, target, means) = (Pace::default(), plain_target("gw"), Means::default());
        let mut now = Instant::now();
        assert_eq!(left(&pace, &target, &means, now), None);
        for expected in [10, 20, 40, 80, 160, 300, 300] {
            pace.refused(&target, means.clone(), "no".to_owned(), now);
            assert_eq!(left(&pace, &target, &means, now), Some(expected));
            now += Duration::from_secs(expected);
            assert_eq!(left(&pace, &target, &means, now), None);
        }
        pace.refused(&target, means.clone(), "no".to_owned(), now);
        assert_eq!(left(&pace, &plain_target("other"), &means, now), None);
        let others = Means {
            held: vec!["SHA256:another".to_owned()],
            ..Means::default()
        };
        assert_eq!(left(&pace, &target, &others, now), None);
        pace.refused(&target, others.clone(), "no".to_owned(), now);
        assert_eq!(left(&pace, &target, &others, now), Some(10));
        pace.forget_all();
        assert_eq!(left(&pace, &target, &others, now), None);
    }

    #[test]
    fn who_did_not_touch_a_key_was_not_refused() {
        for unsigned in [true, false] {
            let refused = ConnectError::Authentication(AuthenticationError::Refused {
                user: "eve".to_owned(),
                offered: Vec::new(),
                wanted: Vec::new(),
                unsigned,
            });
            let on_the_way = ConnectError::OnTheWay {
                place: "jump host".to_owned(),
                error: Box::new(refused),
            };
            assert_eq!(is_refusal(&on_the_way), !unsigned);
        }
    }

    #[tokio::test]
    async fn a_user_who_wants_it_has_what_refused_asked_at_once() {
        let questions = Questions::asked_by(None);
        let (target, means) = (plain_target("gw"), Means::default());
        let words = "no".to_owned();
        questions
            .pace
            .refused(&target, means, words, Instant::now());
        let asked = async |within| tokio::time::timeout(within, questions.answered()).await;
        questions.refused_try_again();
        assert!(asked(Duration::from_secs(5)).await.is_ok());
        // What has refused nobody goes on as it was.
        questions.refused_try_again();
        assert!(asked(Duration::ZERO).await.is_err());
    }

    #[test]
    fn a_change_of_what_may_let_in_is_seen() {
        let home = tempfile::tempdir().unwrap();
        let ssh = home.path().join(".ssh");
        std::fs::create_dir(&ssh).unwrap();
        let key = home.path().join("key");
        let target = Target {
            identity: Some(Identity::File(key.clone())),
            home: home.path().to_owned(),
            ..plain_target("gw")
        };
        let seen = || looked_at(places(&target), &target.home);
        let mut before = seen();
        for (file, is_seen) in [
            (key.clone(), true),
            (home.path().join("key-cert.pub"), true),
            (ssh.join("id_ed25519"), true),
            (ssh.join("config"), true),
            (ssh.join("known_hosts"), false),
            (home.path().join("other"), false),
        ] {
            for text in ["a", "of another length"] {
                std::fs::write(&file, text).unwrap();
                let now = seen();
                assert_eq!(now != before, is_seen, "{}", file.display());
                before = now;
            }
        }
        std::fs::remove_file(key).unwrap();
        assert_ne!(seen(), before);
    }
}
