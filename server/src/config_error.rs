//! What is wrong with the gateway's file, where, and what to do about it.
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_saphyr::Location;

/// Longest part of a line that is shown, in characters.
const SHOWN: usize = 120;

/// The file cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// Something in it is wrong.
    #[error("{0}")]
    Content(Complaint),
}

/// What is wrong with a file's content. `Display` is `FILE:LINE:COLUMN: words`, the line with a
/// caret, and the hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    file: PathBuf,
    place: Option<Place>,
    words: String,
    hint: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    line: u64,
    column: u64,
    shown: String,
}

impl ConfigError {
    /// About one place.
    pub(crate) fn at(
        file: &Path,
        text: &str,
        at: &Location,
        words: impl Into<String>,
        hint: Option<&str>,
    ) -> Self {
        let place = (at.line() > 0).then(|| Place {
            line: at.line(),
            column: at.column(),
            shown: line_of(text, at.line()),
        });
        let (file, words, hint) = (file.to_owned(), words.into(), hint.map(str::to_owned));
        Self::Content(Complaint {
            file,
            place,
            words,
            hint,
        })
    }

    /// About no place in particular.
    pub(crate) fn whole(file: &Path, words: impl Into<String>, hint: Option<&str>) -> Self {
        let (file, words, hint) = (file.to_owned(), words.into(), hint.map(str::to_owned));
        Self::Content(Complaint {
            file,
            place: None,
            words,
            hint,
        })
    }

    /// What the YAML parser says.
    pub(crate) fn yaml(file: &Path, text: &str, error: &serde_saphyr::Error) -> Self {
        let words = error.without_snippet().to_string();
        // The parser repeats the place in its words.
        let words = words
            .split(" at line ")
            .next()
            .unwrap_or_default()
            .to_owned();
        let hint = hint_of(&words);
        match error.location() {
            Some(at) => Self::at(file, text, &at, words, hint),
            None => Self::whole(file, words, hint),
        }
    }
}

/// What to write instead, for what the parser says in words of its own.
fn hint_of(words: &str) -> Option<&'static str> {
    let hints = [
        ("expected sequence start", "a list is wanted: [ONE, OTHER]"),
        ("expected mapping start", "keys are wanted: {KEY: VALUE}"),
        ("invalid u", "a whole number is wanted, without a unit"),
    ];
    let mut hints = hints.into_iter();
    hints.find_map(|(begins, hint)| words.starts_with(begins).then_some(hint))
}

fn line_of(text: &str, line: u64) -> String {
    let index = usize::try_from(line.saturating_sub(1)).unwrap_or(usize::MAX);
    let line = text.lines().nth(index).unwrap_or_default();
    line.chars()
        .take(SHOWN)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(place) = &self.place {
            write!(f, ":{}:{}", place.line, place.column)?;
        }
        write!(f, ": {}", self.words)?;
        if let Some(place) = &self.place {
            let before = usize::try_from(place.column.saturating_sub(1))
                .unwrap_or(0)
                .min(SHOWN);
            write!(f, "\n  {}\n  {}^", place.shown, " ".repeat(before))?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}
