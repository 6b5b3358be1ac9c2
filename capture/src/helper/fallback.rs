//! Routes of last resort. connect(2) to a destination that the host has no route to fails before any rule is asked; so the
//! destinations that are handed over get, for that user alone and after every other routing table, a route that leads to `lo`,
//! where the redirect takes them from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use ipnet::IpNet;
use serde::Deserialize;

use adit_capture::Family;
use adit_capture::mark::{MARK, MASK};

use super::command::{CommandError, Tool};
use super::program::FAMILIES;

/// Behind the tables `main` (32766) and `default` (32767): a user's connections to the user's table of ours.
const PREFERENCE: u32 = 32_800;
/// Before that: what carries our mark gets the kernel's own answer for want of a route. A rule of its own, as `not` in a rule
/// turns all of its conditions around and not the mark's alone.
const MARKED_PREFERENCE: u32 = PREFERENCE - 1;
/// The routing tables that are ours: this one and [`TABLES`] after it.
const FIRST_TABLE: u32 = 0xad17_0000;
const TABLES: u32 = 0x1_0000;
/// Most routes of one family. A claim with more is given whole networks instead of exact ones.
const MAX_ROUTES: usize = 131_072;

/// Routes that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FallbackError {
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error("ip's answer is not what was expected: {0}")]
    Answer(#[from] serde_json::Error),
    #[error("ip named a route's destination {0}")]
    Destination(String),
    #[error("no routing table is free")]
    NoTable,
}

/// A user's routes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Routes {
    pub(crate) v4: BTreeSet<IpNet>,
    pub(crate) v6: BTreeSet<IpNet>,
}

impl Routes {
    pub(crate) fn of(&self, family: Family) -> &BTreeSet<IpNet> {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    pub(crate) fn set(&mut self, family: Family, networks: Vec<IpNet>) {
        let networks = match networks.len() {
            0..=MAX_ROUTES => networks.into_iter().collect(),
            _ => BTreeSet::from([whole(family)]),
        };
        match family {
            Family::V4 => self.v4 = networks,
            Family::V6 => self.v6 = networks,
        }
    }
}

fn whole(family: Family) -> IpNet {
    match family {
        Family::V4 => IpNet::V4(ipnet::Ipv4Net::default()),
        Family::V6 => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}

/// The `ip` program and what we do with it. It keeps no state: each look goes to the kernel.
#[derive(Debug)]
pub(crate) struct Fallback {
    ip: Tool,
}

impl Fallback {
    pub(crate) fn new(ip: Tool) -> Fallback {
        Fallback { ip }
    }

    /// No routes, and no program to make any.
    #[cfg(test)]
    pub(crate) fn absent() -> Fallback {
        Fallback::new(Tool::absent())
    }

    /// The users that have a rule here, whoever left it.
    pub(crate) async fn users(&self) -> Result<BTreeSet<u32>, FallbackError> {
        let mut users = BTreeSet::new();
        for family in FAMILIES {
            users.extend(self.rules(family).await?.into_keys());
        }
        Ok(users)
    }

    /// Gives a user exactly these routes; when that fails, those that were there are there again.
    pub(crate) async fn put(&self, uid: u32, wanted: &Routes) -> Result<(), FallbackError> {
        let mut done = Vec::new();
        for family in FAMILIES {
            let found = self.look(uid, family).await?;
            let result = self.change(uid, family, &found, wanted.of(family)).await;
            done.push((family, found.routes));
            if let Err(error) = result {
                for (family, before) in &done {
                    let found = self.look(uid, *family).await?;
                    self.change(uid, *family, &found, before).await?;
                }
                return Err(error);
            }
        }
        Ok(())
    }

    async fn look(&self, uid: u32, family: Family) -> Result<Found, FallbackError> {
        let all = self.rules(family).await?;
        let rules = all.get(&uid).copied().unwrap_or_default();
        let routes = match rules.table {
            Some(table) => self.table(family, table).await?,
            None => BTreeSet::new(),
        };
        let table = match rules.table {
            Some(table) => table,
            None => free_table(&all)?,
        };
        Ok(Found {
            rules,
            table,
            routes,
        })
    }

    async fn change(
        &self,
        uid: u32,
        family: Family,
        found: &Found,
        wanted: &BTreeSet<IpNet>,
    ) -> Result<(), FallbackError> {
        let (table, source) = (found.table, loopback(family));
        let mut batch = String::new();
        // `replace`: a table without a rule may hold routes that nobody looked for.
        for network in wanted.difference(&found.routes) {
            let route = format_args!("route replace {network} dev lo src {source} table {table}");
            line(&mut batch, route);
        }
        for network in found.routes.difference(wanted) {
            line(
                &mut batch,
                format_args!("route del {network} dev lo table {table}"),
            );
        }
        let needed = !wanted.is_empty();
        let verb = if needed { "add" } else { "del" };
        if found.rules.marked != needed {
            let condition = format_args!("fwmark {MARK:#x}/{MASK:#x} uidrange {uid}-{uid}");
            let rule = format_args!("{condition} ipproto tcp unreachable");
            line(
                &mut batch,
                format_args!("rule {verb} pref {MARKED_PREFERENCE} {rule}"),
            );
        }
        if found.rules.table.is_some() != needed {
            let rule = format_args!("uidrange {uid}-{uid} ipproto tcp lookup {table}");
            line(
                &mut batch,
                format_args!("rule {verb} pref {PREFERENCE} {rule}"),
            );
        }
        if !batch.is_empty() {
            self.ip
                .run(&[option(family), "-batch", "-"], &batch)
                .await?;
        }
        Ok(())
    }

    /// Our rules, by uid.
    async fn rules(&self, family: Family) -> Result<BTreeMap<u32, UserRules>, FallbackError> {
        let answer = match self.ip.run(&[option(family), "-j", "rule"], "").await {
            // A kernel without the family has no rules of it.
            Err(CommandError::Failed { text, .. }) if text.contains("not supported") => {
                return Ok(BTreeMap::new());
            }
            other => other?,
        };
        let rules: Vec<RuleLine> = list(&answer)?;
        let mut users: BTreeMap<u32, UserRules> = BTreeMap::new();
        for (uid, rule) in rules.iter().filter_map(RuleLine::ours) {
            let user = users.entry(uid).or_default();
            user.marked |= rule.marked;
            user.table = user.table.or(rule.table);
        }
        Ok(users)
    }

    async fn table(&self, family: Family, table: u32) -> Result<BTreeSet<IpNet>, FallbackError> {
        let words = [
            option(family),
            "-j",
            "route",
            "show",
            "table",
            &table.to_string(),
        ];
        let answer = match self.ip.run(&words, "").await {
            // Tables come into being with their first route.
            Err(CommandError::Failed { text, .. }) if text.contains("does not exist") => {
                return Ok(BTreeSet::new());
            }
            other => other?,
        };
        list::<RouteLine>(&answer)?
            .iter()
            .map(|route| route.network(family))
            .collect()
    }
}

/// What is there of a user.
#[derive(Debug)]
struct Found {
    rules: UserRules,
    /// The user's, or a free one.
    table: u32,
    routes: BTreeSet<IpNet>,
}

/// What is there of a user's two rules.
#[derive(Debug, Clone, Copy, Default)]
struct UserRules {
    marked: bool,
    table: Option<u32>,
}

#[derive(Debug, Deserialize)]
struct RuleLine {
    priority: u32,
    uid_start: Option<u32>,
    uid_end: Option<u32>,
    fwmark: Option<String>,
    action: Option<String>,
    table: Option<String>,
}

impl RuleLine {
    fn ours(&self) -> Option<(u32, UserRules)> {
        let uid = self
            .uid_start
            .filter(|_uid| self.uid_start == self.uid_end)?;
        match self.priority {
            PREFERENCE => {
                let table = self.table.as_ref()?.parse().ok()?;
                let ours = (FIRST_TABLE..FIRST_TABLE + TABLES).contains(&table);
                ours.then_some((
                    uid,
                    UserRules {
                        marked: false,
                        table: Some(table),
                    },
                ))
            }
            MARKED_PREFERENCE => {
                let ours = self.fwmark == Some(format!("{MARK:#x}"))
                    && self.action.as_deref() == Some("unreachable");
                ours.then_some((
                    uid,
                    UserRules {
                        marked: true,
                        table: None,
                    },
                ))
            }
            _ => None,
        }
    }
}

#[derive(Debug, Deserialize)]
struct RouteLine {
    dst: String,
}

impl RouteLine {
    fn network(&self, family: Family) -> Result<IpNet, FallbackError> {
        if self.dst == "default" {
            return Ok(whole(family));
        }
        let single = || {
            self.dst
                .parse()
                .ok()
                .map(|address: std::net::IpAddr| address.into())
        };
        self.dst
            .parse()
            .ok()
            .or_else(single)
            .ok_or_else(|| FallbackError::Destination(self.dst.clone()))
    }
}

fn free_table(rules: &BTreeMap<u32, UserRules>) -> Result<u32, FallbackError> {
    (FIRST_TABLE..FIRST_TABLE + TABLES)
        .find(|table| rules.values().all(|used| used.table != Some(*table)))
        .ok_or(FallbackError::NoTable)
}

/// The source address of a connection that goes nowhere else: without it the kernel takes 0.0.0.0 on a host that has no other.
fn loopback(family: Family) -> &'static str {
    match family {
        Family::V4 => "127.0.0.1",
        Family::V6 => "::1",
    }
}

fn option(family: Family) -> &'static str {
    match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
    }
}

/// `ip -j` writes nothing at all where there is nothing to list.
fn list<T: for<'de> Deserialize<'de>>(answer: &str) -> Result<Vec<T>, serde_json::Error> {
    match answer.trim() {
        "" => Ok(Vec::new()),
        answer => serde_json::from_str(answer),
    }
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{line}");
}
