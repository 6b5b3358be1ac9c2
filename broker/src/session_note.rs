//! A note beside the control socket that says which helper a broker claimed from, so that `adit down` can
//! undo the claim of a broker that was killed.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    capture: PathBuf,
}

/// The note; its file goes when this is dropped, and stays when the process is killed.
#[derive(Debug)]
pub struct SessionNote {
    file: PathBuf,
}

impl Drop for SessionNote {
    fn drop(&mut self) {
        // Someone may have removed it already.
        let _ = std::fs::remove_file(&self.file);
    }
}

impl SessionNote {
    /// Leaves the note. A failure costs `adit down --capture` being needed after a crash, nothing else.
    pub fn write(control: &Path, capture: &Path) -> Option<Self> {
        let file = file_beside(control);
        let text = serde_json::to_vec(&Text {
            capture: capture.to_owned(),
        })
        .ok()?;
        match std::fs::write(&file, text) {
            Ok(()) => Some(Self { file }),
            Err(error) => {
                tracing::warn!("cannot write {}: {error}", file.display());
                None
            }
        }
    }

    /// The helper's socket that a killed broker noted.
    pub fn read(control: &Path) -> Option<PathBuf> {
        let text = std::fs::read(file_beside(control)).ok()?;
        serde_json::from_slice::<Text>(&text)
            .ok()
            .map(|text| text.capture)
    }

    /// Forgets the note of a broker that is gone.
    pub fn forget(control: &Path) {
        let _ = std::fs::remove_file(file_beside(control));
    }
}

fn file_beside(control: &Path) -> PathBuf {
    let mut name = control.as_os_str().to_owned();
    name.push(".session");
    PathBuf::from(name)
}
