//! Reading a rule file on a certain day, with certain files beside it.

use std::path::Path;

use adit_rules::{Checked, Date, Diagnostics, Policy};

/// Reads `text` on the first of July 2026; `beside` are the files that it may name, and what is in them.
pub(crate) fn parse_file(
    file: &Path,
    text: &str,
    beside: &[(&str, &str)],
) -> Result<Checked, Diagnostics> {
    let today = Date::new(2026, 7, 1).expect("there is such a day");
    parse_on(today, file, text, beside)
}

/// The same on another day.
#[allow(dead_code, reason = "not every test file reads on other days")]
pub(crate) fn parse_on(
    today: Date,
    file: &Path,
    text: &str,
    beside: &[(&str, &str)],
) -> Result<Checked, Diagnostics> {
    let mut files = |path: &Path, _: usize| {
        let found = beside.iter().find(|(name, _)| Path::new(name) == path);
        let found = found.ok_or_else(|| "there is no such file".to_owned())?;
        Ok(found.1.to_owned())
    };
    Policy::parse(file, text, today, &mut files)
}

/// The policy of a text that is right.
#[allow(dead_code, reason = "not every test file judges")]
pub(crate) fn policy(text: &str) -> Policy {
    parse_file(Path::new("/etc/adit/rules.yaml"), text, &[])
        .unwrap_or_else(|errors| panic!("{errors}"))
        .policy
}
