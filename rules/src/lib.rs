//! The rules of Adit: from the administrator's file to what one flow gets.
//!
//! Pure: no socket, file, clock or runtime here. A file's text goes in; a [`Policy`] or [`Diagnostics`] come out. The
//! way of a file is in two stages: what was written, with places, then what is meant. A [`Policy`] judges a flow
//! ([`Policy::judge`]), says what a kernel can decide alone ([`Policy::kernel_program`]) and why a flow gets what it
//! gets ([`Policy::explain`]). A decision to tunnel or to pass is a permit, a value that only this crate can make.
#![forbid(unsafe_code)]

mod address;
mod application;
mod compile;
mod decision;
mod destination;
mod diagnostics;
mod document;
mod expectation;
mod explanation;
mod expression;
mod gateway;
mod glob;
mod index;
mod kernel;
mod matchers;
mod name;
pub mod pattern;
mod policy;
mod port;
mod ranges;
mod rule;
mod shadow;
mod suggestion;
mod written;
mod zone;

pub use application::Application;
pub use decision::{Block, Decision, Judgement, PassPermit, TunnelPermit};
pub use destination::Destination;
pub use diagnostics::{Diagnostic, Diagnostics, Severity};
pub use explanation::{Explanation, Step};
pub use gateway::Gateway;
pub use kernel::{KernelProgram, KernelStep, KernelVerdict};
pub use policy::{Checked, Policy};
pub use zone::{Connect, Engine, Identity, OnDown, Zone};
