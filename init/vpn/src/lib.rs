#![doc = include_str!("../README.md")]
#![deny(clippy::indexing_slicing)]

pub mod dns;
pub mod filter;
pub mod key;
pub mod netmap;
pub mod published;
pub mod route;
