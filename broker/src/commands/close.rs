//! `adit close ID`.

use adit_broker::control::protocol::Request;

use super::{Failure, ask_broker};
use crate::command_line::Close;
use crate::output;

pub(crate) fn run(options: Close) -> Result<(), Failure> {
    ask_broker(&options.whose, &Request::Close { id: options.id })?;
    if options.form.json {
        output::json(&serde_json::json!({ "closed": options.id }))?;
    } else {
        output::line(format_args!("closed flow {}", options.id));
    }
    Ok(())
}
