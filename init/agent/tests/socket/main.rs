//! The agent over a real unix socket: what an SDK sees, what a hostile caller gets, and what the certificates prove.
#![cfg(feature = "simulator")]
#![expect(clippy::unwrap_used, reason = "a test's set-up that fails is a failed test")]

mod api;
mod certificates;
mod command;
mod host;
mod hostile;
mod process;
mod quotes;
