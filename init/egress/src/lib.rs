#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

mod compare;
mod io;
pub mod names;
mod policy;
mod rules;
mod ruleset;
mod term;
mod text;
mod wire;

pub use compare::Difference;
pub use io::{Counter, Lock, LockError};
pub use names::NEVER;
pub use policy::{
    Allow, Backend, Ifname, LoginServer, Mode, NameError, Policy, Proto, Service, ServiceName, Tunnel, Uids,
};
pub use rules::{guard_ruleset, link_ruleset, ruleset};
pub use ruleset::Ruleset;
pub use wire::WireError;
