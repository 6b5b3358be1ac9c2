//! Hears when files change. Editors and package managers put a new file into the place of the old one, so what is watched are the
//! directories, and what counts are the names in them.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::net::unix::pipe::Receiver;
use tokio::time::{Instant, timeout, timeout_at};

use crate::rule_sources::is_rule_file;

/// In a place to look at, any rule file of its directory.
const ANY: &str = "*";
/// What is written in several steps is read once, when nothing has happened for so long …
const QUIET: Duration = Duration::from_millis(200);
/// … or has been happening for so long.
const LONGEST: Duration = Duration::from_secs(3);

const CHANGES: AddWatchFlags = AddWatchFlags::IN_CLOSE_WRITE
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_ONLYDIR);

/// Watches files, also such as are not there yet.
#[derive(Debug)]
pub struct FileWatch {
    inotify: Inotify,
    /// Tells when there is something to read.
    readiness: Receiver,
    names: HashMap<WatchDescriptor, HashSet<OsString>>,
}

impl FileWatch {
    /// Watches `places`: files, or `DIRECTORY/*` for all rule files in one.
    ///
    /// # Errors
    /// When the kernel gives no more of what that takes.
    pub fn of<'a>(places: impl IntoIterator<Item = &'a Path>) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let mut names: HashMap<WatchDescriptor, HashSet<OsString>> = HashMap::new();
        let mut known: HashMap<PathBuf, WatchDescriptor> = HashMap::new();
        for (directory, name) in places.into_iter().flat_map(entries) {
            let watch = match known.get(&directory) {
                Some(watch) => *watch,
                None => match inotify.add_watch(&directory, CHANGES) {
                    Ok(watch) => *known.entry(directory).or_insert(watch),
                    // Nobody sees what becomes of it who may not look there.
                    Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES) => continue,
                    Err(error) => return Err(error.into()),
                },
            };
            names.entry(watch).or_default().insert(name);
        }
        let readiness = inotify.as_fd().try_clone_to_owned()?;
        Ok(Self {
            // It is no pipe. What is used of it is the same for all that can be read.
            readiness: Receiver::from_owned_fd_unchecked(readiness)?,
            inotify,
            names,
        })
    }

    /// Resolves when something has changed, and is at rest again.
    pub async fn changed(&mut self) {
        self.next().await;
        let longest = Instant::now() + LONGEST;
        let at_rest = async { while timeout(QUIET, self.next()).await.is_ok() {} };
        // Late is better than never.
        let _ = timeout_at(longest, at_rest).await;
    }

    async fn next(&mut self) {
        loop {
            let Ok(events) = self.inotify.read_events() else {
                // Notes that there is nothing, unless there is by now.
                let _ = self.readiness.try_read(&mut [0]);
                if self.readiness.readable().await.is_err() {
                    return std::future::pending().await;
                }
                continue;
            };
            if events.iter().any(|event| self.concerns_us(event)) {
                return;
            }
        }
    }

    fn concerns_us(&self, event: &InotifyEvent) -> bool {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            return true;
        }
        match (&event.name, self.names.get(&event.wd)) {
            (Some(name), Some(names)) => is_meant(names, name),
            // The directory itself.
            (None, Some(_)) => true,
            (_, None) => false,
        }
    }
}

fn is_meant(names: &HashSet<OsString>, name: &OsStr) -> bool {
    names.contains(name) || names.contains(OsStr::new(ANY)) && is_rule_file(Path::new(name))
}

/// In which directories something of which name would change what is at a place: itself, what a link at it leads to, and its
/// directory, which could be replaced, or be made together with those above it.
fn entries(place: &Path) -> Vec<(PathBuf, OsString)> {
    let real = std::fs::canonicalize(place).ok();
    let mut entries = Vec::new();
    for path in [Some(place.to_owned()), real].into_iter().flatten() {
        for (depth, it) in path.ancestors().enumerate() {
            let (Some(directory), Some(name)) = (it.parent(), it.file_name()) else {
                break;
            };
            entries.push((directory.to_owned(), name.to_owned()));
            if depth > 0 && directory.is_dir() {
                break;
            }
        }
    }
    entries.sort();
    entries.dedup();
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const SOON: Duration = Duration::from_secs(10);

    /// Whether `act` on a directory is heard of by who watches `place` in it.
    async fn is_heard(place: &str, act: impl FnOnce(&Path)) -> bool {
        let top = tempfile::tempdir().unwrap();
        fs::write(top.path().join("rules.yaml"), "old").unwrap();
        fs::create_dir(top.path().join("rules.d")).unwrap();
        let place = top.path().join(place);
        let mut watch = FileWatch::of([place.as_path()]).unwrap();
        act(top.path());
        // What was to be heard is in the kernel's queue already: who waits for it waits no longer than until it is quiet.
        fs::write(top.path().join("unrelated"), "").unwrap();
        timeout(SOON.min(Duration::from_secs(1)), watch.changed())
            .await
            .is_ok()
    }

    #[tokio::test]
    async fn whatever_way_a_file_is_changed() {
        assert!(
            is_heard("rules.yaml", |top| fs::write(top.join("rules.yaml"), "new")
                .unwrap())
            .await
        );
        assert!(
            is_heard("rules.yaml", |top| {
                fs::write(top.join(".rules.yaml.new"), "new").unwrap();
                fs::rename(top.join(".rules.yaml.new"), top.join("rules.yaml")).unwrap();
            })
            .await
        );
        assert!(
            is_heard("rules.yaml", |top| fs::remove_file(top.join("rules.yaml"))
                .unwrap())
            .await
        );
        assert!(
            is_heard("rules.d/*", |top| fs::write(top.join("rules.d/a.yaml"), "")
                .unwrap())
            .await
        );
        assert!(
            is_heard("rules.d/*", |top| fs::remove_dir(top.join("rules.d"))
                .unwrap())
            .await
        );
        assert!(is_heard("new.d/*", |top| fs::create_dir(top.join("new.d")).unwrap()).await);
    }

    #[tokio::test]
    async fn nobody_is_woken_by_other_files() {
        assert!(
            !is_heard("rules.yaml", |top| fs::write(top.join("other"), "new")
                .unwrap())
            .await
        );
        assert!(
            !is_heard("rules.d/*", |top| fs::write(top.join("rules.d/.a.swp"), "")
                .unwrap())
            .await
        );
    }
}
