//! What people and programs read: the only place that prints.
#![allow(
    clippy::print_stdout,
    reason = "this is the renderer of the command line"
)]

use std::fmt::Arguments;
use std::io::Write;

use serde::Serialize;

/// A line on standard output. A reader that went away ends nothing but the reading.
pub(crate) fn line(text: Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// A value as one line of JSON.
pub(crate) fn json(value: &impl Serialize) -> serde_json::Result<()> {
    let text = serde_json::to_string(value)?;
    line(format_args!("{text}"));
    Ok(())
}

/// A line on standard error that stops nothing.
pub(crate) fn warn(text: Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "adit: warning: {text}");
}

/// An error and its causes on standard error, causes that the error's own text tells already left out.
pub(crate) fn complain(error: &anyhow::Error) {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    let _ = writeln!(std::io::stderr(), "adit: {text}");
}

/// Columns as wide as their widest cell, two blanks between.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        cells.chain([header[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..header.len()).map(width).collect();
    let render = |cells: Vec<&str>| {
        let padded: Vec<_> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:<width$}"))
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    line(format_args!("{}", render(header.to_vec())));
    for row in rows {
        line(format_args!(
            "{}",
            render(row.iter().map(String::as_str).collect())
        ));
    }
}

/// Text from outside without what a terminal would obey.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|char| if char.is_control() { '\u{fffd}' } else { char })
        .collect()
}
