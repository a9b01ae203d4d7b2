//! Evidence that somebody tampered with: one bit flipped in every byte of every real item, and attacks by name. Nothing that
//! `dcap-qvl` or a plain reading refuses may be accepted, and each refusal has the class of what was done.

#![expect(clippy::unwrap_used, reason = "in the helpers of tests a panic is the report")]

mod bombs;
mod certificates;
mod collaterals;
mod compile_fail;
mod flips;
mod layout;
mod logs;
#[path = "../evidence/machine.rs"]
#[expect(dead_code, reason = "the machine of the other tests; not all of it is needed here")]
mod machine;
mod named;
#[path = "../../examples/simulator_pki/pki.rs"]
#[expect(dead_code, reason = "the example writes more of it to files")]
mod pki;
mod quotes;
mod real;
mod wrapping;
