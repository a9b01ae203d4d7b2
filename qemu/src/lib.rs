#![doc = include_str!("../README.md")]
#![deny(clippy::indexing_slicing)]

pub mod acpi;
pub mod argv;
pub mod binding;
pub mod console;
pub mod error;
pub mod host;
pub mod image;
pub mod io;
pub mod outcome;
pub mod pcap;
pub mod qmp;
pub mod report;
pub mod rundir;
pub mod shape;
pub mod share;
pub mod status_stream;
pub mod text;
pub mod watch;

pub use error::Error;
pub use outcome::Outcome;
pub use shape::VmShape;
