//! The proxy over real TCP and TLS on loopback. Peers are simulated machines, most of them judged by a list of known certificates:
//! what a quote proves is tested where quotes are verified.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "test helpers outside #[test] functions"
)]

mod admission;
mod backend;
mod challenge;
mod client;
mod collateral;
mod dstack;
mod failures;
mod headers;
mod logs;
mod machine;
mod outbound;
#[expect(dead_code, reason = "the root is compiled into the verifier")]
#[path = "../../../../attestation/examples/simulator_pki/pki.rs"]
mod pki;
mod places;
mod streaming;
mod switching;
mod world;
