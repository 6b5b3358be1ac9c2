//! A note beside the control socket that says which helper a broker claimed from, so that `adit down` can
//! undo the claim of a broker that was killed.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    capture: PathBuf,
}

/// The note. It stays, also when the process is killed, until it is forgotten.
#[derive(Debug)]
pub struct SessionNote {
    file: PathBuf,
}

impl SessionNote {
    /// Leaves the note in the control socket's directory, which has been checked. A failure costs
    /// `adit down --capture` being needed after a crash, nothing else.
    pub fn write(control: &Path, capture: &Path) -> Self {
        let file = file_beside(control);
        let capture = capture.to_owned();
        let text = serde_json::to_vec(&Text { capture }).unwrap_or_default();
        if let Err(error) = std::fs::write(&file, text) {
            tracing::warn!("cannot write {}: {error}", file.display());
        }
        Self { file }
    }

    /// The one that a broker left, if there is one that can be read.
    pub fn read(control: &Path) -> Option<(Self, PathBuf)> {
        let file = file_beside(control);
        let text = std::fs::read(&file).ok()?;
        let text: Text = serde_json::from_slice(&text).ok()?;
        Some((Self { file }, text.capture))
    }

    /// What it says is over.
    pub fn forget(self) {
        // Someone may have removed it already.
        let _ = std::fs::remove_file(&self.file);
    }
}

fn file_beside(control: &Path) -> PathBuf {
    let mut name = control.as_os_str().to_owned();
    name.push(".session");
    PathBuf::from(name)
}
