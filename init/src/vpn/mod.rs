#![doc = include_str!("README.md")]

pub mod command;
mod config;
mod kept;
mod names;
mod parent;
mod resolv;
mod sockets;

pub use config::{Config, ConfigError};

use std::io::{self, Write as _};

/// A line of the parent's own; the node's lines are its own.
fn say(words: std::fmt::Arguments<'_>) {
    drop(writeln!(io::stderr(), "casemate-init vpn: {words}"));
}
