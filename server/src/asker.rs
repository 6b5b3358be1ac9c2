//! Who asks for a destination, and the conditions on that which an entry of the policy may have.
use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::civil::DateTime;

use crate::opening_hours::OpeningHours;
use crate::user_name::UserName;
use crate::wildcard;

/// Who asks, from where, with what, and when.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// Who has logged in.
    pub user: &'a UserName,
    /// Whom else a certificate of the gateway's authority names; nobody where it was none.
    pub principals: &'a [String],
    /// The client's address, where it is known.
    pub from: Option<IpAddr>,
    /// What the broker says about the application. Not proven: a broker can say anything.
    pub application: Option<&'a str>,
    /// The gateway's own time.
    pub at: DateTime,
}

/// What an entry asks of whoever asks; all of it has to be so.
#[derive(Debug, Clone, Default)]
pub struct Conditions {
    /// These users, groups already replaced by their members, …
    pub users: HashSet<UserName>,
    /// … or whose certificate names one of these.
    pub principals: HashSet<String>,
    /// From one of these; from anywhere when empty.
    pub from: Vec<IpNet>,
    /// With one of these; with any when empty.
    pub applications: Vec<ApplicationPattern>,
    /// Then; at any time when not said.
    pub when: Option<OpeningHours>,
}

impl Conditions {
    /// For these users, whatever else.
    pub fn users(users: HashSet<UserName>) -> Self {
        Self {
            users,
            ..Self::default()
        }
    }

    /// Are they met?
    pub fn hold(&self, asker: &Asker<'_>) -> bool {
        let named = |principal: &String| self.principals.contains(principal);
        let is_for = self.users.contains(asker.user) || asker.principals.iter().any(named);
        let comes_from = |from: IpAddr| self.from.iter().any(|network| network.contains(&from));
        let is_application = |path: &str| self.applications.iter().any(|app| app.fits(path));
        is_for
            && (self.from.is_empty() || asker.from.is_some_and(comes_from))
            && (self.applications.is_empty() || asker.application.is_some_and(is_application))
            && self.when.is_none_or(|when| when.hold(asker.at))
    }
}

/// A program: the last part of its path, or the whole; `*` and `?` stand for any characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplicationPattern(String);

/// Neither a name nor a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a program or the absolute path of one")]
pub struct BadApplication;

impl std::str::FromStr for ApplicationPattern {
    type Err = BadApplication;

    fn from_str(text: &str) -> Result<Self, BadApplication> {
        match text.is_empty() || text.contains('/') && !text.starts_with(['/', '*']) {
            true => Err(BadApplication),
            false => Ok(Self(text.to_owned())),
        }
    }
}

impl ApplicationPattern {
    fn fits(&self, path: &str) -> bool {
        let compared = match self.0.contains('/') {
            true => path,
            false => path.rsplit('/').next().unwrap_or(path),
        };
        wildcard::fits_exactly(&self.0, compared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: DateTime = jiff::civil::date(2026, 1, 2).at(12, 0, 0, 0);

    fn check(conditions: &Conditions, change: impl Fn(&mut Asker<'_>), holds: bool) {
        let user = "alice".parse().expect("name");
        let mut asker = Asker {
            user: &user,
            principals: &[],
            from: Some("10.1.2.3".parse().expect("address")),
            application: Some("/usr/bin/psql"),
            at: TIME,
        };
        change(&mut asker);
        assert_eq!(conditions.hold(&asker), holds, "{conditions:?} {asker:?}");
    }

    fn alice() -> Conditions {
        Conditions::users(HashSet::from(["alice".parse().expect("name")]))
    }

    #[test]
    fn each_condition_has_to_hold() {
        check(&alice(), |_| {}, true);
        check(&Conditions::default(), |_| {}, false);
        let mut from = alice();
        from.from = vec!["10.0.0.0/8".parse().expect("network")];
        check(&from, |_| {}, true);
        check(
            &from,
            |asker| asker.from = Some("192.0.2.1".parse().expect("address")),
            false,
        );
        check(&from, |asker| asker.from = None, false);
        let mut with = alice();
        with.applications = vec![
            "psql".parse().expect("name"),
            "/opt/*/erp".parse().expect("path"),
        ];
        check(&with, |_| {}, true);
        check(
            &with,
            |asker| asker.application = Some("/opt/sap/erp"),
            true,
        );
        check(
            &with,
            |asker| asker.application = Some("/usr/bin/PSQL"),
            false,
        );
        check(
            &with,
            |asker| asker.application = Some("/usr/bin/psql2"),
            false,
        );
        check(&with, |asker| asker.application = None, false);
        let mut when = alice();
        when.when = Some("sat,sun".parse().expect("hours"));
        check(&when, |_| {}, false);
        check(
            &when,
            |asker| asker.at = jiff::civil::date(2026, 1, 3).at(0, 0, 0, 0),
            true,
        );
    }

    #[test]
    fn a_principal_is_as_good_as_a_name() {
        let conditions = Conditions {
            principals: HashSet::from(["dba".to_owned()]),
            ..Conditions::default()
        };
        check(&conditions, |_| {}, false);
        let principals = ["alice".to_owned(), "dba".to_owned()];
        let user = "carol".parse().expect("name");
        let asker = Asker {
            user: &user,
            principals: &principals,
            from: None,
            application: None,
            at: TIME,
        };
        assert!(conditions.hold(&asker));
        assert!(!alice().hold(&asker), "a principal is no user");
    }
}
