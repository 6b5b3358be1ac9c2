//! `adit why`: why the last connection from this shell failed.

use adit_broker::control::protocol::{Answer, Request};
use adit_broker::why::{Shares, Why};
use anyhow::anyhow;

use super::{Failure, ask_broker, flows};
use crate::command_line;
use crate::output;

pub(crate) fn run(options: command_line::Why) -> Result<(), Failure> {
    let Answer::Why(why) = ask_broker(&options.whose, &Request::Why { id: options.id })? else {
        return Err(anyhow!("the broker's answer makes no sense").into());
    };
    if options.form.json {
        output::json(&why)?;
    } else {
        show(&why);
    }
    Ok(())
}

fn show(why: &Why) {
    let flow = &why.flow;
    let application = flow.application.as_deref().unwrap_or("unknown");
    output::line(format_args!(
        "flow     {}: {} to {}, {}",
        flow.id,
        output::printable(application),
        flow.destination,
        when(why)
    ));
    match &why.what {
        Some(what) => output::line(format_args!("failed   {what}{}", because(why))),
        None => output::line(format_args!("state    {}, which is no failure", flow.state)),
    }
    if let Some(saw) = &why.saw {
        output::line(format_args!("program  saw {saw}"));
    }
    match &why.explained {
        Some(explained) => {
            output::line(format_args!("rules    {}", explained.text));
            if flow
                .rule
                .as_ref()
                .is_some_and(|rule| *rule != explained.rule)
            {
                let rule = flow.rule.as_deref().unwrap_or("-");
                output::line(format_args!(
                    "         so they are now; {rule:?} decided, by the rules that were in force then"
                ));
            }
        }
        None => match &flow.rule {
            Some(rule) => output::line(format_args!("rules    the static tunnel {rule:?}")),
            None => output::line(format_args!("rules    it did not come to be asked of them")),
        },
    }
    if let Some(advice) = &why.advice {
        output::line(format_args!("try      {advice}"));
    }
    if why.shares.is_some() {
        output::line(format_args!(
            "note     what the kernel decides alone is not seen here: if another failed since, `adit explain --app PATH --to HOST:PORT`"
        ));
    }
}

fn when(why: &Why) -> String {
    let ago = jiff::Timestamp::now().duration_since(why.flow.opened_at);
    let ago = u64::try_from(ago.as_millis()).unwrap_or(0);
    let shared = match why.shares {
        Some(Shares::Process(pid)) => format!(", from this shell (pid {pid})"),
        Some(Shares::Session(pid)) => format!(", from this session (of pid {pid})"),
        None => String::new(),
    };
    format!("{} ago{shared}", flows::age(ago))
}

fn because(why: &Why) -> String {
    let zone = match &why.flow.zone {
        Some(zone) => format!(", zone {zone}"),
        None => String::new(),
    };
    match &why.flow.reason {
        Some(reason) => format!(" ({}{zone})", output::printable(reason)),
        None => zone,
    }
}
