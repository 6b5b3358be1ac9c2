//! Whose flows they are: users and groups, and patterns of them.

use std::fmt;

use crate::diagnostics::Fault;
use crate::truth::{OneOf, Truth};

/// What is known of the name of a user or a group.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum AccountName {
    /// Nothing.
    #[default]
    NotKnown,
    /// That there is none: whoever bears a number without a name is nobody whom a rule names.
    Nameless,
    /// This is it.
    Is(String),
}

/// Whose flows a policy judges. What is `None` is not known: it satisfies no `user` and no `group`, and a `not` that asks
/// for it cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct User {
    /// The login name.
    pub name: AccountName,
    /// The number.
    pub uid: Option<u32>,
    /// All groups, the primary one too.
    pub groups: Option<Vec<Group>>,
}

/// A group of a user.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Group {
    /// The name.
    pub name: AccountName,
    /// The number, when it is known.
    pub gid: Option<u32>,
}

/// The name, else the number, else `unknown`.
impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.name, self.uid) {
            (AccountName::Is(name), _) => f.write_str(name),
            (AccountName::NotKnown | AccountName::Nameless, Some(uid)) => uid.fmt(f),
            (AccountName::NotKnown | AccountName::Nameless, None) => f.write_str("unknown"),
        }
    }
}

/// A user or a group in a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Account {
    /// Of this name.
    Name(String),
    /// Of this number.
    Id(u32),
}

/// `user:` and `group:` of a rule; `None` is any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct People {
    pub(crate) users: Option<OneOf<Account>>,
    pub(crate) groups: Option<OneOf<Account>>,
}

impl People {
    /// Whether `user` is one of the users, and in one of the groups.
    pub(crate) fn truths(&self, user: &User) -> (Truth, Truth) {
        let users = truth(self.users.as_ref(), |account| {
            account.truth(&user.name, user.uid)
        });
        let groups = truth(self.groups.as_ref(), |account| match &user.groups {
            None => Truth::Doubt,
            Some(groups) => Truth::any(groups, |group| account.truth(&group.name, group.gid)),
        });
        (users, groups)
    }

    /// Whether all whom `other` takes are taken. Never a wrong yes.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let covers =
            |own: &Option<OneOf<Account>>, other: &Option<OneOf<Account>>| match (own, other) {
                (None, _) => true,
                (Some(_), None) => false,
                // A name and a number may be the same account, so that two accounts are never known to be apart.
                (Some(own), Some(other)) => own.covers(other, PartialEq::eq, |_, _| false),
            };
        covers(&self.users, &other.users) && covers(&self.groups, &other.groups)
    }
}

fn truth(list: Option<&OneOf<Account>>, ask: impl Fn(&Account) -> Truth) -> Truth {
    list.map_or(Truth::Yes, |list| list.truth(|it| ask(it).surely(), &ask))
}

impl Account {
    /// Reads a name or, of digits alone, a number.
    pub(crate) fn parse(text: &str) -> Result<Self, Fault> {
        let fault = || Fault::new(format!("{text:?} is not a user or a group"));
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            let id = text.parse().map(Self::Id);
            return id.map_err(|_| fault().hint(format!("numbers go from 0 to {}", u32::MAX)));
        }
        let is_wrong = |it: char| it.is_whitespace() || it.is_control() || ":/,".contains(it);
        if text.is_empty() || text.starts_with('-') || text.contains(is_wrong) {
            return Err(fault().hint("write a login name, the name of a group, or a number"));
        }
        Ok(Self::Name(text.to_owned()))
    }

    /// The one that it is.
    pub(crate) fn into_name_or_id(self) -> (AccountName, Option<u32>) {
        match self {
            Self::Name(name) => (AccountName::Is(name), None),
            Self::Id(id) => (AccountName::NotKnown, Some(id)),
        }
    }

    fn truth(&self, name: &AccountName, id: Option<u32>) -> Truth {
        match self {
            Self::Name(own) => match name {
                AccountName::NotKnown => Truth::Doubt,
                AccountName::Nameless => Truth::No,
                AccountName::Is(name) => (own == name).into(),
            },
            Self::Id(own) => id.map_or(Truth::Doubt, |id| (*own == id).into()),
        }
    }
}

/// As in the rule file.
impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Id(id) => id.fmt(f),
        }
    }
}
