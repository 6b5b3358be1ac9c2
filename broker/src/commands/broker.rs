//! `adit broker`: the session daemon with a rule file.

use anyhow::Context;

use adit_broker::daemon::{self, Attended, RuleFiles, Settings};
use adit_broker::rule_sources::RuleSources;
use adit_broker::user::User;

use super::check::{absolute, read_rules};
use super::{Failure, runtime};
use crate::command_line::Broker;

pub(crate) fn run(options: Broker) -> Result<(), Failure> {
    let _log = crate::log::start("info");
    let user = User::current()?;
    let sources = RuleSources::new(
        absolute(options.rules)?,
        absolute(options.user_rules)?,
        &user,
    );
    let (read, seen) = read_rules(&sources)?;
    if !read.warnings.is_empty() {
        tracing::warn!("{}", read.warnings);
    }
    let decisions = options.session.decisions(&user);
    let settings = Settings {
        decisions: decisions.context("the directory of decisions")?,
        policy: read.policy,
        files: Some(RuleFiles {
            sources,
            files: read.files,
            seen,
        }),
        capture: std::path::absolute(options.session.capture).context("the helper's socket")?,
        control: options.session.control.own_path(),
        on_broker_gone: options.session.on_broker_gone.into(),
        user,
        attended: Attended::No,
    };
    Ok(runtime()?.block_on(daemon::run(settings, || {}))?)
}
