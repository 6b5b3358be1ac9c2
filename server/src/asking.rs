//! Asks a gateway over its control socket and prints what it says.
#![allow(
    clippy::print_stdout,
    reason = "this is the renderer of the command line"
)]

use std::io::Write;
use std::path::Path;

use adit_server::control::client::{AskError, ask};
use adit_server::control::protocol::{Answer, FlowView, Reloaded, Request, SessionView};
use jiff::Timestamp;

pub(crate) fn run(socket: &Path, request: &Request, json: bool) -> Result<(), AskError> {
    let answer = ask(socket, request)?;
    let text = match (&answer, json) {
        (Answer::Done | Answer::Error(_), _) => return Ok(()),
        (Answer::Sessions(_) | Answer::Reloaded(_), true) => {
            serde_json::to_string(&answer).map_err(AskError::Nonsense)?
        }
        (Answer::Sessions(sessions), false) => table(sessions),
        (Answer::Reloaded(reloaded), false) => summary(reloaded),
    };
    // A reader that went away ends nothing but the reading.
    let _ = writeln!(std::io::stdout(), "{text}");
    Ok(())
}

fn summary(reloaded: &Reloaded) -> String {
    let Reloaded {
        closed,
        at_next_start,
    } = reloaded;
    let mut text = format!(
        "read again; closed: {} sessions, {} flows of others",
        closed.sessions, closed.flows
    );
    if !at_next_start.is_empty() {
        let keys = at_next_start.join(", ");
        text += &format!("\nchanged, but takes effect at the next start: {keys}");
    }
    text
}

/// A line for each session, with its flows below.
fn table(sessions: &[SessionView]) -> String {
    let mut lines = vec![
        [
            "ID", "USER", "FROM", "SINCE", "FLOWS", "SENT", "RECEIVED", "BY",
        ]
        .map(str::to_owned),
    ];
    lines.extend(sessions.iter().map(row));
    let width = |column: usize| {
        let cells = lines.iter().map(|line| line[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: [usize; 8] = std::array::from_fn(width);
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        let cells = line.iter().zip(widths);
        let padded: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text += padded.join("  ").trim_end();
        text += "\n";
        let flows = index.checked_sub(1).and_then(|index| sessions.get(index));
        for flow in flows.iter().flat_map(|session| &session.flows) {
            text += &flow_line(flow);
        }
    }
    text.truncate(text.trim_end().len());
    text
}

fn row(session: &SessionView) -> [String; 8] {
    let by = match &session.certificate {
        Some(certificate) => printable(certificate),
        None if session.key == "-" => printable(&session.proof),
        None => session.key.clone(),
    };
    let age = Timestamp::now().duration_since(session.since).as_secs();
    [
        session.id.to_string(),
        session.user.clone(),
        session.from.clone(),
        format!("{age}s"),
        session.flows.len().to_string(),
        session.sent.to_string(),
        session.received.to_string(),
        by,
    ]
}

fn flow_line(flow: &FlowView) -> String {
    let FlowView {
        asked,
        dialled,
        entry,
        sent,
        received,
        age_ms,
        ..
    } = flow;
    let to = match asked == dialled {
        true => asked.clone(),
        false => format!("{asked} ({dialled})"),
    };
    let application = printable(&flow.application);
    let entry = printable(entry);
    let seconds = age_ms / 1000;
    format!(
        "    {application} -> {to}  by {entry:?}  {seconds}s  sent {sent}  received {received}\n"
    )
}

/// What others chose cannot speak to the terminal.
fn printable(text: &str) -> String {
    let safe = |character: char| match character.is_control() {
        true => '\u{fffd}',
        false => character,
    };
    text.chars().map(safe).collect()
}
