//! `adit explain`: which rule a connection would match, and why.

use adit_broker::control::protocol::{Answer, Request};
use adit_broker::question::{Explained, Question, QuestionError};
use adit_broker::rule_sources::RuleSources;
use adit_broker::user::User;
use anyhow::anyhow;

use super::check::{absolute, read_rules};
use super::{Failure, ask_broker};
use crate::command_line::Explain;
use crate::output;

pub(crate) fn run(options: Explain) -> Result<(), Failure> {
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

fn failure(error: QuestionError) -> Failure {
    match error {
        QuestionError::Nonsense(_) | QuestionError::NoApplication | QuestionError::Port(_) => {
            Failure::usage(error)
        }
        QuestionError::NoProcess(_) | QuestionError::User(_) => error.into(),
    }
}
