//! What is wrong in a file: message, place, caret, hint.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::ser::{Serialize, SerializeSeq, SerializeStruct, Serializer};

/// A place in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Which file, in the order in which they are read.
    pub(crate) file: u16,
    /// Line, from 1.
    pub(crate) line: u32,
    /// Column in characters, from 1.
    pub(crate) column: u32,
    /// How many characters the caret underlines; 0 is shown as 1.
    pub(crate) length: u32,
}

/// What is wrong with one value, before its place is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// What is wrong.
    pub(crate) message: String,
    /// What to write instead.
    pub(crate) hint: Option<String>,
}

impl Fault {
    /// A fault without a hint.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
        }
    }

    /// The same with a hint.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// In one line, for errors that have no place in a file.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is accepted, but may not do what its author thinks.
    Warning,
    /// Nothing is wrong; it is good to know.
    Note,
}

impl Severity {
    /// `error`, `warning` or `note`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub(crate) severity: Severity,
    pub(crate) file: PathBuf,
    pub(crate) place: Place,
    pub(crate) fault: Fault,
    /// The source line, made harmless for a terminal, and where the caret starts in it.
    pub(crate) excerpt: String,
    pub(crate) caret: usize,
    /// How wide it is, in a terminal's cells.
    pub(crate) width: usize,
}

impl Diagnostic {
    /// How bad it is.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// Line in the file, from 1.
    pub fn line(&self) -> usize {
        number(self.place.line)
    }

    /// Column in characters, from 1.
    pub fn column(&self) -> usize {
        number(self.place.column)
    }

    /// The file that is meant: a rule file, or one that it names.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// What is wrong, in one sentence.
    pub fn message(&self) -> &str {
        &self.fault.message
    }

    /// What to do about it, when that is known.
    pub fn hint(&self) -> Option<&str> {
        self.fault.hint.as_deref()
    }
}

impl Serialize for Diagnostic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Diagnostic", 6)?;
        object.serialize_field("severity", self.severity.as_str())?;
        object.serialize_field("file", &self.file.to_string_lossy())?;
        object.serialize_field("line", &self.place.line)?;
        object.serialize_field("column", &self.place.column)?;
        object.serialize_field("message", self.message())?;
        object.serialize_field("hint", &self.hint())?;
        object.end()
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { line, column, .. } = self.place;
        let gutter = " ".repeat(line.to_string().len());
        writeln!(f, "{}: {}", self.severity.as_str(), self.fault.message)?;
        writeln!(f, "{gutter}--> {}:{line}:{column}", self.file.display())?;
        writeln!(f, "{gutter} |")?;
        writeln!(f, "{line} | {}", self.excerpt)?;
        let carets = "^".repeat(self.width);
        write!(f, "{gutter} | {}{carets}", " ".repeat(self.caret))?;
        match &self.fault.hint {
            Some(hint) => write!(f, "\n{gutter} = hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// Errors, or warnings and notes, of rule files and those they name, in their order.
///
/// `Display` renders them for people, each with its source line and a caret; `Serialize` gives a list of
/// `{severity, file, line, column, message, hint}`, the warnings and notes beside errors at its end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnostics {
    pub(crate) found: Vec<Diagnostic>,
    pub(crate) more: usize,
    /// Warnings beside errors, for programs: a person mends the errors first.
    pub(crate) beside: Vec<Diagnostic>,
    pub(crate) more_beside: usize,
}

impl Diagnostics {
    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// How many there are beyond those that are kept, of the warnings beside errors too.
    pub fn more(&self) -> usize {
        self.more + self.more_beside
    }

    /// The findings, in the order of the file. At most 100 are kept.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.found.iter()
    }
}

impl Serialize for Diagnostics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let all = self.found.len() + self.beside.len();
        let mut list = serializer.serialize_seq(Some(all))?;
        for diagnostic in self.found.iter().chain(&self.beside) {
            list.serialize_element(diagnostic)?;
        }
        list.end()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.found.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            diagnostic.fmt(f)?;
        }
        match self.more {
            0 => Ok(()),
            more => write!(f, "\n\nand {more} more"),
        }
    }
}

impl std::error::Error for Diagnostics {}

pub(crate) fn number(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
