//! The people of the lab. They exist only in its private `/etc/passwd`.

/// Who runs a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// The superuser.
    Root,
    /// An ordinary user, whose programs Adit captures.
    Alice,
    /// A second ordinary user beside her.
    Bob,
    /// The unprivileged service account of `adit-server`.
    Service,
    /// The unprivileged account of servers that refuse to run as root.
    Daemon,
}

impl User {
    /// Everyone whom the lab adds to the machine's own accounts.
    pub(crate) const ADDED: [User; 4] = [User::Alice, User::Bob, User::Service, User::Daemon];

    /// Login name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            User::Root => "root",
            User::Alice => "adit-alice",
            User::Bob => "adit-bob",
            User::Service => "adit-gateway",
            User::Daemon => "adit-daemon",
        }
    }

    /// Numeric id, of the user and of the group alike. People have 1000 or more, services have less.
    #[must_use]
    pub fn uid(self) -> u32 {
        match self {
            User::Root => 0,
            User::Alice => 61_001,
            User::Bob => 61_002,
            User::Service => 991,
            User::Daemon => 992,
        }
    }

    /// Home directory, as seen inside the lab.
    #[must_use]
    pub fn home(self) -> String {
        format!("/run/lab/home/{}", self.name())
    }
}
