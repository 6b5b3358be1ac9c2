//! Whom an entry of the policy is for, from what is written.
use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde_saphyr::Spanned;

use super::written::{Written, WrittenEntry};
use super::{Meaning, Members};
use crate::asker::Conditions;
use crate::config_error::ConfigError;
use crate::user_name::UserName;

impl Meaning<'_> {
    pub(super) fn conditions(
        &self,
        written: &WrittenEntry,
        groups: &Members,
    ) -> Result<Conditions, ConfigError> {
        if written.users.is_empty() && written.principals.is_empty() {
            let hint = r#"users: [alice, "@finance"], or principals: [dba], or both"#;
            let words = "an entry without `users` and `principals` is for nobody";
            return Err(self.error(&written.name, words, Some(hint)));
        }
        Ok(Conditions {
            users: self.users(&written.users, groups)?,
            principals: self.principals(&written.principals)?,
            from: self.each(&written.from, source)?,
            applications: self.each(&written.applications, |text| {
                text.parse().map_err(|why| format!("{text:?}: {why}"))
            })?,
            when: written
                .when
                .as_ref()
                .map(|when| {
                    let parsed = when.value.parse();
                    parsed.map_err(|why| self.error(when, format!("{:?}: {why}", when.value), None))
                })
                .transpose()?,
        })
    }

    /// Without a word loopback, where whoever forwards connections to us stands for all of them.
    pub(super) fn penalty_exempt(&self, written: &Written) -> Result<Vec<IpNet>, ConfigError> {
        match &written.penalty_exempt {
            Some(networks) => self.each(networks, source),
            None => Ok(vec![
                IpNet::new_assert(Ipv4Addr::new(127, 0, 0, 0).into(), 8),
                IpNet::new_assert(Ipv6Addr::LOCALHOST.into(), 128),
            ]),
        }
    }

    /// Groups are replaced by their members.
    pub(super) fn users(
        &self,
        written: &[Spanned<String>],
        groups: &Members,
    ) -> Result<HashSet<UserName>, ConfigError> {
        let mut users = HashSet::new();
        for user in written {
            let Some(group) = user.value.strip_prefix('@') else {
                users.insert(self.user(user)?);
                continue;
            };
            let members = groups.get(group).ok_or_else(|| {
                let hint = "define it:  groups: {finance: [alice, bob]}";
                self.error(user, format!("no group is called {group:?}"), Some(hint))
            })?;
            users.extend(members.iter().cloned());
        }
        Ok(users)
    }

    fn principals(&self, written: &[Spanned<String>]) -> Result<HashSet<String>, ConfigError> {
        let principals = self.each(written, |text| match text.is_empty() {
            true => Err("a principal has a name".to_owned()),
            false => Ok(text.to_owned()),
        })?;
        Ok(principals.into_iter().collect())
    }

    fn each<T>(
        &self,
        written: &[Spanned<String>],
        meaning: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, ConfigError> {
        written
            .iter()
            .map(|text| meaning(&text.value).map_err(|why| self.error(text, why, None)))
            .collect()
    }
}

/// An address is the network of it alone.
fn source(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<std::net::IpAddr>() {
        return Ok(address.to_canonical().into());
    }
    match text.parse::<IpNet>() {
        Ok(network) if network.trunc() == network => Ok(network),
        Ok(network) => Err(format!("{text:?}: the network is {}", network.trunc())),
        Err(_) => Err(format!(
            "{text:?} is no address and no network such as 10.0.0.0/8"
        )),
    }
}
