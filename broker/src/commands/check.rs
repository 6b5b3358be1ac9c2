//! `adit check`.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use adit_broker::reload::ReadRules;
use adit_broker::rule_sources::{HostFiles, RuleSources, RulesError, Seen, SourceError, alone};
use adit_broker::today::today;
use adit_broker::user::User;
use adit_rules::{Checked, Date, Diagnostics, Policy};
use anyhow::{Context, anyhow};

use super::Failure;
use crate::command_line::Check;
use crate::output;

/// Bytes of a pipe or device, which may have no end: one more than a rule file may have.
const MOST_READ: u64 = 16 * 1024 * 1024 + 1;

pub(crate) fn run(options: Check) -> Result<(), Failure> {
    if options.schema {
        output::json(&adit_rules::schema())?;
        return Ok(());
    }
    let name = match &options.file {
        Some(file) => file.display().to_string(),
        None => "rules".to_owned(),
    };
    let outcome = match (&options.file, &options.user_rules) {
        (Some(file), None) => check_alone(file)?,
        (named, users) => {
            let sources = RuleSources::new(named.clone(), users.clone(), &User::current()?);
            match sources.read(day()?).outcome {
                Ok(checked) => Ok(checked),
                Err(RulesError::Wrong(errors)) => Err(errors),
                Err(RulesError::Sources(error)) => return Err(Failure::usage(error)),
            }
        }
    };
    let (diagnostics, good) = match outcome {
        Ok(checked) => (checked.warnings, true),
        Err(errors) => (errors, false),
    };
    if options.form.json {
        let more = diagnostics.more();
        output::json(&serde_json::json!({ "ok": good, "diagnostics": diagnostics, "more": more }))?;
    } else if !diagnostics.is_empty() {
        output::line(format_args!("{diagnostics}"));
    }
    if !good {
        return Err(Failure::usage(anyhow!("{name} has errors")));
    }
    if !options.form.json {
        output::line(format_args!("{name}: ok"));
    }
    Ok(())
}

/// Reads and compiles the rules for the user who runs this; bad ones are exit code 2. Also tells which files were read.
pub(crate) fn read_rules(sources: &RuleSources) -> Result<(ReadRules, Vec<Seen>), Failure> {
    let reading = sources.read(day()?);
    let Checked { policy, warnings } = reading.outcome.map_err(Failure::usage)?;
    let user = User::current()?.of_rules()?;
    let read = ReadRules {
        policy: policy.for_user(user),
        warnings,
        files: reading.files,
    };
    Ok((read, reading.seen))
}

/// What is named on the command line stays what it is, wherever the broker goes.
pub(crate) fn absolute(path: Option<PathBuf>) -> anyhow::Result<Option<PathBuf>> {
    let path = path.map(|path| std::path::absolute(&path));
    path.transpose().context("the path of the rules")
}

/// One file or directory, as if there were no other. A file may be a pipe.
fn check_alone(file: &Path) -> Result<Result<Checked, Diagnostics>, Failure> {
    let mut files = HostFiles::default();
    if file.is_dir() || file.is_file() {
        let layers = alone(file).map_err(Failure::usage)?;
        return Ok(Policy::read(&layers, day()?, &mut files));
    }
    let mut text = String::new();
    let open = File::open(file);
    let read = open.and_then(|open| open.take(MOST_READ).read_to_string(&mut text));
    read.map_err(|source| {
        Failure::usage(SourceError::Look {
            path: file.to_owned(),
            source,
        })
    })?;
    Ok(Policy::parse(file, &text, day()?, &mut files))
}

fn day() -> anyhow::Result<Date> {
    today().context("the clock shows no day that a rule can expire on")
}
