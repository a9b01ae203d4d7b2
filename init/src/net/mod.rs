#![doc = include_str!("README.md")]

pub mod dhcp;
mod error;
pub mod links;
pub mod namespace;
mod netlink;
mod sysctl;
pub mod tailnet;

pub use error::NetError;
