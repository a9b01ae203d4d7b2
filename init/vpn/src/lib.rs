#![doc = include_str!("../README.md")]
#![deny(clippy::indexing_slicing)]

pub mod engine;
pub mod filter;
pub mod key;
pub mod netmap;
pub mod packet;
pub mod plane;
pub mod published;
pub mod sys;
