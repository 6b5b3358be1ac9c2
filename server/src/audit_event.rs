//! What the audit tells, by numbers that stay: a number is never given to another kind of event, and
//! docs/gateways.md has them all.

/// A kind of line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Somebody logged in.
    Login,
    /// That session is over.
    Logout,
    /// Somebody was not let in.
    LoginRefused,
    /// A flow was opened.
    Open,
    /// One was not.
    Refuse,
    /// One ended.
    End,
    /// A link refused flows by itself.
    Surplus,
    /// A client lets the gateway listen for it.
    Listen,
    /// No more.
    Unlisten,
    /// The file was read again.
    Reload,
    /// Nothing new is taken.
    Drain,
    /// An administrator ended a session.
    Kill,
    /// Lines that could not be written.
    Lost,
}

impl Event {
    /// All there are.
    pub const ALL: [Self; 13] = [
        Self::Login,
        Self::Logout,
        Self::LoginRefused,
        Self::Open,
        Self::Refuse,
        Self::End,
        Self::Surplus,
        Self::Listen,
        Self::Unlisten,
        Self::Reload,
        Self::Drain,
        Self::Kill,
        Self::Lost,
    ];

    /// Its number.
    pub fn id(self) -> u64 {
        match self {
            Self::Login => 100,
            Self::Logout => 101,
            Self::LoginRefused => 102,
            Self::Open => 200,
            Self::Refuse => 201,
            Self::End => 202,
            Self::Surplus => 203,
            Self::Listen => 210,
            Self::Unlisten => 211,
            Self::Reload => 300,
            Self::Drain => 301,
            Self::Kill => 302,
            Self::Lost => 900,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Logout => "logout",
            Self::LoginRefused => "login_refused",
            Self::Open => "open",
            Self::Refuse => "refuse",
            Self::End => "end",
            Self::Surplus => "surplus",
            Self::Listen => "listen",
            Self::Unlisten => "unlisten",
            Self::Reload => "reload",
            Self::Drain => "drain",
            Self::Kill => "kill",
            Self::Lost => "lost",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of docs/gateways.md: `| 200 | `open` | …`.
    #[test]
    fn the_manual_has_them_all() {
        let manual = include_str!("../../docs/gateways.md");
        let mut listed = Vec::new();
        for line in manual.lines() {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            if let [_, id, name, ..] = cells[..]
                && let (Ok(id), Some(name)) = (id.parse::<u64>(), name.strip_prefix('`'))
            {
                listed.push((id, name.trim_end_matches('`').to_owned()));
            }
        }
        let all: Vec<_> = Event::ALL
            .iter()
            .map(|e| (e.id(), e.name().to_owned()))
            .collect();
        assert_eq!(listed, all);
    }
}
