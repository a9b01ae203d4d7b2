#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

pub mod assemble;
pub mod cmdline;
pub mod compare;
pub mod cpio;
pub mod deb;
pub mod demo;
mod elf;
pub mod error;
mod initramfs;
pub mod io;
mod json;
mod kernel;
pub mod lock;
pub mod modules;
pub mod oci;
pub mod path;
pub mod progress;
pub mod relock;
pub mod reproduce;
pub mod sources;
pub mod toolchain;
pub mod tree;
mod uki;
pub mod unpack;
pub mod workload;

pub use error::ImageError;
