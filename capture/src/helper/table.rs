//! The table in the kernel: every change is one transaction, and is read back and compared with what was meant.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use adit_capture::wire::QueueBy;

use super::background::off_the_loop;
use super::command::{CommandError, Tool};
use super::holding::{self, Holding};
use super::program::{ChainName, Live, Program, QueueRule, Role};
use super::readback::{self, ReadError, Skeleton};
use super::{render, xtables};

/// A change that did not come about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TableError {
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error("cannot read the table back: {0}")]
    Read(#[from] ReadError),
    #[error(
        "table {table} cannot be read back ({0}) and stays as it is; `adit-capture --clean` removes it",
        table = render::TABLE
    )]
    Strange(#[source] ReadError),
    #[error("the rule that leads to a queue: {0}")]
    Queue(#[source] io::Error),
    #[error("a thread of the helper: {0}")]
    Thread(#[from] tokio::task::JoinError),
    #[error("the kernel has something else than was meant")]
    Mismatch,
}

/// The programs that are in the kernel, as of our last look.
#[derive(Debug)]
pub(crate) struct Table {
    nft: Tool,
    /// How nft lists what is not a user's.
    skeleton: Arc<Skeleton>,
    holding: Holding,
    /// `None`: there is no table.
    users: Option<BTreeMap<u32, Program>>,
}

impl Table {
    /// Looks at what is there. What we cannot read may still be what keeps users' connections in: it stays, and the helper ends.
    pub(crate) async fn adopt(nft: Tool) -> Result<Table, TableError> {
        let (skeleton, holding) = probe(&nft).await?;
        match read(&nft, &skeleton).await {
            Ok(users) => Ok(Table {
                nft,
                skeleton,
                holding,
                users,
            }),
            Err(TableError::Read(error)) => Err(TableError::Strange(error)),
            Err(error) => Err(error),
        }
    }

    /// The same for who wants everything gone: a table that cannot be read is removed.
    pub(crate) async fn adopt_or_remove(nft: Tool) -> Result<Table, TableError> {
        match Table::adopt(nft.clone()).await {
            Err(TableError::Strange(error)) => {
                tracing::warn!(%error, "the table found cannot be read back; it is removed");
                nft.run(&["-f", "-"], &render::remove_table()).await?;
                Table::adopt(nft).await
            }
            other => other,
        }
    }

    /// No table, and no program to make one.
    #[cfg(test)]
    pub(crate) fn absent() -> Table {
        Table {
            nft: Tool::absent(),
            skeleton: Arc::default(),
            holding: Holding::None("no kernel is asked".to_owned()),
            users: None,
        }
    }

    pub(crate) fn users(&self) -> impl Iterator<Item = (u32, &Program)> {
        self.users
            .iter()
            .flatten()
            .map(|(uid, program)| (*uid, program))
    }

    pub(crate) fn user(&self, uid: u32) -> Option<&Program> {
        self.users.as_ref()?.get(&uid)
    }

    /// How connections can be held.
    pub(crate) fn holding(&self) -> &Holding {
        &self.holding
    }

    /// Gives a user this program.
    pub(crate) async fn put(&mut self, uid: u32, program: Program) -> Result<(), TableError> {
        let (before, after) = (self.user(uid).cloned(), program.clone());
        let skeleton = self.users.is_none();
        let text = off_the_loop(move || {
            let mut text = if skeleton {
                render::skeleton()
            } else {
                String::new()
            };
            text.push_str(&render::replace(uid, before.as_ref(), &after));
            text
        })
        .await?;
        let mut wanted = self.users.clone().unwrap_or_default();
        let queues: Vec<_> = xtables_queue(uid, &program).into_iter().collect();
        wanted.insert(uid, program);
        self.change(uid, (&text, &queues), Some(wanted)).await
    }

    /// Puts a user's other filter rules in force.
    pub(crate) async fn swap(&mut self, uid: u32, live: Live) -> Result<(), TableError> {
        let Some(program) = self.user(uid).filter(|program| program.live != live) else {
            return Ok(());
        };
        let text = render::swap(uid, program, live);
        let mut wanted = self.users.clone();
        if let Some(program) = wanted.as_mut().and_then(|users| users.get_mut(&uid)) {
            program.live = live;
        }
        self.change(uid, (&text, &[]), wanted).await
    }

    /// Takes a user out; the table stays. With it the kernel would drop what is held.
    pub(crate) async fn empty(&mut self, uid: u32) -> Result<(), TableError> {
        let Some(program) = self.user(uid) else {
            return Ok(());
        };
        let text = render::remove(uid, program);
        let wanted = self.users.clone().map(|mut users| {
            users.remove(&uid);
            users
        });
        self.change(uid, (&text, &[]), wanted).await
    }

    /// Takes a user out; with the last one goes the table.
    pub(crate) async fn remove(&mut self, uid: u32) -> Result<(), TableError> {
        let others = self.users().any(|(other, _)| other != uid);
        match self.users {
            None => Ok(()),
            Some(_) if others => self.empty(uid).await,
            Some(_) => self.change(uid, (&render::remove_table(), &[]), None).await,
        }
    }

    /// Writes the table anew where it is not what it was after our last change; whether it was so.
    pub(crate) async fn repair(&self) -> Result<bool, TableError> {
        if matches!(read(&self.nft, &self.skeleton).await, Ok(found) if found == self.users) {
            return Ok(false);
        }
        self.restore().await?;
        match read(&self.nft, &self.skeleton).await? == self.users {
            true => Ok(true),
            false => Err(TableError::Mismatch),
        }
    }

    async fn change(
        &mut self,
        uid: u32,
        change: (&str, &[QueueChain]),
        wanted: Option<BTreeMap<u32, Program>>,
    ) -> Result<(), TableError> {
        let Err(error) = self.attempt(change, &wanted).await else {
            self.users = wanted;
            return Ok(());
        };
        tracing::error!(uid, %error, "a change did not come about");
        // A change is computed from what was there. If someone else changed that, it is worth a second try.
        if !self.repair().await? {
            return Err(error);
        }
        if let Err(error) = self.attempt(change, &wanted).await {
            self.repair().await?;
            return Err(error);
        }
        self.users = wanted;
        Ok(())
    }

    async fn attempt(
        &self,
        (text, queues): (&str, &[QueueChain]),
        wanted: &Option<BTreeMap<u32, Program>>,
    ) -> Result<(), TableError> {
        self.nft.run(&["-f", "-"], text).await?;
        add(queues)?;
        match read(&self.nft, &self.skeleton).await? == *wanted {
            true => Ok(()),
            false => Err(TableError::Mismatch),
        }
    }

    /// Writes the table anew as it was before the change, in one transaction.
    async fn restore(&self) -> Result<(), TableError> {
        // `add` first: `delete` of a table that is not there is an error.
        let mut text = format!("add table {}\n{}", render::TABLE, render::remove_table());
        if let Some(users) = &self.users {
            text.push_str(&render::skeleton());
            for (uid, program) in users {
                text.push_str(&render::replace(*uid, None, program));
            }
        }
        self.nft.run(&["-f", "-"], &text).await?;
        let users = self.users();
        let queues: Vec<_> = users
            .filter_map(|(uid, program)| xtables_queue(uid, program))
            .collect();
        add(&queues)
    }
}

/// A chain that a queue's rule is still missing in, and the queue's number.
type QueueChain = (ChainName, u16);

fn xtables_queue(uid: u32, program: &Program) -> Option<QueueChain> {
    let QueueRule { number, by } = program.hold.as_ref()?.queue;
    let role = Role::Queue(number);
    (by == Some(QueueBy::Xtables)).then_some((ChainName { uid, role }, number))
}

/// Until then what is asked about is handed over.
fn add(queues: &[QueueChain]) -> Result<(), TableError> {
    queues
        .iter()
        .try_for_each(|(chain, number)| {
            xtables::add_queue_rule("adit", &chain.to_string(), *number)
        })
        .map_err(TableError::Queue)
}

/// Each version of nft lists rules in words of its own; this is what it makes of ours.
async fn probe(nft: &Tool) -> Result<(Arc<Skeleton>, Holding), TableError> {
    nft.run(&["-f", "-"], &render::probe()).await?;
    let mut listings = Vec::new();
    for [list, what, family, table, name] in render::probed() {
        let words = ["-j", list, what, family, table, name];
        listings.push(nft.run(&words, "").await);
    }
    let holding = holding::probe(nft).await;
    nft.run(&["-f", "-"], &render::remove_probe()).await?;
    let listings = listings.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok((Arc::new(readback::skeleton(&listings)?), holding))
}

async fn read(
    nft: &Tool,
    skeleton: &Arc<Skeleton>,
) -> Result<Option<BTreeMap<u32, Program>>, TableError> {
    let tables = nft.run(&["-j", "list", "tables", "inet"], "").await?;
    if !readback::has_table(&tables)? {
        return Ok(None);
    }
    let listing = nft
        .run(&["-j", "list", "table", "inet", "adit"], "")
        .await?;
    let skeleton = skeleton.clone();
    Ok(Some(
        off_the_loop(move || readback::programs(&listing, &skeleton)).await??,
    ))
}
