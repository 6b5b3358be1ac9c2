//! The thread that writes the log, and the queue before it: a flow puts its record there and goes on.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::LINE_BYTES;
use super::files::{Bounds, Current, FileError};
use super::record::Record;

/// Records that wait; one more is dropped and counted.
const QUEUE: usize = 8192;
/// How long records are gathered: the writer wakes up so often at the most.
const GATHERING: Duration = Duration::from_millis(100);
/// How soon a log that could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(10);
/// How long the end waits for the last records.
const FAREWELL: Duration = Duration::from_secs(1);

/// How the log stands, as `adit status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Where it is.
    pub directory: PathBuf,
    /// Decisions written since the broker was started.
    pub recorded: u64,
    /// Decisions that were not.
    pub dropped: u64,
    /// Why it can't be written now.
    pub reason: Option<String>,
}

/// Takes records and never waits. Dropped, it writes what is there.
#[derive(Debug)]
pub struct DecisionLog {
    shared: Arc<Shared>,
    directory: PathBuf,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Record>,
    recorded: u64,
    dropped: u64,
    reason: Option<String>,
    ending: bool,
    ended: bool,
}

impl DecisionLog {
    /// Starts the writer in `directory`, which is made when the first record comes.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(directory: PathBuf) -> std::io::Result<Self> {
        Self::start_bounded(directory, Bounds::default())
    }

    fn start_bounded(directory: PathBuf, bounds: Bounds) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let thread = std::thread::Builder::new().name("decisions".to_owned());
        thread.spawn({
            let (shared, directory) = (shared.clone(), directory.clone());
            move || {
                write_all(&shared, &directory, bounds);
                shared.state().ended = true;
                shared.changed.notify_all();
            }
        })?;
        Ok(Self { shared, directory })
    }

    /// Puts a record into the queue, or counts it as dropped.
    pub fn record(&self, record: Record) {
        let mut state = self.shared.state();
        if state.waiting.len() >= QUEUE {
            state.dropped += 1;
            return;
        }
        state.waiting.push(record);
        let is_first = state.waiting.len() == 1;
        drop(state);
        if is_first {
            self.shared.changed.notify_all();
        }
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        let state = self.shared.state();
        Standing {
            directory: self.directory.clone(),
            recorded: state.recorded,
            dropped: state.dropped,
            reason: state.reason.clone(),
        }
    }
}

impl Drop for DecisionLog {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.ending = true;
        self.shared.changed.notify_all();
        // A disk that hangs does not keep the broker from ending.
        let ended = self
            .shared
            .changed
            .wait_timeout_while(state, FAREWELL, |state| !state.ended);
        let (state, _) = ended.unwrap_or_else(PoisonError::into_inner);
        if !state.ended {
            tracing::warn!("the last decisions could not be written in time");
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next records, and whether they are the last.
    fn next(&self) -> (Vec<Record>, bool) {
        let state = self.state();
        let idle = |state: &mut State| state.waiting.is_empty() && !state.ending;
        let state = self.changed.wait_while(state, idle);
        let state = state.unwrap_or_else(PoisonError::into_inner);
        // More of them are cheaper together. Who ends does not wait for more.
        let gathering = self
            .changed
            .wait_timeout_while(state, GATHERING, |state| !state.ending);
        let (mut state, _) = gathering.unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut state.waiting), state.ending)
    }
}

fn write_all(shared: &Shared, directory: &Path, bounds: Bounds) {
    let mut writer = Writer {
        current: None,
        tried: None,
    };
    loop {
        let (records, is_last) = shared.next();
        let lines: Vec<Vec<u8>> = records.iter().filter_map(line).collect();
        let outcome = writer.write(&lines, directory, bounds);
        let mut state = shared.state();
        let written = match outcome {
            Some(Ok(())) => lines.len(),
            Some(Err(_)) | None => 0,
        };
        state.recorded += written as u64;
        state.dropped += (records.len() - written) as u64;
        match outcome {
            Some(Ok(())) => state.reason = None,
            Some(Err(error)) => {
                if state.reason.is_none() {
                    tracing::warn!("decisions are not recorded: {error}");
                }
                state.reason = Some(error.to_string());
            }
            None => {}
        }
        if is_last {
            return;
        }
    }
}

struct Writer {
    current: Option<Current>,
    /// When opening it failed.
    tried: Option<Instant>,
}

impl Writer {
    /// `None`: it was not tried, as it has just failed.
    fn write(
        &mut self,
        lines: &[Vec<u8>],
        directory: &Path,
        bounds: Bounds,
    ) -> Option<Result<(), FileError>> {
        if lines.is_empty() || self.tried.is_some_and(|tried| tried.elapsed() < AGAIN) {
            return None;
        }
        let written = match &mut self.current {
            Some(current) => current.write(lines.iter().map(Vec::as_slice)),
            None => Current::open(directory, bounds).and_then(|mut current| {
                current.write(lines.iter().map(Vec::as_slice))?;
                self.current = Some(current);
                Ok(())
            }),
        };
        self.tried = written.is_err().then(Instant::now);
        if written.is_err() {
            self.current = None;
        }
        Some(written)
    }
}

fn line(record: &Record) -> Option<Vec<u8>> {
    let mut line = serde_json::to_vec(record).ok()?;
    line.push(b'\n');
    (line.len() <= LINE_BYTES).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::super::files::read;
    use super::*;
    use crate::flow_table::{Action, State as FlowState};

    fn record(flow: u64) -> Record {
        Record {
            time: jiff::Timestamp::UNIX_EPOCH,
            flow,
            address: Some([192, 0, 2, 1].into()),
            name: None,
            port: 443,
            tunnel: None,
            application: None,
            user: "eve".to_owned(),
            uid: 1000,
            rule: "r".to_owned(),
            action: Action::Pass,
            zone: None,
            state: FlowState::Direct,
            stage: None,
        }
    }

    #[test]
    fn what_was_recorded_is_there_when_it_has_ended() {
        let top = tempfile::tempdir().unwrap();
        let directory = top.path().join("state/decisions");
        let log = DecisionLog::start(directory.clone()).unwrap();
        for flow in 0..1000 {
            log.record(record(flow));
        }
        drop(log);
        let flows: Vec<u64> = read(&directory)
            .unwrap()
            .records
            .iter()
            .map(|record| record.flow)
            .collect();
        assert_eq!(flows, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn what_finds_no_room_or_no_place_is_counted() {
        let top = tempfile::tempdir().unwrap();
        let file = top.path().join("file");
        std::fs::write(&file, "").unwrap();
        let log = DecisionLog::start(file.join("below")).unwrap();
        let more = QUEUE as u64 * 3;
        for flow in 0..more {
            log.record(record(flow));
        }
        let shared = log.shared.clone();
        drop(log);
        let state = shared.state();
        assert_eq!((state.recorded, state.dropped), (0, more));
        assert!(state.reason.is_some());
    }
}
