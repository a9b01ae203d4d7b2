#![doc = include_str!("../README.md")]

mod agent;
mod arguments;
mod boot;
mod certificate;
pub mod client;
mod error;
mod event_log;
mod evidence;
mod handover;
mod http;
mod keys;
mod messages;
mod process;
mod server;
#[cfg(feature = "simulator")]
mod simulator;
pub mod tdx;
mod tee;

pub use agent::Agent;
pub use boot::{boot_events, events_after_parsing, events_before_parsing};
pub use error::AgentError;
pub use handover::{Handover, TeeHandover};
pub use messages::{Info, Key, KeyRequest, Quote, TlsKey, TlsKeyRequest, Version};
pub use process::{MESH_UID, run};
pub use server::{Callers, May, serve, serve_to};
#[cfg(feature = "simulator")]
pub use simulator::SimulatedTee;
pub use tee::{Owner, Tee, TeeError, TeeKind};
