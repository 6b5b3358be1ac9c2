//! The processes from which one descends.

use std::path::PathBuf;

use super::process::Handle;
use super::status::Status;

/// Longer chains are not followed to their end.
const MOST: usize = 64;

/// The processes from which one descends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ancestors {
    /// The paths of their binaries as far as they are known, the parent's first.
    pub binaries: Vec<PathBuf>,
    /// Whether these are all: the ones of the same user, up to the first of another one.
    pub complete: bool,
}

/// The process from which one descends, if there is one that we can see.
pub(super) enum Parent {
    /// This one, with its status.
    Is(Handle, Status),
    /// There is none: the first process of all.
    Nobody,
    /// It is not in our process namespace, or ends just now.
    Unknown,
}

pub(super) fn of(process: &Handle) -> Ancestors {
    let mut found = Ancestors {
        binaries: Vec::new(),
        complete: true,
    };
    let Some(mut status) = process.status() else {
        found.complete = false;
        return found;
    };
    let uid = status.uid;
    let mut last: Option<Handle> = None;
    for _ in 0..MOST {
        match parent(last.as_ref().unwrap_or(process), &status) {
            Parent::Is(handle, of_parent) => {
                found.complete &= !status.is_adopted_by(&of_parent);
                if of_parent.uid != uid {
                    return found;
                }
                match handle.binary() {
                    Some(binary) => found.binaries.push(binary.path),
                    None => found.complete = false,
                }
                (last, status) = (Some(handle), of_parent);
            }
            Parent::Nobody => return found,
            Parent::Unknown => break,
        }
    }
    found.complete = false;
    found
}

/// The parent of a process whose status was just read.
///
/// A process that ends leaves its children to another before its number is free. So whoever is still the parent after its
/// directory was opened was it all the time, and the directory is its own.
pub(super) fn parent(process: &Handle, status: &Status) -> Parent {
    match status.parent {
        0 if status.process == 1 => return Parent::Nobody,
        0 => return Parent::Unknown,
        _ => {}
    }
    let opened = Handle::open(status.parent).and_then(|handle| {
        let of_parent = handle.status()?;
        let still = process.status()?.parent == status.parent;
        still.then_some(Parent::Is(handle, of_parent))
    });
    opened.unwrap_or(Parent::Unknown)
}
