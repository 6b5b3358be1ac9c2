//! The programs that change the kernel for us: absolute paths, an environment of our own, bounded in time.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

/// The system's own directories; a PATH that someone else set is not asked.
const DIRECTORIES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
const DEADLINE: Duration = Duration::from_secs(30);

/// A program that could not be run, or said no.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error("{0} is not installed")]
    NotInstalled(&'static str),
    #[error("cannot run {}: {source}", program.display())]
    Run { program: PathBuf, source: io::Error },
    #[error("{} did not finish within {} s", .0.display(), DEADLINE.as_secs())]
    TooSlow(PathBuf),
    #[error("{} said: {text}", program.display())]
    Failed { program: PathBuf, text: String },
    #[error("{} wrote something that is not text", .0.display())]
    NotText(PathBuf),
}

/// A program of the system.
#[derive(Debug, Clone)]
pub(crate) struct Tool(PathBuf);

impl Tool {
    pub(crate) fn find(name: &'static str) -> Result<Tool, CommandError> {
        DIRECTORIES
            .iter()
            .map(|directory| Path::new(directory).join(name))
            .find(|path| path.is_file())
            .map(Tool)
            .ok_or(CommandError::NotInstalled(name))
    }

    /// One that is not there.
    #[cfg(test)]
    pub(crate) fn absent() -> Tool {
        Tool(PathBuf::from("/nonexistent"))
    }

    /// What it writes, given these words and this input.
    pub(crate) async fn run(&self, words: &[&str], input: &str) -> Result<String, CommandError> {
        let Tool(program) = self;
        let failed = |source| CommandError::Run {
            program: program.clone(),
            source,
        };
        let mut child = Command::new(program)
            .args(words)
            .env_clear()
            .env("PATH", DIRECTORIES.join(":"))
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let mut stdin = child.stdin.take();
        let feed = async {
            if let Some(mut stdin) = stdin.take() {
                // It may stop reading at the first error; its own words say more than a broken pipe.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
        };
        let both = async { tokio::join!(feed, child.wait_with_output()).1 };
        let output = timeout(DEADLINE, both)
            .await
            .map_err(|_late| CommandError::TooSlow(program.clone()))?
            .map_err(failed)?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(CommandError::Failed {
                program: program.clone(),
                text,
            });
        }
        String::from_utf8(output.stdout).map_err(|_bytes| CommandError::NotText(program.clone()))
    }
}
