//! `adit`: the command line, and the session daemon behind `adit broker` and `adit up`.
#![forbid(unsafe_code)]

mod command_line;
mod commands;
mod default_paths;
mod log;
mod output;
mod privileges;

use std::process::ExitCode;

use adit_broker::gateway::HAND_OVER;
use clap::Parser;
use command_line::{Adit, Command};

fn main() -> ExitCode {
    // For ssh alone, as its ProxyCommand; see adit_broker::gateway::hand_over.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == HAND_OVER)
    {
        return match adit_broker::gateway::hand_over() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                output::complain(&anyhow::anyhow!(
                    "only ssh, started by the broker, runs this: {error}"
                ));
                ExitCode::FAILURE
            }
        };
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
