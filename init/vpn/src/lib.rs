#![doc = include_str!("../README.md")]
#![deny(clippy::indexing_slicing)]

pub mod derp;
pub mod dial;
pub mod disco;
pub mod filter;
pub mod key;
pub mod netcheck;
pub mod netmap;
pub mod path;
pub mod published;
pub mod stun;
