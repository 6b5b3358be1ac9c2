//! `adit reload`.

use adit_broker::control::protocol::{Answer, Request};
use adit_broker::control::reload::{ChangedFlow, Outcome, Reloaded};
use anyhow::anyhow;

use super::{Failure, ask_broker};
use crate::command_line::Reload;
use crate::output;

pub(crate) fn run(options: Reload) -> Result<(), Failure> {
    let request = Request::Reload {
        dry_run: options.dry_run,
    };
    match ask_broker(&options.whose, &request)? {
        Answer::Reloaded(told) if options.form.json => output::json(&told)?,
        Answer::Reloaded(told) => show(&told),
        Answer::BadRules(bad) => {
            if options.form.json {
                output::json(&bad)?;
            }
            let error = anyhow!("{}\nthe rules stay as they are", bad.text);
            return Err(Failure::usage(error));
        }
        Answer::Status(_)
        | Answer::Flows(_)
        | Answer::Done
        | Answer::Why(_)
        | Answer::Explained(_)
        | Answer::Form(_)
        | Answer::Error(_) => {
            return Err(anyhow!("the broker's answer makes no sense").into());
        }
    }
    Ok(())
}

fn show(told: &Reloaded) {
    if !told.text.is_empty() {
        output::line(format_args!("{}\n", told.text));
    }
    let zones = [
        ("new", &told.zones.added),
        ("gone", &told.zones.removed),
        ("changed", &told.zones.changed),
    ];
    for (what, names) in zones {
        for name in names {
            output::line(format_args!("zone {name}: {what}"));
        }
    }
    let rows: Vec<_> = told.changed.iter().map(row).collect();
    if !rows.is_empty() {
        output::table(
            &["ID", "APPLICATION", "DESTINATION", "HAD", "GETS", ""],
            &rows,
        );
    }
    let (kept, changed) = (told.kept, told.changed.len());
    let flows = match told.dry_run {
        true => format!("{kept} flows would go on, {changed} would not; nothing was changed"),
        false => format!("{kept} flows go on, {changed} do not"),
    };
    output::line(format_args!("{flows}"));
}

fn row(flow: &ChangedFlow) -> Vec<String> {
    let application = flow.application.as_deref().unwrap_or("unknown");
    let outcome = match flow.outcome {
        Outcome::Closed => "closed",
        Outcome::JudgedAgain => "judged again",
    };
    vec![
        flow.id.to_string(),
        output::printable(application),
        flow.destination.to_string(),
        output::printable(&flow.from.to_string()),
        output::printable(&flow.to.to_string()),
        outcome.to_owned(),
    ]
}
