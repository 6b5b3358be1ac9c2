//! `adit check FILE`.

use std::path::Path;

use adit_rules::{Checked, Policy};
use anyhow::anyhow;

use super::Failure;
use crate::command_line::Check;
use crate::output;

pub(crate) fn run(options: Check) -> Result<(), Failure> {
    let text = read(&options.file)?;
    let (diagnostics, good) = match Policy::parse(&options.file, &text) {
        Ok(checked) => (checked.warnings, true),
        Err(errors) => (errors, false),
    };
    if options.form.json {
        output::json(&serde_json::json!({ "ok": good, "diagnostics": diagnostics }))?;
    } else if !diagnostics.is_empty() {
        output::line(format_args!("{diagnostics}"));
    }
    if !good {
        return Err(Failure::usage(anyhow!(
            "{} has errors",
            options.file.display()
        )));
    }
    if !options.form.json {
        output::line(format_args!("{}: ok", options.file.display()));
    }
    Ok(())
}

/// Reads and compiles a rule file; a bad one is exit code 2.
pub(crate) fn read_rules(file: &Path) -> Result<Checked, Failure> {
    let text = read(file)?;
    Policy::parse(file, &text).map_err(|errors| Failure::usage(anyhow!("{errors}")))
}

fn read(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|error| {
        Failure::usage(anyhow::Error::new(error).context(format!("cannot read {}", file.display())))
    })
}
