#![doc = include_str!("../README.md")]
#![deny(clippy::indexing_slicing)]

pub mod control;
pub mod derp;
pub mod dial;
pub mod disco;
pub mod dns;
pub mod engine;
pub mod filter;
pub mod key;
pub mod netcheck;
pub mod netmap;
pub mod node;
pub mod noise;
pub mod packet;
pub mod parent;
pub mod path;
pub mod plane;
pub mod published;
pub mod registration;
pub mod route;
pub mod state;
pub mod status;
pub mod stun;
pub mod sys;
