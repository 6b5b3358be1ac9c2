//! `adit explain`: which rule a connection would match, and why.

use std::path::Path;

use adit_broker::control::protocol::{Answer, Request};
use adit_broker::question::{Explained, Question, QuestionError};
use adit_broker::rule_sources::{HostFiles, RuleSources};
use adit_broker::user::User;
use adit_rules::{AtPath, Files as _};
use anyhow::anyhow;

use super::check::{absolute, read_rules};
use super::{Failure, ask_broker};
use crate::command_line::Explain;
use crate::output;

pub(crate) fn run(options: Explain) -> Result<(), Failure> {
    if let Some(warning) = options.app.as_deref().and_then(no_such_program) {
        output::warn(format_args!("{warning}"));
    }
    let connection = Question {
        to: options.to,
        app: options.app,
        pid: options.pid,
        user: options.asked_user,
        group: options.group,
    };
    let explained = match options.rules {
        Some(file) => {
            let user = User::current()?;
            let sources = RuleSources::new(absolute(Some(file))?, None, &user);
            let (read, _) = read_rules(&sources)?;
            let explanation = connection.answer(&read.policy, &user);
            Explained::of(&explanation.map_err(failure)?)?
        }
        None => {
            let answer = ask_broker(&options.whose, &Request::Explain { connection })?;
            let Answer::Explained(explained) = answer else {
                return Err(anyhow!("the broker's answer makes no sense").into());
            };
            *explained
        }
    };
    if options.form.json {
        output::json(&explained.explanation)?;
    } else {
        output::line(format_args!("{}", explained.text));
    }
    Ok(())
}

/// Why no program of this host has this path.
fn no_such_program(app: &str) -> Option<String> {
    let path = Path::new(app).is_absolute().then(|| Path::new(app))?;
    match HostFiles::default().program(path)? {
        AtPath::Link(own) => {
            let own = own.display();
            Some(format!(
                "no program has the path {app}, which is a link: its own path is {own}"
            ))
        }
        AtPath::Directory => Some(format!(
            "no program has the path {app}, which is a directory"
        )),
        AtPath::Script => Some(format!(
            "no program has the path {app}, which is a script: what runs is its interpreter"
        )),
        AtPath::Binary | AtPath::Unseen => None,
    }
}

fn failure(error: QuestionError) -> Failure {
    match error {
        QuestionError::Nonsense(_) | QuestionError::NoApplication | QuestionError::Port(_) => {
            Failure::usage(error)
        }
        QuestionError::NoProcess(_) | QuestionError::User(_) => error.into(),
    }
}
