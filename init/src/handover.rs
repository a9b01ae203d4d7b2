//! What PID 1 tells a process it starts: one JSON document in a sealed memfd, descriptor 3.

use std::fs::File;
use std::io::{self, Read as _};

use serde::de::DeserializeOwned;

use crate::sys;

/// Where the handover lies.
const DESCRIPTOR: i32 = 3;
/// Where a process reports: [`READY`], then, from our own long-lived processes, a [`HEARTBEAT`] now and then; from the DHCP
/// client, heartbeats and leases; from the time client, times.
pub const REPORT: i32 = 4;
/// The message of a process that is ready.
pub const READY: &[u8] = b"R";
/// The message of a process whose event loop turns.
pub const HEARTBEAT: &[u8] = b"H";
/// The first byte of what the first process of a service says before it ends: the second is the signal that its workload died
/// of. Its own status, 128 plus that number, is one that a workload may choose for itself.
pub const KILLED: u8 = b'S';
/// The first of the further descriptors.
pub const FIRST_EXTRA: i32 = 5;
/// A handover carries the measured document (4 MiB at most) and little else.
const MAX_LEN: u64 = 32 << 20;

/// Reads it, in the process that was started.
///
/// # Errors
/// If descriptor 3 is not open, or holds something else.
pub fn read<T: DeserializeOwned>() -> io::Result<T> {
    let mut bytes = Vec::new();
    File::from(sys::inherited(DESCRIPTOR)?).take(MAX_LEN).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}
