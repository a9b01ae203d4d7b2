#![doc = include_str!("../README.md")]
#![deny(clippy::indexing_slicing)]

pub mod control;
pub mod dial;
pub mod filter;
pub mod key;
pub mod netmap;
pub mod noise;
pub mod parent;
pub mod published;
pub mod route;
pub mod state;
pub mod status;
