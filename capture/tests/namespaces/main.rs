//! The helper in real namespaces: each case is a process of its own in a network, mount and process namespace of its own, which
//! end with it. A namespace that cannot be made is a failure.
//!
//! Arguments as with other tests: words that choose cases by a part of their name.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "a test, although the standard harness does not run it"
)]

mod asker;
mod attribution;
mod capture;
mod confinement;
mod crowd;
mod facts;
mod held;
mod held_endings;
mod holders;
mod lab;
mod life;
mod looker;
mod original_source;
mod peers;
mod program;
mod puppet;
mod runner;

/// A case: its name, and what it does in its namespace.
type Case = (&'static str, fn());

fn cases() -> Vec<Case> {
    [
        attribution::CASES,
        capture::CASES,
        confinement::CASES,
        facts::CASES,
        held::CASES,
        held_endings::CASES,
        holders::CASES,
        life::CASES,
        original_source::CASES,
        peers::CASES,
    ]
    .concat()
}

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("puppet") => puppet::run(),
        Some("inside") => runner::inside(&cases(), &arguments[1]),
        Some(_) | None => runner::run(&cases(), &arguments),
    }
}
