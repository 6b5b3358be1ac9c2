//! `adit`: the command line, and the session daemon behind `adit broker` and `adit up`.
#![forbid(unsafe_code)]

mod command_line;
mod commands;
mod default_paths;
mod hidden_typing;
mod log;
mod output;
mod privileges;

use std::process::ExitCode;

use adit_broker::gateway::{HAND_OVER, NO_LONGER};
use clap::Parser;
use command_line::{Adit, Command};

fn main() -> ExitCode {
    if let Some(code) = beside_ssh() {
        return code;
    }
    let adit = Adit::parse();
    match dispatch(adit.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::complain(&failure.error);
            ExitCode::from(failure.code)
        }
    }
}

/// What a process of ours does for the system's `ssh`; no command of anybody's.
fn beside_ssh() -> Option<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    let word = words.next()?;
    let done = if word == HAND_OVER {
        adit_broker::gateway::hand_over()
    } else if word == NO_LONGER {
        adit_broker::gateway::no_longer_than_the_broker(words).map(|never| match never {})
    } else {
        return None;
    };
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let who = if word == HAND_OVER {
                "ssh, started by the broker,"
            } else {
                "the broker"
            };
            output::complain(&anyhow::anyhow!("only {who} runs this: {error}"));
            ExitCode::FAILURE
        }
    })
}

fn dispatch(command: Command) -> Result<(), commands::Failure> {
    match command {
        Command::Up(options) => commands::up::run(*options),
        Command::Broker(options) => commands::broker::run(options),
        Command::Status(options) => commands::status::run(options),
        Command::Flows(options) => commands::flows::run(options),
        Command::Close(options) => commands::close::run(options),
        Command::Down(options) => commands::down::run(options),
        Command::Trust(options) => commands::trust::run(options),
        Command::Unlock(options) => commands::unlock::run(options),
        Command::Check(options) => commands::check::run(options),
        Command::Reload(options) => commands::reload::run(options),
        Command::Explain(options) => commands::explain::run(options),
        Command::Why(options) => commands::why::run(options),
        Command::Replay(options) => commands::replay::run(options),
    }
}
