//! DERP: relays that carry packets between node keys over TLS, for as long as no direct path is known and to find one.
//!
//! [`frame`] and [`handshake`] are pure; [`connection`] opens one connection; [`Pool`] keeps those that we need.

pub mod connection;
pub mod frame;
pub mod handshake;
mod pool;
mod reach;
mod region;
pub mod server;
mod trust;

#[cfg(test)]
mod tests;

pub use pool::{Event, Packet, Pool, PoolConfig, PoolStatus, SendOutcome};
pub use trust::{Proof, Trust, TrustError};
