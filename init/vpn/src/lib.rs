#![doc = include_str!("../README.md")]
#![deny(clippy::indexing_slicing)]

pub mod dial;
pub mod filter;
pub mod key;
pub mod netmap;
pub mod node;
pub mod parent;
pub mod published;
pub mod state;
pub mod status;
