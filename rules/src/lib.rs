//! The rules of Adit: from the administrator's file to what one flow gets.
//!
//! Pure: no socket, file, clock or runtime here. A file's text goes in; a [`Policy`] or [`Diagnostics`] come out. The
//! way of a file is in two stages: what was written, with places, then what is meant. A [`Policy`] judges a flow
//! ([`Policy::judge`]), says what a kernel can decide alone ([`Policy::kernel_program`]) and why a flow gets what it
//! gets ([`Policy::explain`]). A decision to tunnel or to pass is a permit, a value that only this crate can make.
#![forbid(unsafe_code)]

mod address;
mod application;
mod clause;
mod commuting;
mod compile;
mod date;
mod decision;
mod destination;
mod diagnostics;
mod document;
mod doubt;
mod elsewhere;
mod entrance;
mod entrances;
mod excerpt;
mod expectation;
mod explanation;
mod expression;
mod gateway;
mod gateway_pattern;
mod glob;
mod hex;
mod host_index;
mod index;
mod kernel;
mod kernel_room;
mod keys;
mod labels;
mod language;
mod layer;
mod matchers;
mod name;
mod name_set;
mod or_none;
mod overlap;
mod path_pattern;
pub mod pattern;
mod policy;
mod port;
mod programs;
mod proxy;
mod published_entry;
mod ranges;
mod reach;
mod redirect;
mod rule;
mod rule_files;
mod schema;
mod set_file;
mod sets;
mod shadow;
mod suggestion;
mod targets;
mod telling;
mod tested_application;
mod truth;
mod uncaptured;
mod unit_pattern;
mod unreachable;
mod unsatisfiable;
mod unusual_range;
mod user;
mod words;
mod written;
mod written_entrances;
mod written_pattern;
mod zone;
mod zones;

pub use application::{Ancestors, Application, Fact, Facts, Learned};
pub use date::Date;
pub use decision::{Block, Decision, Judgement, PassPermit, Refusal, TunnelPermit};
pub use destination::{Destination, Host};
pub use diagnostics::{Diagnostic, Diagnostics, Severity};
pub use entrance::{Entry, EntryProtocol, Listen, StaticTunnel};
pub use explanation::{Explanation, PortMatters, Step};
pub use gateway::Gateway;
pub use gateway_pattern::GatewayPattern;
pub use kernel::{KernelProgram, KernelStep, KernelVerdict};
pub use kernel_room::{KERNEL_ROOM, KernelRoom};
pub use layer::{Author, Layer};
pub use policy::{Checked, Policy};
pub use programs::AtPath;
pub use proxy::{Proxy, ProxyPassword, ProxyProtocol, Secret};
pub use reach::{MOST_JUMPS, Reach};
pub use schema::schema;
pub use sets::Files;
pub use telling::Telling;
pub use user::{AccountName, Group, User};
pub use zone::{Connect, Engine, HostKeys, Identity, Method, OnDown, Zone};
