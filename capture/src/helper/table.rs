//! The table in the kernel: every change is one transaction, and is read back and compared with what was meant.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::background::off_the_loop;
use super::command::{CommandError, Tool};
use super::program::{Live, Program};
use super::readback::{self, ReadError, Skeleton};
use super::render;

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
    /// `None`: there is no table.
    users: Option<BTreeMap<u32, Program>>,
}

impl Table {
    /// Looks at what is there. What we cannot read may still be what keeps users' connections in: it stays, and the helper ends.
    pub(crate) async fn adopt(nft: Tool) -> Result<Table, TableError> {
        let skeleton = Arc::new(probe(&nft).await?);
        match read(&nft, &skeleton).await {
            Ok(users) => Ok(Table {
                nft,
                skeleton,
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
        wanted.insert(uid, program);
        self.change(uid, &text, Some(wanted)).await
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
        self.change(uid, &text, wanted).await
    }

    /// Takes a user out; with the last one goes the table.
    pub(crate) async fn remove(&mut self, uid: u32) -> Result<(), TableError> {
        let Some(program) = self.user(uid) else {
            return self.remove_if_empty(uid).await;
        };
        let text = render::remove(uid, program);
        let wanted = self.users.clone().map(|mut users| {
            users.remove(&uid);
            users
        });
        match wanted {
            Some(users) if users.is_empty() => {
                self.change(uid, &render::remove_table(), None).await
            }
            Some(_) | None => self.change(uid, &text, wanted).await,
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

    async fn remove_if_empty(&mut self, uid: u32) -> Result<(), TableError> {
        if self.users.as_ref().is_some_and(BTreeMap::is_empty) {
            self.change(uid, &render::remove_table(), None).await?;
        }
        Ok(())
    }

    async fn change(
        &mut self,
        uid: u32,
        text: &str,
        wanted: Option<BTreeMap<u32, Program>>,
    ) -> Result<(), TableError> {
        let Err(error) = self.attempt(text, &wanted).await else {
            self.users = wanted;
            return Ok(());
        };
        tracing::error!(uid, %error, "a change did not come about");
        // A change is computed from what was there. If someone else changed that, it is worth a second try.
        if !self.repair().await? {
            return Err(error);
        }
        if let Err(error) = self.attempt(text, &wanted).await {
            self.repair().await?;
            return Err(error);
        }
        self.users = wanted;
        Ok(())
    }

    async fn attempt(
        &self,
        text: &str,
        wanted: &Option<BTreeMap<u32, Program>>,
    ) -> Result<(), TableError> {
        self.nft.run(&["-f", "-"], text).await?;
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
        Ok(())
    }
}

/// Each version of nft lists rules in words of its own; this is what it makes of ours.
async fn probe(nft: &Tool) -> Result<Skeleton, TableError> {
    nft.run(&["-f", "-"], &render::probe()).await?;
    let listed = nft
        .run(&["-j", "list", "table", "inet", "adit_probe"], "")
        .await;
    nft.run(&["-f", "-"], &render::remove_probe()).await?;
    Ok(readback::skeleton(&listed?)?)
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
