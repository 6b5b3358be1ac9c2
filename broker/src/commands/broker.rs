//! `adit broker`: the session daemon with a rule file.

use anyhow::Context;

use adit_broker::daemon::{self, Attended, Settings};
use adit_broker::user::User;

use super::{Failure, check::read_rules, runtime};
use crate::command_line::Broker;

pub(crate) fn run(options: Broker) -> Result<(), Failure> {
    let _log = crate::log::start("info");
    let checked = read_rules(&options.rules)?;
    if !checked.warnings.is_empty() {
        tracing::warn!("{}", checked.warnings);
    }
    let rules = std::path::absolute(&options.rules).context("the rule file's path")?;
    let user = User::current()?;
    let decisions = options.session.decisions(&user);
    let settings = Settings {
        decisions: decisions.context("the directory of decisions")?,
        policy: checked.policy,
        rules: Some(rules),
        capture: std::path::absolute(options.session.capture).context("the helper's socket")?,
        control: options.session.control.own_path(),
        on_broker_gone: options.session.on_broker_gone.into(),
        user,
        attended: Attended::No,
    };
    Ok(runtime()?.block_on(daemon::run(settings, || {}))?)
}
