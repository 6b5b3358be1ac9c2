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

/// Behind the tables `main` (32766) and `default` (32767).
const PREFERENCE: u32 = 32_800;
/// The routing tables that are ours: this one and [`TABLES`] after it.
const FIRST_TABLE: u32 = 0xad17_0000;
const TABLES: u32 = 0x1_0000;
/// Most routes of one family. A claim with more is given whole networks instead of exact ones.
const MAX_ROUTES: usize = 65_536;

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
        for family in FAMILIES {
            let before = self.routes(uid, family).await?;
            if let Err(error) = self.put_family(uid, family, wanted.of(family)).await {
                self.put_family(uid, family, &before).await?;
                return Err(error);
            }
        }
        Ok(())
    }

    async fn put_family(
        &self,
        uid: u32,
        family: Family,
        wanted: &BTreeSet<IpNet>,
    ) -> Result<(), FallbackError> {
        let rules = self.rules(family).await?;
        let table = match rules.get(&uid) {
            Some(table) => *table,
            None if wanted.is_empty() => return Ok(()),
            None => {
                let free = (FIRST_TABLE..FIRST_TABLE + TABLES)
                    .find(|table| rules.values().all(|used| used != table));
                free.ok_or(FallbackError::NoTable)?
            }
        };
        let found = self.table(family, table).await?;
        let mut batch = String::new();
        for network in wanted.difference(&found) {
            line(
                &mut batch,
                format_args!("route add {network} dev lo table {table}"),
            );
        }
        for network in found.difference(wanted) {
            line(
                &mut batch,
                format_args!("route del {network} dev lo table {table}"),
            );
        }
        let has_rule = rules.contains_key(&uid);
        if has_rule == wanted.is_empty() {
            let verb = if has_rule { "del" } else { "add" };
            line(
                &mut batch,
                format_args!(
                    "rule {verb} pref {PREFERENCE} not fwmark {MARK:#x}/{MASK:#x} \
                     uidrange {uid}-{uid} ipproto tcp lookup {table}"
                ),
            );
        }
        if !batch.is_empty() {
            self.ip
                .run(&[option(family), "-batch", "-"], &batch)
                .await?;
        }
        Ok(())
    }

    async fn routes(&self, uid: u32, family: Family) -> Result<BTreeSet<IpNet>, FallbackError> {
        match self.rules(family).await?.get(&uid) {
            Some(table) => self.table(family, *table).await,
            None => Ok(BTreeSet::new()),
        }
    }

    /// Our rules: uid → routing table.
    async fn rules(&self, family: Family) -> Result<BTreeMap<u32, u32>, FallbackError> {
        let answer = match self.ip.run(&[option(family), "-j", "rule"], "").await {
            // A kernel without the family has no rules of it.
            Err(CommandError::Failed { text, .. }) if text.contains("not supported") => {
                return Ok(BTreeMap::new());
            }
            other => other?,
        };
        let rules: Vec<RuleLine> = list(&answer)?;
        Ok(rules.iter().filter_map(RuleLine::ours).collect())
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

#[derive(Debug, Deserialize)]
struct RuleLine {
    priority: u32,
    uid_start: Option<u32>,
    uid_end: Option<u32>,
    table: Option<String>,
}

impl RuleLine {
    fn ours(&self) -> Option<(u32, u32)> {
        let table: u32 = self.table.as_ref()?.parse().ok()?;
        let ours = self.priority == PREFERENCE
            && (FIRST_TABLE..FIRST_TABLE + TABLES).contains(&table)
            && self.uid_start == self.uid_end;
        self.uid_start.filter(|_uid| ours).map(|uid| (uid, table))
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
