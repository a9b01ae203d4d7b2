//! Where the builder touches the machine: apt, cargo, the package cache, the unpacked toolchain, the
//! output folder.

pub mod apt;
mod cargo_config;
pub(crate) mod command;
pub mod compile;
pub mod directory;
pub(crate) mod output;
pub mod store;
mod target;
pub mod toolchain;
