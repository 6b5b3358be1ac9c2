//! `adit check FILE`.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use adit_broker::user::User;
use adit_rules::{Checked, Date, Diagnostics, Policy};
use anyhow::{Context, anyhow};

use super::Failure;
use crate::command_line::Check;
use crate::output;

pub(crate) fn run(options: Check) -> Result<(), Failure> {
    let Some(file) = options.file else {
        output::json(&adit_rules::schema())?;
        return Ok(());
    };
    let text = read(&file)?;
    let (diagnostics, good) = match parse(&file, &text)? {
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
        return Err(Failure::usage(anyhow!("{} has errors", file.display())));
    }
    if !options.form.json {
        output::line(format_args!("{}: ok", file.display()));
    }
    Ok(())
}

/// Reads and compiles a rule file for the user who runs this; a bad one is exit code 2.
pub(crate) fn read_rules(file: &Path) -> Result<Checked, Failure> {
    let text = read(file)?;
    let checked = parse(file, &text)?.map_err(|errors| Failure::usage(anyhow!("{errors}")))?;
    let user = User::current()?.of_rules()?;
    Ok(Checked {
        policy: checked.policy.for_user(user),
        ..checked
    })
}

fn parse(file: &Path, text: &str) -> anyhow::Result<Result<Checked, Diagnostics>> {
    let today = jiff::Zoned::now().date();
    let number = |part: i8| u8::try_from(part).ok();
    let today = u16::try_from(today.year())
        .ok()
        .and_then(|year| Date::new(year, number(today.month())?, number(today.day())?));
    let today = today.context("the clock shows no day that a rule can expire on")?;
    Ok(Policy::parse(file, text, today, &mut beside))
}

/// A file that a rule file names.
fn beside(file: &Path, at_most: usize) -> Result<String, String> {
    // Opening a pipe would wait for whoever writes into it.
    if std::fs::metadata(file).is_ok_and(|found| !found.is_file()) {
        return Err("it is no regular file".to_owned());
    }
    let limit = u64::try_from(at_most).unwrap_or(u64::MAX);
    let mut text = String::new();
    let read = File::open(file).and_then(|open| {
        // One more shows that it is too large.
        open.take(limit.saturating_add(1)).read_to_string(&mut text)
    });
    match read {
        Ok(_) => Ok(text),
        Err(error) => Err(error.to_string()),
    }
}

fn read(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|error| {
        Failure::usage(anyhow::Error::new(error).context(format!("cannot read {}", file.display())))
    })
}
