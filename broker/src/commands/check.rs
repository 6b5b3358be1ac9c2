//! `adit check`.

use std::fs::File;
use std::path::{Path, PathBuf};

use adit_broker::reload::ReadRules;
use adit_broker::rule_sources::{
    HostFiles, RuleSources, RulesError, Seen, SourceError, all_text, alone,
};
use adit_broker::today::today;
use adit_broker::user::User;
use adit_rules::{Checked, Date, Policy};
use anyhow::{Context, anyhow};

use super::Failure;
use crate::command_line::Check;
use crate::output;

/// Bytes of a pipe or device, which may have no end: as many as a rule file may have.
const MOST_READ: usize = 16 * 1024 * 1024;

pub(crate) fn run(options: Check) -> Result<(), Failure> {
    if options.schema {
        output::json(&adit_rules::schema())?;
        return Ok(());
    }
    let name = match &options.file {
        Some(file) => file.display().to_string(),
        None => "rules".to_owned(),
    };
    let (diagnostics, good) = match outcome(&options)? {
        Ok(checked) => (checked.warnings, true),
        Err(RulesError::Wrong(errors)) => (errors, false),
        Err(RulesError::Sources(error)) => {
            if options.form.json {
                output::json(&unread(&name, &error))?;
            }
            return Err(Failure::usage(error));
        }
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

fn outcome(options: &Check) -> Result<Result<Checked, RulesError>, Failure> {
    if let (Some(file), None) = (&options.file, &options.user_rules) {
        return Ok(check_alone(file, day()?));
    }
    let (named, users) = (options.file.clone(), options.user_rules.clone());
    let sources = RuleSources::new(named, users, &User::current()?);
    Ok(sources.read(day()?).outcome)
}

/// As of rules with errors, when there are none to say something of.
fn unread(name: &str, error: &SourceError) -> serde_json::Value {
    let diagnostic = serde_json::json!({
        "severity": "error", "file": name, "line": null, "column": null, "message": error.to_string(), "hint": null
    });
    serde_json::json!({ "ok": false, "diagnostics": [diagnostic], "more": 0 })
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
fn check_alone(file: &Path, today: Date) -> Result<Checked, RulesError> {
    let mut files = HostFiles::default();
    if file.is_dir() || file.is_file() {
        let layers = alone(file)?;
        return Policy::read(&layers, today, &mut files).map_err(RulesError::Wrong);
    }
    let path = || file.to_owned();
    let open = File::open(file).map_err(|source| SourceError::Look {
        path: path(),
        source,
    })?;
    let text = all_text(open, MOST_READ);
    let text = text.map_err(|why| SourceError::Text { path: path(), why })?;
    Policy::parse(file, &text, today, &mut files).map_err(RulesError::Wrong)
}

fn day() -> anyhow::Result<Date> {
    today().context("the clock shows no day that a rule can expire on")
}
