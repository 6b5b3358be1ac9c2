//! `adit explain`: which rule a connection would match, and why.

use adit_broker::control::protocol::{Answer, Request};
use adit_rules::{Application, Destination};
use anyhow::anyhow;

use super::{Failure, ask_broker, check::read_rules};
use crate::command_line::Explain;
use crate::output;

pub(crate) fn run(options: Explain) -> Result<(), Failure> {
    let destination =
        Destination::parse(&options.to).map_err(|why| Failure::usage(anyhow!(why)))?;
    let application = match options.app.as_str() {
        "unknown" => Application::Unknown,
        path => Application::of(path),
    };
    let file = match options.rules {
        Some(file) => file,
        None => match ask_broker(&options.whose, &Request::Status {})? {
            Answer::Status(status) => status
                .rules
                .ok_or_else(|| anyhow!("the running broker has no rule file"))?,
            Answer::Flows(_) | Answer::Done | Answer::Error(_) => {
                return Err(anyhow!("the broker's answer makes no sense").into());
            }
        },
    };
    let checked = read_rules(&file)?;
    let explanation = checked.policy.explain(&destination, &application);
    if options.form.json {
        output::json(&explanation)?;
    } else {
        output::line(format_args!("{explanation}"));
    }
    Ok(())
}
