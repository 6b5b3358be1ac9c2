//! What an administrator wants to be told of a rule's decisions.

/// `log:` and `notify:` of the rule that decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Telling {
    /// Each decision is said in the log, also of flows that went well.
    pub log: bool,
    /// The first time that an application is caught by the rule, its user is told on the desktop.
    pub notify: bool,
}

impl Telling {
    /// Whether anything is to be told: then the kernel, which tells nobody, must not decide alone.
    pub fn is_wanted(self) -> bool {
        self.log || self.notify
    }
}
