//! `adit unlock [ZONE]`.

use std::io::{BufRead, Write};

use adit_broker::control::protocol::{Answer, Answers, Request, ZoneQuestion, ZoneStatus};
use adit_broker::gateway::{Form, Prompt, Secret};
use anyhow::{Context, anyhow};

use super::{Failure, ask_broker};
use crate::command_line::Unlock;
use crate::hidden_typing;
use crate::output;

pub(crate) fn run(options: Unlock) -> Result<(), Failure> {
    let zones = zones(&options)?;
    for zone in &zones {
        unlock(&options, zone)?;
        if !options.form.json {
            output::line(format_args!("zone {zone} is up"));
        }
    }
    if options.form.json {
        output::json(&serde_json::json!({ "unlocked": zones }))?;
    }
    Ok(())
}

fn zones(options: &Unlock) -> Result<Vec<String>, Failure> {
    if let Some(zone) = &options.zone {
        return Ok(vec![zone.clone()]);
    }
    let Answer::Status(status) = ask_broker(&options.whose, &Request::Status {})? else {
        return Err(anyhow!("the broker's answer makes no sense").into());
    };
    let is_locked = |zone: &&ZoneStatus| {
        let mut questions = zone.questions.iter();
        questions.any(|it| matches!(it, ZoneQuestion::Unlock { .. }))
    };
    // A gateway that has refused its user is left in peace until somebody says this.
    let is_down = |zone: &&ZoneStatus| zone.state == "down" || zone.state == "connecting";
    let named = |zone: &ZoneStatus| zone.name.clone();
    let locked: Vec<_> = status.zones.iter().filter(is_locked).map(named).collect();
    let down: Vec<_> = status.zones.iter().filter(is_down).map(named).collect();
    match (locked.is_empty(), down.is_empty()) {
        (false, _) => Ok(locked),
        (true, false) => Ok(down),
        (true, true) => Err(anyhow!("no zone is locked, nor down: see `adit status`").into()),
    }
}

fn unlock(options: &Unlock, zone: &str) -> Result<(), Failure> {
    let mut answers = None;
    loop {
        let request = Request::Unlock {
            zone: zone.to_owned(),
            answers: answers.take(),
        };
        match ask_broker(&options.whose, &request)? {
            Answer::Done => return Ok(()),
            Answer::Form(form) => answers = Some(filled(&form, options.stdin)?),
            Answer::Status(_)
            | Answer::Flows(_)
            | Answer::Why(_)
            | Answer::Explained(_)
            | Answer::Reloaded(_)
            | Answer::BadRules(_)
            | Answer::Error(_) => {
                return Err(anyhow!("the broker's answer makes no sense").into());
            }
        }
    }
}

fn filled(form: &Form, from_stdin: bool) -> Result<Answers, Failure> {
    if !from_stdin && !form.instructions.is_empty() {
        let shown = form.instructions.lines().map(output::printable);
        for line in shown {
            output::line(format_args!("{line}"));
        }
    }
    let answer = |prompt| match from_stdin {
        true => next_line(),
        false => typed(prompt),
    };
    let answers: Result<Vec<Secret>, Failure> = form.prompts.iter().map(answer).collect();
    Ok(Answers {
        id: form.id,
        answers: answers?,
    })
}

fn next_line() -> Result<Secret, Failure> {
    let mut line = String::new();
    if std::io::stdin().lock().read_line(&mut line)? == 0 {
        return Err(anyhow!("more is asked than standard input answers").into());
    }
    line.truncate(line.trim_end_matches(['\r', '\n']).len());
    Ok(Secret::from(line))
}

/// What is typed on the terminal, seen only where the gateway allows it.
fn typed(prompt: &Prompt) -> Result<Secret, Failure> {
    let text = output::printable(&prompt.text);
    if !prompt.echo {
        let typed = hidden_typing::asked(&text);
        let typed = typed.context("this asks on a terminal: without one say --stdin")?;
        return Ok(Secret::from(typed));
    }
    let _ = write!(std::io::stderr(), "{text}");
    next_line()
}
