//! How this kernel can hold a SYN. Found out once, at the start.

use std::fmt;
use std::io;

use adit_capture::wire::QueueBy;

use super::command::{CommandError, Tool};
use super::listed_rule::queued;
use super::queue::Queue;
use super::readback::{self, ReadError};
use super::{render, xtables};

/// By which means, or why not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holding {
    By(QueueBy),
    /// In words, for people.
    None(String),
}

/// One of the means that is of no use here.
#[derive(Debug, thiserror::Error)]
enum Useless {
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error("{0}")]
    Rule(#[from] io::Error),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("nft does not list the rule as ours")]
    Listed,
}

impl fmt::Display for Holding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holding::By(QueueBy::Nft) => write!(f, "the queue statement of nftables"),
            Holding::By(QueueBy::Xtables) => write!(f, "the NFQUEUE target of xtables"),
            Holding::None(why) => write!(f, "{why}"),
        }
    }
}

/// Tries it out in the table that is there for the purpose.
pub(crate) async fn probe(nft: &Tool) -> Holding {
    if let Err(error) = Queue::try_out() {
        return Holding::None(error.to_string());
    }
    let of_nft = match by_nft(nft).await {
        Ok(()) => return Holding::By(QueueBy::Nft),
        Err(error) => first_line(&error),
    };
    match by_xtables(nft).await {
        Ok(()) => Holding::By(QueueBy::Xtables),
        Err(error) => Holding::None(format!(
            "by nftables: {of_nft}; by xtables: {}",
            first_line(&error)
        )),
    }
}

async fn by_nft(nft: &Tool) -> Result<(), Useless> {
    nft.run(&["-f", "-"], &render::probe_queue()).await?;
    listed(nft, QueueBy::Nft).await
}

async fn by_xtables(nft: &Tool) -> Result<(), Useless> {
    nft.run(&["-f", "-"], &render::probe_chain()).await?;
    xtables::add_queue_rule("adit_probe", render::PROBE_CHAIN, render::PROBE_QUEUE)?;
    listed(nft, QueueBy::Xtables).await
}

/// A rule that could not be read back would be a strange one to the next helper.
async fn listed(nft: &Tool, by: QueueBy) -> Result<(), Useless> {
    let words = [
        "-j",
        "list",
        "chain",
        "inet",
        "adit_probe",
        render::PROBE_CHAIN,
    ];
    let rules = readback::rules_listed(&nft.run(&words, "").await?)?;
    match rules.as_slice() {
        [rule] if queued(render::PROBE_QUEUE, rule) == Some(by) => Ok(()),
        _ => Err(Useless::Listed),
    }
}

/// nft draws what it did not like below.
fn first_line(error: &Useless) -> String {
    error
        .to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}
