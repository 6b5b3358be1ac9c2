//! Whose flow a test asks about: `app:`, `user:` and `group:` of an entry of `tests:`.

use std::path::PathBuf;

use smol_str::SmolStr;

use crate::application::{self, Ancestors, Application, Facts, Learned, NONE};
use crate::diagnostics::{Fault, Place};
use crate::hex;
use crate::user::{Account, AccountName, Group, User};
use crate::written::{At, WrittenApplication};

/// Reads `app:`. What is not said is not known.
pub(crate) fn read(written: &WrittenApplication) -> Result<Application, (Place, Fault)> {
    let path = &written.path;
    let application = application::parse(&path.value).map_err(|fault| (path.place, fault))?;
    let Application::Known(facts) = application else {
        return Ok(application);
    };
    let script = written.script.as_ref().map(|at| or_none(at, program));
    let unit = written.unit.as_ref().map(|at| or_none(at, unit));
    let parents = written.parent.as_deref().map(ancestors);
    let hash = written.sha256.as_ref();
    let hash = hash.map(|at| hex::sha256(&at.value).map_err(|fault| (at.place, fault)));
    Ok(Application::Known(Facts {
        script: learned(script)?,
        ancestors: learned(parents)?,
        cgroup: learned(unit)?,
        sha256: learned(hash)?,
        ..facts
    }))
}

/// Reads `user:` and `group:`. What is not said is not known.
pub(crate) fn user(
    name: Option<&At<SmolStr>>,
    groups: Option<&[At<SmolStr>]>,
) -> Result<Option<User>, (Place, Fault)> {
    if name.is_none() && groups.is_none() {
        return Ok(None);
    }
    let account = |at: &At<SmolStr>| Account::parse(&at.value).map_err(|fault| (at.place, fault));
    let (name, uid) = match name.map(account).transpose()? {
        None => (AccountName::NotKnown, None),
        Some(account) => account.into_name_or_id(),
    };
    let groups = groups.map(|groups| {
        let groups = groups.iter().map(|at| {
            let (name, gid) = account(at)?.into_name_or_id();
            Ok(Group { name, gid })
        });
        groups.collect()
    });
    Ok(Some(User {
        name,
        uid,
        groups: groups.transpose()?,
    }))
}

fn learned<T>(read: Option<Result<T, (Place, Fault)>>) -> Result<Learned<T>, (Place, Fault)> {
    match read {
        None => Ok(Learned::NotAsked),
        Some(read) => read.map(Learned::Is),
    }
}

fn or_none<T>(
    at: &At<SmolStr>,
    read: impl FnOnce(&str) -> Result<T, Fault>,
) -> Result<Option<T>, (Place, Fault)> {
    if at.value == NONE {
        return Ok(None);
    }
    read(&at.value).map(Some).map_err(|fault| (at.place, fault))
}

fn ancestors(list: &[At<SmolStr>]) -> Result<Ancestors, (Place, Fault)> {
    let mut binaries = Vec::new();
    for at in list {
        binaries.extend(or_none(at, program)?);
    }
    Ok(Ancestors {
        binaries,
        complete: true,
    })
}

fn program(text: &str) -> Result<PathBuf, Fault> {
    let hint = "write an absolute path, or `none`";
    application::absolute(text).ok_or_else(|| application::not_a_program(text).hint(hint))
}

/// A unit alone stands for the group that has it as its only component.
fn unit(text: &str) -> Result<String, Fault> {
    match (text.starts_with('/'), text.contains('/')) {
        (true, _) => Ok(text.to_owned()),
        (false, false) if !text.is_empty() => Ok(format!("/{text}")),
        (false, _) => Err(
            Fault::new(format!("{text:?} is no unit and no control group"))
                .hint("write a unit, the path of a control group, or `none`"),
        ),
    }
}
