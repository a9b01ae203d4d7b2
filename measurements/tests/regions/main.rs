//! The table of regions against what is computed: bits are flipped everywhere in every input, and what changes must be what
//! the table says, no more and over all flips no less.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "fixtures of known size")]
#![expect(clippy::single_range_in_vec_init, reason = "a list of one range is what is expected")]

#[path = "../kernel/build.rs"]
mod build;

mod every;
mod files;
mod firmware;
mod inputs;
mod judge;
mod machine;
mod partition;
