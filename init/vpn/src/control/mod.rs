//! The coordination server's side: how we join it, and the map that it gives.
//!
//! [`wire`] has the types of its JSON, [`map`] makes a [`crate::netmap::Netmap`] of its stream, [`join`] decides what to send
//! when; these three are functions of bytes and time. [`client`] does the I/O, and [`session`] drives it all as one task.

pub mod client;
mod harmless;
pub mod join;
pub mod map;
pub(crate) mod pace;
pub mod session;
pub mod wire;

pub(crate) use harmless::harmless;

/// The capability version that we speak: in the handshake and in each request. Every Headscale from 0.26 on takes it; each
/// release of Headscale raises the least that it takes (`hscontrol/capver`), so this must be raised now and then.
pub const CAPABILITY_VERSION: u16 = 130;
