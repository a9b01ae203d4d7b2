//! The real stack on loopback, without a machine: simulated agents behind sockets of their own, the mesh in front of a
//! backend that counts, and peers of every kind who call it or are called. Whoever must not get through is refused inside
//! the handshake, and the backend never hears of it.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "in the helpers of tests a panic is the report"
)]

mod attackers;
mod backend;
mod callers;
mod challenge;
mod client;
mod command;
mod evidence;
mod log;
mod logs;
mod machine;
#[path = "../../attestation/examples/simulator_pki/pki.rs"]
mod pki;
mod proxy;
mod relay;
mod secrets;
mod services;
mod target;
mod targets;
