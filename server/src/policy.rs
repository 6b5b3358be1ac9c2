//! The policy of the zone: who may reach what. Nothing is allowed that no entry allows. No socket,
//! file or clock here.
//!
//! Only [`Policy`] makes an [`Authorized`], and only an [`Authorized`] can be dialled (see
//! [`crate::dial`]); for a name, only it makes the [`Resolvable`] that can be looked up. So no step
//! can be skipped, and the address that was judged is the one dialled.
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use adit_rules::Destination;
use adit_rules::pattern::AllowEntry;

use crate::asked::Asked;
use crate::asker::{Asker, Conditions};
use crate::special::{self, SpecialRange};
use crate::user_name::UserName;

/// One entry: under these conditions these destinations may be reached.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name, for people.
    pub name: Arc<str>,
    /// Whom it is for, and when.
    pub conditions: Conditions,
    /// What they may reach.
    pub allow: Vec<AllowEntry>,
}

/// All entries. An empty policy allows nothing.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    entries: Vec<Entry>,
    /// Members of groups, whether or not an entry is for them.
    members: HashSet<UserName>,
}

/// Leave to dial one address, made by [`Policy`] alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorized {
    address: SocketAddr,
    entry: Arc<str>,
}

impl Authorized {
    /// The address that was judged.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The name of the entry that allows it.
    pub fn entry(&self) -> &str {
        &self.entry
    }
}

/// Leave to look a name up, made by [`Policy`] alone: some entry could allow what it resolves to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolvable {
    user: UserName,
    name: String,
    port: u16,
}

impl Resolvable {
    /// Who asked.
    pub fn user(&self) -> &UserName {
        &self.user
    }

    /// The name, as [`Asked::Name`] has it.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// What the policy says before any name is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// An address that may be dialled.
    Dial(Authorized),
    /// A name that may be looked up; then [`Policy::judge_resolved`].
    Resolve(Resolvable),
}

/// The policy's no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// No entry of this user covers it.
    #[error("no entry allows {user} to reach {destination}")]
    NoEntry {
        /// Who asked.
        user: UserName,
        /// What was asked for, with the addresses it resolved to.
        destination: String,
    },
    /// An entry covers it, but does not name the special range that the address is in.
    #[error("entry {entry:?} covers {destination}, but {address} is {} ({}), which needs an entry of its own", range.what, range.network)]
    Withheld {
        /// The first entry that covers it.
        entry: Arc<str>,
        /// What was asked for.
        destination: String,
        /// The address in the special range.
        address: IpAddr,
        /// The range.
        range: &'static SpecialRange,
    },
}

impl Denial {
    /// What the broker is told: enough for its user to ask the administrator, nothing about the
    /// network behind.
    pub fn for_broker(&self) -> String {
        match self {
            Self::NoEntry { .. } => {
                "denied by policy of the gateway: no entry allows it".to_owned()
            }
            Self::Withheld { entry, .. } => {
                format!(
                    "denied by policy of the gateway: entry {entry:?} does not reach the gateway's own addresses"
                )
            }
        }
    }
}

impl Policy {
    /// A policy of these entries. Their order only decides which of several fitting ones is named.
    pub fn new(entries: Vec<Entry>) -> Self {
        let members = HashSet::new();
        Self { entries, members }
    }

    /// The same with users that are known though no entry is for them.
    #[must_use]
    pub fn with_members(self, members: HashSet<UserName>) -> Self {
        Self { members, ..self }
    }

    /// Is this a user of ours at all? A file of keys alone makes none: it may be a backup of
    /// another user's.
    pub fn knows(&self, user: &UserName) -> bool {
        let named = |entry: &Entry| entry.conditions.users.contains(user);
        self.members.contains(user) || self.entries.iter().any(named)
    }

    /// Is this a principal of ours? Whoever has a certificate that names one is a user as well.
    pub fn knows_principal(&self, principal: &str) -> bool {
        let named = |entry: &Entry| entry.conditions.principals.contains(principal);
        self.entries.iter().any(named)
    }

    /// Are there such principals at all?
    pub fn has_principals(&self) -> bool {
        let has = |entry: &Entry| !entry.conditions.principals.is_empty();
        self.entries.iter().any(has)
    }

    /// The entries.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// May `asker` reach what was asked for? A name is only looked up when some entry could allow
    /// the result: otherwise anyone could use the gateway to ask its resolver, or to send data out
    /// in names.
    ///
    /// # Errors
    /// Why not.
    pub fn judge(&self, asker: &Asker<'_>, asked: &Asked) -> Result<Judgement, Denial> {
        match asked {
            Asked::Address(at) => self
                .permit(asker, *at, &asked.destination(), asked.to_string())
                .map(Judgement::Dial),
            Asked::Name { name, port } => {
                let by_name = asked.destination();
                let some_entry = self
                    .allows_of(asker)
                    .any(|(_, allow)| allow.matches(&by_name) || has_port(allow, *port));
                if !some_entry {
                    return Err(Denial::NoEntry {
                        user: asker.user.clone(),
                        destination: asked.to_string(),
                    });
                }
                Ok(Judgement::Resolve(Resolvable {
                    user: asker.user.clone(),
                    name: name.clone(),
                    port: *port,
                }))
            }
        }
    }

    /// Of the addresses that a name resolved to, those that may be dialled, in the resolver's
    /// order; never empty.
    ///
    /// # Errors
    /// None may be: why the first one may not.
    pub fn judge_resolved(
        &self,
        asker: &Asker<'_>,
        resolvable: &Resolvable,
        addresses: &[IpAddr],
    ) -> Result<Vec<Authorized>, Denial> {
        let Resolvable { name, port, .. } = resolvable;
        let mut permitted = Vec::new();
        let mut denied = None;
        for address in addresses.iter().copied().map(special::canonical) {
            let at = SocketAddr::new(address, *port);
            let destination = Destination {
                address: Some(address),
                name: Some(name.clone()),
                port: *port,
            };
            match self.permit(
                asker,
                at,
                &destination,
                format!("{name}:{port} ({address})"),
            ) {
                Ok(authorized) => permitted.push(authorized),
                Err(denial) => denied = denied.or(Some(denial)),
            }
        }
        if permitted.is_empty() {
            let no_address = || Denial::NoEntry {
                user: asker.user.clone(),
                destination: format!("{name}:{port}"),
            };
            return Err(denied.unwrap_or_else(no_address));
        }
        Ok(permitted)
    }

    fn permit(
        &self,
        asker: &Asker<'_>,
        at: SocketAddr,
        seen: &Destination,
        shown: String,
    ) -> Result<Authorized, Denial> {
        let mut denied = None;
        for (entry, allow) in self
            .allows_of(asker)
            .filter(|(_, allow)| allow.matches(seen))
        {
            match special::withheld(at.ip(), allow.network()) {
                None => {
                    return Ok(Authorized {
                        address: at,
                        entry: entry.name.clone(),
                    });
                }
                Some(range) => denied = denied.or(Some((entry.name.clone(), range))),
            }
        }
        Err(match denied {
            Some((entry, range)) => Denial::Withheld {
                entry,
                destination: shown,
                address: at.ip(),
                range,
            },
            None => Denial::NoEntry {
                user: asker.user.clone(),
                destination: shown,
            },
        })
    }

    fn allows_of(&self, asker: &Asker<'_>) -> impl Iterator<Item = (&Entry, &AllowEntry)> {
        let entries = self
            .entries
            .iter()
            .filter(|entry| entry.conditions.hold(asker));
        entries.flat_map(|entry| entry.allow.iter().map(move |allow| (entry, allow)))
    }
}

/// Does an entry by network cover this port, whatever the address?
fn has_port(allow: &AllowEntry, port: u16) -> bool {
    allow.network().is_some_and(|network| {
        allow.matches(&Destination {
            address: Some(network.addr()),
            name: None,
            port,
        })
    })
}
