//! In which order a connection's steps are taken: tests that do not choose one run in both.

/// In which order all tests run that do not say so themselves: `honest` or `early`.
const CONNECT: &str = "ADIT_TEST_CONNECT";

/// In which order a connection's steps are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Decided and opened while the program sits in `connect()`.
    Honest,
    /// Accepted first.
    Early,
}

impl Order {
    /// That of all tests that do not choose one.
    #[must_use]
    pub fn of_this_run() -> Order {
        let early = std::env::var(CONNECT).is_ok_and(|word| word == "early");
        if early { Order::Early } else { Order::Honest }
    }
}

/// The same rules, with this word for how connections to the zone are made, whatever `ADIT_TEST_CONNECT` says.
#[must_use]
pub fn connecting(word: &str, rules: &str) -> String {
    let without: String = rules
        .split_inclusive('\n')
        .filter(|line| !line.starts_with("    connect: "))
        .collect();
    without.replacen("\nrules:", &format!("\n    connect: {word}\nrules:"), 1)
}

/// These rules, as all tests are run that do not choose an order.
pub(crate) fn as_this_run(rules: String) -> String {
    match std::env::var(CONNECT) {
        Ok(word) => connecting(&word, &rules),
        Err(_) => rules,
    }
}
