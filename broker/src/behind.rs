//! What a link leads to.

/// What lies behind a link: who asks for a stream of it names this, or less.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Behind {
    /// All that the zone's gateways reach.
    Zone,
    /// One host, which is the gateway itself: streams go to its loopback.
    Host(String),
}

impl Behind {
    /// The host, where it is only one.
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::Zone => None,
            Self::Host(host) => Some(host),
        }
    }
}
