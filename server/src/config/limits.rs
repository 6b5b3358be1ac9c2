//! Numbers: what all may have, and what some users may.
use std::time::Duration;

use serde_saphyr::Spanned;

use super::written::{Written, WrittenAllowance};
use super::{Limits, Meaning, Members};
use crate::allowance::{Allowance, Allowances};
use crate::config_error::ConfigError;

/// russh counts a key's use in nonces: at most 2^30 bytes between two key exchanges. Below this
/// there would be nothing else.
const REKEY_BYTES: std::ops::RangeInclusive<u64> = 65_536..=1 << 30;

impl Meaning<'_> {
    pub(super) fn allowances(
        &self,
        written: &[WrittenAllowance],
        groups: &Members,
    ) -> Result<Allowances, ConfigError> {
        let one = |written: &WrittenAllowance| {
            let number = |key: &str, value: &Option<Spanned<u64>>| {
                let range = 1..=1_000_000;
                let read = |value| self.within(key, Some(value), range, 0);
                value.as_ref().map(read).transpose()
            };
            let rate = |key: &str, value: &Option<Spanned<u64>>, most| match value {
                Some(value) => self
                    .within(key, Some(value), 1..=most, 0)
                    .map(|_| Some(value.value)),
                None => Ok(None),
            };
            let allowance = Allowance {
                sessions: number("sessions", &written.sessions)?,
                flows: number("flows", &written.flows)?,
                opens_per_second: rate("opens_per_second", &written.opens_per_second, 1_000_000)?,
                bytes_per_second: rate("bytes_per_second", &written.bytes_per_second, 1 << 40)?,
            };
            Ok((self.users(&written.users, groups)?, allowance))
        };
        let all = written.iter().map(one).collect::<Result<_, _>>()?;
        Ok(Allowances(all))
    }

    pub(super) fn limits(&self, written: &Written) -> Result<Limits, ConfigError> {
        let default = Limits::default();
        let seconds = |value: usize| Duration::from_secs(value as u64);
        let max_connections = self.within(
            "max_connections",
            written.max_connections.as_ref(),
            1..=65_536,
            1024,
        )?;
        let per_user = written.max_connections_per_user.as_ref();
        let unauthenticated = written.max_unauthenticated.as_ref();
        let streams = written.max_streams_per_user.as_ref();
        let rekey = written.rekey_bytes.as_ref();
        Ok(Limits {
            max_connections,
            max_connections_per_user: self.within(
                "max_connections_per_user",
                per_user,
                1..=65_536,
                default.max_connections_per_user,
            )?,
            max_unauthenticated: self.within(
                "max_unauthenticated",
                unauthenticated,
                1..=4096,
                default.max_unauthenticated,
            )?,
            max_unauthenticated_per_source: self.within(
                "max_unauthenticated_per_source",
                written.max_unauthenticated_per_source.as_ref(),
                1..=4096,
                default.max_unauthenticated_per_source,
            )?,
            max_streams_per_user: self.within(
                "max_streams_per_user",
                streams,
                1..=1_000_000,
                default.max_streams_per_user,
            )?,
            login_grace: seconds(self.within(
                "login_grace_seconds",
                written.login_grace_seconds.as_ref(),
                1..=600,
                30,
            )?),
            dial_timeout: seconds(self.within(
                "dial_timeout_seconds",
                written.dial_timeout_seconds.as_ref(),
                1..=600,
                15,
            )?),
            session_timeout: self.time_out(
                "session_timeout_seconds",
                written.session_timeout_seconds.as_ref(),
            )?,
            idle_timeout: self.time_out(
                "idle_timeout_seconds",
                written.idle_timeout_seconds.as_ref(),
            )?,
            warning: seconds(self.within(
                "warning_seconds",
                written.warning_seconds.as_ref(),
                0..=86_400,
                60,
            )?),
            rekey_bytes: self.within("rekey_bytes", rekey, REKEY_BYTES, default.rekey_bytes)?,
        })
    }

    fn time_out(
        &self,
        key: &str,
        value: Option<&Spanned<u64>>,
    ) -> Result<Option<Duration>, ConfigError> {
        // A year; longer than that is for ever.
        const MOST: u64 = 31_622_400;
        let Some(value) = value else {
            return Ok(None);
        };
        self.within(key, Some(value), 1..=MOST, 0)?;
        Ok(Some(Duration::from_secs(value.value)))
    }

    pub(super) fn within(
        &self,
        key: &str,
        value: Option<&Spanned<u64>>,
        range: std::ops::RangeInclusive<u64>,
        default: usize,
    ) -> Result<usize, ConfigError> {
        let Some(value) = value else {
            return Ok(default);
        };
        match usize::try_from(value.value) {
            Ok(meant) if range.contains(&value.value) => Ok(meant),
            _ => {
                let words = format!(
                    "`{key}` is {}, but has to be from {} to {}",
                    value.value,
                    range.start(),
                    range.end()
                );
                Err(self.error(value, words, None))
            }
        }
    }
}
