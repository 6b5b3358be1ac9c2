//! The one who changes the kernel: takes claims, releases and ends of sessions one after another.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use adit_capture::wire::ErrorCode;
use adit_capture::{Claim, ClaimError, OnBrokerGone};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::background::off_the_loop;
use super::fallback::{Fallback, FallbackError, Routes};
use super::listener::{ListenerError, Listeners};
use super::program::{FAMILIES, Live, Ports, Program, handed_over};
use super::table::{Table, TableError};

/// Most networks and port ranges of all users together, and of those whose claims are so small that they should find room
/// whatever others claim.
const ROOM: usize = 131_072;
const ROOM_OF_SMALL: usize = 65_536;
const SMALL: usize = 1024;

/// A session, for as long as the helper runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SessionId(pub(crate) u64);

/// A descriptor of a session's connection, to see whether the broker is still at its other end.
pub(crate) type Connection = OwnedFd;

/// What was not done, and why.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("another broker of this user holds the claim")]
    Busy,
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error(transparent)]
    Listener(#[from] ListenerError),
    #[error("port {port} still belongs to the claim of user {uid}")]
    PortTaken { port: u16, uid: u32 },
    #[error(
        "{size} networks and port ranges; of {room} for claims of that size other users' take {taken}"
    )]
    Room {
        size: usize,
        room: usize,
        taken: usize,
    },
    #[error("cannot duplicate the connection: {0}")]
    Connection(#[source] io::Error),
    #[error("{0}")]
    Table(#[from] TableError),
    #[error("routes: {0}")]
    Fallback(#[from] FallbackError),
    #[error("a thread of the helper: {0}")]
    Thread(#[from] tokio::task::JoinError),
    #[error("the helper is stopping")]
    Stopping,
}

impl Refusal {
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Refusal::Busy => ErrorCode::Busy,
            Refusal::Claim(_) => ErrorCode::BadClaim,
            Refusal::Listener(_) | Refusal::PortTaken { .. } => ErrorCode::BadListener,
            Refusal::Room { .. }
            | Refusal::Connection(_)
            | Refusal::Table(_)
            | Refusal::Fallback(_)
            | Refusal::Thread(_)
            | Refusal::Stopping => ErrorCode::Kernel,
        }
    }
}

/// A user whose broker is there.
#[derive(Debug)]
struct Holder {
    session: SessionId,
    connection: Connection,
    /// Kept so that nobody else can bind the ports between the broker's end and the change that follows it.
    listeners: Listeners,
}

impl Holder {
    fn has_left(&self) -> bool {
        let mut connection = [PollFd::new(self.connection.as_fd(), PollFlags::empty())];
        poll(&mut connection, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
            && connection[0]
                .revents()
                .is_some_and(|events| events.contains(PollFlags::POLLHUP))
    }
}

/// The kernel's rules and routes, and who holds which.
#[derive(Debug)]
pub(crate) struct Keeper {
    table: Table,
    fallback: Fallback,
    holders: BTreeMap<u32, Holder>,
}

impl Keeper {
    /// One that holds nothing yet.
    pub(crate) fn new(table: Table, fallback: Fallback) -> Keeper {
        Keeper {
            table,
            fallback,
            holders: BTreeMap::new(),
        }
    }

    /// Takes over what an earlier helper left; every user's rules stay as they are.
    pub(crate) async fn adopt(table: Table, fallback: Fallback) -> Result<Keeper, Refusal> {
        let keeper = Keeper::new(table, fallback);
        for uid in keeper.fallback.users().await? {
            if keeper.table.user(uid).is_none() {
                tracing::warn!(
                    uid,
                    "routes without rules were left behind; they are removed"
                );
                keeper.fallback.put(uid, &Routes::default()).await?;
            }
        }
        for (uid, program) in keeper.table.users() {
            tracing::info!(uid, word = ?program.word, live = ?program.live, "adopted");
        }
        Ok(keeper)
    }

    /// How many users have rules in the kernel.
    pub(crate) fn users(&self) -> usize {
        self.table.users().count()
    }

    pub(crate) async fn claim(
        &mut self,
        (session, connection): (SessionId, Connection),
        uid: u32,
        claim: Box<Claim>,
        listeners: Listeners,
    ) -> Result<(), Refusal> {
        self.check_holder(session, uid)?;
        self.check_ports(uid, listeners.ports)?;
        let changed = match listeners.mark(uid) {
            Ok(()) => self.change(uid, claim, listeners.ports).await,
            Err(error) => Err(error.into()),
        };
        let holder = self.holders.get(&uid).map(|holder| &holder.listeners);
        if let Err(refusal) = changed {
            listeners.unmark(holder);
            return Err(refusal);
        }
        if let Some(before) = holder {
            before.unmark(Some(&listeners));
        }
        self.holders.insert(
            uid,
            Holder {
                session,
                connection,
                listeners,
            },
        );
        Ok(())
    }

    /// Rules and routes of a claim in the place of those that the user has; or neither.
    async fn change(&mut self, uid: u32, claim: Box<Claim>, ports: Ports) -> Result<(), Refusal> {
        let before = self.table.user(uid).cloned();
        let steps = claim.steps.len();
        let compile = move || (Program::of_claim(&claim, ports), routes(&claim, ports));
        let (program, routes) = off_the_loop(compile).await?;
        self.check_room(uid, &program)?;
        self.table.put(uid, program).await?;
        if let Err(error) = self.fallback.put(uid, &routes).await {
            match before {
                Some(before) => self.table.put(uid, before).await?,
                None => self.table.remove(uid).await?,
            }
            return Err(error.into());
        }
        tracing::info!(uid, ?ports, steps, "claimed");
        Ok(())
    }

    pub(crate) async fn release(&mut self, session: SessionId, uid: u32) -> Result<(), Refusal> {
        self.check_holder(session, uid)?;
        self.remove(uid).await?;
        self.let_go(uid);
        tracing::info!(uid, "released");
        Ok(())
    }

    /// A session has ended, with or without a release before.
    pub(crate) async fn ended(&mut self, session: SessionId, uid: u32) {
        if self
            .holders
            .get(&uid)
            .is_some_and(|holder| holder.session == session)
        {
            self.orphan(uid).await;
            self.let_go(uid);
        }
    }

    fn let_go(&mut self, uid: u32) {
        if let Some(holder) = self.holders.remove(&uid) {
            holder.listeners.unmark(None);
        }
    }

    /// The time for brokers to come back is over: what nobody took up gets its word applied.
    pub(crate) async fn grace_over(&mut self) {
        let left: Vec<u32> = self.table.users().map(|(uid, _)| uid).collect();
        for uid in left
            .into_iter()
            .filter(|uid| !self.holders.contains_key(uid))
            .collect::<Vec<_>>()
        {
            self.orphan(uid).await;
        }
    }

    /// Some table was deleted. If it was ours, it is there again soon.
    pub(crate) async fn table_deleted(&mut self) {
        match self.table.repair().await {
            Ok(false) => {}
            Ok(true) => tracing::warn!("someone deleted or changed our table; it is written anew"),
            Err(error) => {
                tracing::error!(%error, "someone deleted our table; cannot write it anew")
            }
        }
    }

    /// The helper stops: what must not leak stays, refused; everything else goes.
    pub(crate) async fn stop(&mut self) {
        let users: Vec<u32> = self.table.users().map(|(uid, _)| uid).collect();
        for uid in users {
            self.orphan(uid).await;
            self.let_go(uid);
        }
    }

    /// Removes what is left of one user, or of all.
    pub(crate) async fn clean(&mut self, uid: Option<u32>) -> Result<(), Refusal> {
        let mut users = self.fallback.users().await?;
        users.extend(self.table.users().map(|(uid, _)| uid));
        for user in users
            .into_iter()
            .filter(|user| uid.is_none_or(|uid| uid == *user))
        {
            self.remove(user).await?;
        }
        Ok(())
    }

    async fn orphan(&mut self, uid: u32) {
        let Some(word) = self.table.user(uid).map(|program| program.word) else {
            return;
        };
        let done = match word {
            OnBrokerGone::Block => self
                .table
                .swap(uid, Live::Gone)
                .await
                .map_err(Refusal::from),
            OnBrokerGone::Release => self.remove(uid).await,
        };
        match done {
            Ok(()) => tracing::warn!(
                uid,
                ?word,
                "the broker is gone; its claim's word is applied"
            ),
            // What is in the kernel then still leads to a port that nobody listens on: refused, not leaked.
            Err(error) => tracing::error!(uid, ?word, %error, "cannot apply the claim's word"),
        }
    }

    async fn remove(&mut self, uid: u32) -> Result<(), Refusal> {
        // Routes first: without rules they would lead packets nowhere, and connect would hang instead of fail.
        self.fallback.put(uid, &Routes::default()).await?;
        self.table.remove(uid).await?;
        Ok(())
    }

    fn check_holder(&self, session: SessionId, uid: u32) -> Result<(), Refusal> {
        match self.holders.get(&uid) {
            // The news of its end may still be on its way to us.
            Some(holder) if holder.session != session && !holder.has_left() => Err(Refusal::Busy),
            Some(_) | None => Ok(()),
        }
    }

    /// nft lists all that there is at each change, and takes memory for it.
    fn check_room(&self, uid: u32, program: &Program) -> Result<(), Refusal> {
        let size = program.size();
        let room = if size > SMALL { ROOM } else { ROOM_OF_SMALL };
        let taken = self
            .table
            .users()
            .filter(|(other, _)| *other != uid)
            .map(|(_, program)| program.size())
            .filter(|other| (*other > SMALL) == (size > SMALL))
            .sum();
        if size > room.saturating_sub(taken) {
            return Err(Refusal::Room { size, room, taken });
        }
        Ok(())
    }

    /// A port of a user whose broker is dead may have been bound by someone else in the meantime.
    fn check_ports(&self, uid: u32, ports: Ports) -> Result<(), Refusal> {
        for family in FAMILIES {
            let Some(port) = ports.of(family) else {
                continue;
            };
            let taken = |(other, program): &(u32, &Program)| {
                *other != uid && program.ports.of(family) == Some(port)
            };
            if let Some((uid, _)) = self.table.users().find(taken) {
                return Err(Refusal::PortTaken { port, uid });
            }
        }
        Ok(())
    }
}

fn routes(claim: &Claim, ports: Ports) -> Routes {
    let mut routes = Routes::default();
    for family in FAMILIES {
        if ports.of(family).is_some() {
            routes.set(family, handed_over(claim, family).networks(family));
        }
    }
    routes
}
