//! The network lab of Adit: three hosts in namespaces, real programs in them, and what is needed to watch
//! them. The end-to-end tests, the benches and the demo are written with it; docs/TESTING.md explains it.
//!
//! Nothing here knows Adit from the inside: the binaries are run as an administrator or a user runs them.

#![forbid(unsafe_code)]

mod accounts;
pub mod actor;
mod adit;
mod as_direct;
pub mod connect;
mod content;
mod control_group;
mod conversation;
mod deadline;
pub mod entry;
mod lab;
pub mod load;
mod order;
mod other_zone;
mod process;
mod queueless;
mod requirements;
mod run;
mod sandbox;
pub mod script;
pub mod service;
mod shared;
mod users;
pub mod way;
mod witness;

pub use adit::{
    Broker, Capture, Flow, Gateway, GatewayKind, RunningAdit, adit, control_socket,
    rules_for_networks, rules_with,
};
pub use as_direct::{AN_HOURS_KEYS, AsDirect, MANY};
pub use content::Content;
pub use control_group::ControlGroup;
pub use conversation::{Conversation, Exchange, sights};
pub use deadline::{until, until_some};
pub use lab::{Host, Lab, Routing, address, as_before, kernel_state};
pub use order::{Order, connecting};
pub use other_zone::OtherZone;
pub use process::Process;
pub use queueless::without_a_queue;
pub use run::{Ended, Run};
pub use shared::Shared;
pub use users::User;
pub use witness::{Seen, Witness};
