//! The proxy over real TCP and TLS on loopback. Peers are judged by a list of known certificates: what a quote proves
//! is tested where quotes are verified.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "test helpers outside #[test] functions"
)]

mod admission;
mod backend;
mod client;
mod dstack;
mod failures;
mod headers;
mod logs;
mod outbound;
mod places;
mod streaming;
mod switching;
mod world;
