//! The one who changes the kernel: takes claims, releases and ends of sessions one after another.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use adit_capture::wire::{ErrorCode, QueueBy};
use adit_capture::{Claim, ClaimError, OnBrokerGone};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::background::off_the_loop;
use super::fallback::{Fallback, FallbackError, Routes};
use super::holding::Holding;
use super::listener::{ListenerError, Listeners};
use super::program::{FAMILIES, Live, Ports, Program, QueueRule, asks, handed_over};
use super::queue::{MOST, MOST_OF_A_USER, Onward, Queue, QueueError};
use super::table::{Table, TableError};

/// Most networks and port ranges of all users together, and of those whose claims are so small that they should find room
/// whatever others claim.
const ROOM: usize = 196_608;
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
    #[error("user {0} is root or a system account; the helper's configuration does not name it")]
    NotAllowed(u32),
    #[error("cannot make the sockets of a queue: {0}")]
    Descriptors(#[source] io::Error),
    #[error("this kernel cannot hold a connection at its SYN: {0}")]
    NoQueue(String),
    #[error("a claim that asks needs a queue, and this session has none")]
    NothingToAskBy,
    #[error(transparent)]
    Queue(#[from] QueueError),
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
            Refusal::Claim(_) | Refusal::NothingToAskBy => ErrorCode::BadClaim,
            Refusal::NotAllowed(_) => ErrorCode::NotAllowed,
            Refusal::NoQueue(_) => ErrorCode::NoQueue,
            Refusal::Listener(_) | Refusal::PortTaken { .. } => ErrorCode::BadListener,
            Refusal::Room { .. }
            | Refusal::Connection(_)
            | Refusal::Queue(_)
            | Refusal::Descriptors(_)
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
    /// For a claim that asks.
    queue: Option<Arc<Queue>>,
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
        match keeper.table.holding() {
            Holding::By(_) => {
                tracing::info!(by = %keeper.table.holding(), "connections can be held")
            }
            Holding::None(why) => tracing::warn!(%why, "connections cannot be held"),
        }
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

    /// A queue that no user's rules lead to, and how its packets come into it.
    pub(crate) fn queue(&self) -> Result<(QueueBy, Arc<Queue>), Refusal> {
        let by = match self.table.holding() {
            Holding::By(by) => *by,
            Holding::None(why) => return Err(Refusal::NoQueue(why.clone())),
        };
        let holds = self
            .table
            .users()
            .filter_map(|(_, user)| user.hold.as_ref());
        let taken: Vec<u16> = holds.map(|hold| hold.queue.number).collect();
        let queue = Queue::open(|number| taken.contains(&number))?;
        Ok((by, Arc::new(queue)))
    }

    pub(crate) async fn claim(
        &mut self,
        (session, connection): (SessionId, Connection),
        uid: u32,
        claim: Box<Claim>,
        (listeners, queue): (Listeners, Option<Arc<Queue>>),
    ) -> Result<(), Refusal> {
        self.check_holder(session, uid)?;
        self.check_ports(uid, listeners.ports)?;
        let queue = match (asks(&claim), queue) {
            (true, Some(queue)) => Some(queue),
            (true, None) => return Err(Refusal::NothingToAskBy),
            (false, _) => None,
        };
        let rule = self.queue_rule(queue.as_deref());
        // Rules lead to it from one moment to the next: it holds by then.
        self.share(queue.as_ref());
        let changed = match listeners.mark(uid) {
            Ok(()) => self.change(uid, claim, (listeners.ports, rule)).await,
            Err(error) => Err(error.into()),
        };
        let holder = self.holders.get(&uid).map(|holder| &holder.listeners);
        if let Err(refusal) = changed {
            listeners.unmark(holder);
            self.share(None);
            return Err(refusal);
        }
        if let Some(before) = holder {
            before.unmark(Some(&listeners));
        }
        let number = queue.as_ref().map(|queue| queue.number());
        let before = self.holders.insert(
            uid,
            Holder {
                session,
                connection,
                listeners,
                queue,
            },
        );
        self.share(None);
        let before = before.and_then(|before| before.queue);
        if let Some(before) = before.filter(|before| number != Some(before.number())) {
            go_on(uid, before, Onward::NotOut).await;
        }
        Ok(())
    }

    fn queue_rule(&self, queue: Option<&Queue>) -> Option<QueueRule> {
        let by = match self.table.holding() {
            Holding::By(by) => Some(*by),
            Holding::None(_) => None,
        };
        queue.map(|queue| QueueRule {
            number: queue.number(),
            by,
        })
    }

    /// All that may be held is shared evenly among those who ask, and who is `about_to`; none of them may hold more than is
    /// enough for one.
    fn share(&self, about_to: Option<&Arc<Queue>>) {
        let asking = self
            .holders
            .values()
            .filter_map(|holder| holder.queue.as_ref());
        let queues: BTreeMap<u16, &Arc<Queue>> = asking
            .chain(about_to)
            .map(|queue| (queue.number(), queue))
            .collect();
        let share = MOST_OF_A_USER.min(MOST / queues.len().max(1));
        for (number, queue) in queues {
            if let Err(error) = queue.hold(share) {
                tracing::error!(number, %error, "cannot bound a queue");
            }
        }
    }

    /// Rules and routes of a claim in the place of those that the user has; or neither.
    async fn change(
        &mut self,
        uid: u32,
        claim: Box<Claim>,
        (ports, queue): (Ports, Option<QueueRule>),
    ) -> Result<(), Refusal> {
        let before = self.table.user(uid).cloned();
        let steps = claim.steps.len();
        let compile = move || {
            let program = Program::of_claim(&claim, ports, queue);
            (program, routes(&claim, ports))
        };
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
        tracing::info!(uid, ?ports, ?queue, steps, "claimed");
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
        self.share(None);
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
            OnBrokerGone::Block => self.block(uid).await,
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

    async fn block(&mut self, uid: u32) -> Result<(), Refusal> {
        self.table.swap(uid, Live::Gone).await?;
        self.nothing_held(uid, Onward::NotOut).await;
        Ok(())
    }

    async fn remove(&mut self, uid: u32) -> Result<(), Refusal> {
        // Routes first: without rules they would lead packets nowhere, and connect would hang instead of fail.
        self.fallback.put(uid, &Routes::default()).await?;
        if self
            .holders
            .get(&uid)
            .is_some_and(|holder| holder.queue.is_some())
        {
            self.table.empty(uid).await?;
            self.nothing_held(uid, Onward::Anywhere).await;
        }
        self.table.remove(uid).await?;
        Ok(())
    }

    /// What a user's broker was asked about and did not answer meets the rules as they are now.
    async fn nothing_held(&mut self, uid: u32, onward: Onward) {
        let queue = self
            .holders
            .get_mut(&uid)
            .and_then(|holder| holder.queue.take());
        if let Some(queue) = queue {
            go_on(uid, queue, onward).await;
        }
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

/// A packet that goes on is sent then and there, so many take some time.
async fn go_on(uid: u32, queue: Arc<Queue>, onward: Onward) {
    let done = off_the_loop(move || queue.let_go(onward)).await;
    let done = done.map_err(io::Error::other).flatten();
    if let Err(error) = done {
        tracing::error!(uid, %error, "what was held stays so until its queue is closed");
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
