//! Evidence of every kind against the verifier: real quotes, the simulated TEE's, forged ones, and whole handshakes.

mod certificates;
mod handshake;
#[path = "../../examples/simulator_pki/files.rs"]
mod files;
#[path = "../../examples/simulator_pki/pki.rs"]
mod pki;
mod machine;
mod policy;
mod real_quotes;
mod simulator;
