//! The system calls of the data plane: the TUN, UDP with offloads, and what wakes a thread. All `unsafe` of it is here.

#![allow(unsafe_code, reason = "system calls that nix does not have; each use says why it is sound")]

mod event;
mod tun;
mod udp;

pub use event::{Event, Ready, wait, wait_for_any};
pub use tun::{Features, Tun, open, probe};
pub use udp::{MAX_BATCH, ReceiveBuffers, Received, Udp, UdpOptions};
