//! What any gateway has to do, whoever made it: each of these gives the same sights through it as directly.

use anyhow::{Context, Result};

use crate::adit::Broker;
use crate::conversation::Conversation;
use crate::lab::Lab;

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

    /// So many flows that live at once.
    ///
    /// # Errors
    /// When the sights differ.
    pub fn carries_many_at_once(&self, count: usize) -> Result<()> {
        self.sees(&Conversation::new("ping 5; finish; end", "echo").times(count))
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

    /// All of this, with so many flows at once.
    ///
    /// # Errors
    /// When something of it fails, which.
    pub fn does_it_all(&self, at_once: usize) -> Result<()> {
        self.hands_resets_on().context("resets")?;
        self.does_all_but_resets(at_once)
    }

    /// What SSH has words for, with so many flows at once.
    ///
    /// # Errors
    /// When something of it fails, which.
    pub fn does_all_but_resets(&self, at_once: usize) -> Result<()> {
        self.keeps_ends_apart().context("ends")?;
        self.carries_bulk_both_ways().context("bulk")?;
        self.carries_many_at_once(at_once).context("many at once")?;
        self.is_not_stalled_by_a_reader_that_stopped()
            .context("a reader that stopped")
    }
}
