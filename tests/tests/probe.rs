//! What the README says that connect() tells through Adit is what `make probe` finds.

use std::process::Command;

use anyhow::{Context, Result, ensure};

const README: &str = include_str!("../../README.md");

/// The cells of a row, without times.
fn row<'a>(table: &'a str, name: &str) -> Result<Vec<&'a str>> {
    let rows = table.lines().filter_map(|line| line.strip_prefix("| "));
    let mut rows = rows.map(|row| row.trim_end_matches(" |").split(" | "));
    let found = rows.find_map(|mut cells| (cells.next() == Some(name)).then_some(cells));
    let cells = found.with_context(|| format!("no row of {name} in {table}"))?;
    Ok(cells
        .map(|cell| cell.split_once(" (").map_or(cell, |(words, _)| words))
        .collect())
}

#[test]
fn the_readme_tells_what_connect_tells() -> Result<()> {
    let ended = Command::new(env!("CARGO_BIN_EXE_adit-probe"))
        .args(["--only", "direct,adit,adit-early"])
        // It has rules for both orders, whichever the tests run in.
        .env_remove("ADIT_TEST_CONNECT")
        .output()?;
    let said = String::from_utf8_lossy(&ended.stderr);
    ensure!(ended.status.success(), "{}: {said}", ended.status);
    let found = String::from_utf8(ended.stdout)?;
    for name in [
        "connect() through",
        "nothing: direct",
        "Adit",
        "Adit with `connect: early`",
    ] {
        let (told, found) = (row(README, name)?, row(&found, name)?);
        ensure!(
            told == found,
            "{name}: the README has {told:?}, the probe {found:?}"
        );
        ensure!(told.len() == 5, "{told:?}");
    }
    Ok(())
}
