//! Evidence of every kind against the verifier: real quotes, the simulated TEE's, forged ones, and whole handshakes.

#![expect(clippy::unwrap_used, reason = "in the helpers of tests a panic is the report")]

mod attack;
mod certificates;
mod challenges;
mod command;
mod dstack_report;
#[path = "../../examples/simulator_pki/files.rs"]
mod files;
mod handshake;
mod kms;
mod machine;
#[path = "../../examples/simulator_pki/pki.rs"]
mod pki;
mod policy;
mod properties;
mod real_quotes;
mod simulator;
