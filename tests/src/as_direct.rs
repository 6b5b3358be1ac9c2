//! What any gateway has to do, whoever made it: each of these gives the same sights through it as directly.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::adit::Broker;
use crate::conversation::{Conversation, sights};
use crate::lab::Lab;

/// Flows at once.
pub const MANY: usize = 200;
/// A connection that carries 100 Mbit/s both ways for an hour has as many GiB to renew keys after.
pub const AN_HOURS_KEYS: usize = 80;
const PATIENCE: Duration = Duration::from_secs(30);

/// A broker with a gateway behind it, and the lab where both run.
#[derive(Debug, Clone, Copy)]
pub struct AsDirect<'a> {
    /// That lab.
    pub lab: &'a Lab,
    /// That broker, of Alice's.
    pub broker: &'a Broker,
}

impl AsDirect<'_> {
    /// Both ends see of this conversation what they see of it directly.
    ///
    /// # Errors
    /// When they do not.
    pub fn sees(&self, talk: &Conversation<'_>) -> Result<()> {
        talk.hold(self.lab, &self.lab.client())?
            .same_as(&talk.hold(self.lab, &self.lab.direct())?)
    }

    /// Ends of either side first, and what follows them.
    ///
    /// # Errors
    /// When the sights differ.
    pub fn keeps_ends_apart(&self) -> Result<()> {
        for (client, server) in [
            (
                "send 300K; finish; expect 5K; end",
                "expect 300K; end; send 5K; finish",
            ),
            (
                "expect 300K; end; send 5K; finish",
                "send 300K; finish; expect 5K; end",
            ),
        ] {
            self.sees(&Conversation::new(client, server))?;
        }
        Ok(())
    }

    /// A reset of either side is no end.
    ///
    /// # Errors
    /// When the sights differ.
    pub fn hands_resets_on(&self) -> Result<()> {
        for (client, server) in [
            ("send 10K; expect 10K; reset", "expect 10K; send 10K; end"),
            ("send 10K; expect 10K; end", "expect 10K; send 10K; reset"),
        ] {
            self.sees(&Conversation::new(client, server))?;
        }
        Ok(())
    }

    /// Beyond what a connection carries with one set of keys, where the server has a limit.
    ///
    /// # Errors
    /// When the sights differ.
    pub fn carries_bulk_both_ways(&self) -> Result<()> {
        self.sees(&Conversation::new("both 64M; finish; end", "both 64M; end"))
    }

    /// [`MANY`] flows, of which so many together have to be there before any of them ends.
    ///
    /// # Errors
    /// When the sights differ.
    pub fn carries_many_at_once(&self, together: usize) -> Result<()> {
        let client = format!("ping 3; meet {together}; ping 3; finish; end");
        self.sees(&Conversation::new(&client, "echo").times(MANY))
    }

    /// A quiet flow, beside one that carries what a connection does in an hour, where the server's or ssh's limits are small
    /// enough for new keys [`AN_HOURS_KEYS`] times.
    ///
    /// # Errors
    /// When a flow sees anything of it.
    pub fn lasts_an_hour(&self) -> Result<()> {
        let quiet = Conversation::new(
            "ping 300; pause 1500; ping 300; pause 1500; ping 300; finish; end",
            "echo",
        );
        let (mut listener, to) = quiet.listen(self.lab)?;
        let mut dialler = quiet.dial(&self.lab.client(), to)?;
        let busy = Conversation::new("number; both 16M; finish; end", "number; both 16M; end");
        self.sees(&busy.times(2))?;
        dialler.end(PATIENCE)?;
        listener.end(PATIENCE)?;
        let steps = sights(&dialler.stdout())?.remove(0).steps;
        ensure!(steps.last().is_some_and(|last| last == "end"), "{steps:?}");
        Ok(())
    }

    /// A program that does not read what comes stalls itself.
    ///
    /// # Errors
    /// When the sights of another differ.
    pub fn is_not_stalled_by_a_reader_that_stopped(&self) -> Result<()> {
        let stuck = Conversation::new("expect 1000; pause 60000", "flood");
        let (_listener, to) = stuck.listen(self.lab)?;
        let _dialler = stuck.dial(&self.lab.client(), to)?;
        self.broker.until_stuck(self.lab, &to.to_string())?;
        self.sees(&Conversation::new("both 1M; finish; end", "both 1M; end"))
    }

    /// All of this, with [`MANY`] flows together.
    ///
    /// # Errors
    /// When something of it fails, which.
    pub fn does_it_all(&self) -> Result<()> {
        self.hands_resets_on().context("resets")?;
        self.does_all_but_resets(MANY)
    }

    /// What SSH has words for, with so many flows together.
    ///
    /// # Errors
    /// When something of it fails, which.
    pub fn does_all_but_resets(&self, together: usize) -> Result<()> {
        self.keeps_ends_apart().context("ends")?;
        self.carries_bulk_both_ways().context("bulk")?;
        self.carries_many_at_once(together)
            .context("many at once")?;
        self.is_not_stalled_by_a_reader_that_stopped()
            .context("a reader that stopped")
    }
}
