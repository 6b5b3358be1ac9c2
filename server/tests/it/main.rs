//! The real binary on loopback, driven by the system's `ssh`, by a link over russh, and under a
//! stock sshd.
#![allow(clippy::expect_used, clippy::panic, reason = "tests")]

mod after_login;
mod answers;
mod audits;
mod before_login;
mod destinations;
mod faulty_files;
mod floods;
mod flows;
mod forward_endings;
mod forwards;
mod guests;
mod hostile;
mod hungry;
mod links;
mod logins;
mod misbehaviour;
mod policies;
mod remote_forwards;
mod revoked_live;
mod service;
mod sessions;
mod site;
mod ssh_command;
mod stdio;
mod stock_sessions;
mod unwritable_audit;
