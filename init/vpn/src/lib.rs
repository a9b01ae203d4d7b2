#![doc = include_str!("../README.md")]
#![deny(clippy::indexing_slicing)]

pub mod control;
pub mod dial;
pub mod engine;
pub mod filter;
pub mod key;
pub mod netmap;
pub mod noise;
pub mod packet;
pub mod plane;
pub mod published;
pub mod route;
pub mod state;
pub mod status;
pub mod sys;
