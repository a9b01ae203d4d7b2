#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

pub mod document;
pub mod dstack_image;
pub mod event;
pub mod identity;
pub mod image;
pub mod log;
pub mod manifest;
pub mod mr_config;
pub mod register;
pub mod section;
pub mod smbios;
pub mod status;
pub mod tdx;

pub use document::{DocumentError, MeasuredConfig, Platform};
pub use event::{DigestVersion, EventLog, RuntimeEvent};
pub use identity::{AppId, ComposeHash, InstanceId, KeyProvider, MrConfigId};
pub use register::{LaunchRegisters, Register};
