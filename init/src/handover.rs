//! What PID 1 tells a process it starts: one JSON document in a sealed memfd, descriptor 3.

use std::fs::File;
use std::io::{self, Read as _};
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::sys;

/// Where the handover lies.
const DESCRIPTOR: i32 = 3;
/// Where a process reports: [`READY`], then, from our own long-lived processes, a [`HEARTBEAT`] now and then; from the DHCP
/// client, heartbeats and leases; from the time client, times; from the mesh, what time collateral proves ([`Proven`]).
pub const REPORT: i32 = 4;
/// The message of a process that is ready.
pub const READY: &[u8] = b"R";
/// The message of a process whose event loop turns.
pub const HEARTBEAT: &[u8] = b"H";
/// The first byte of what the first process of a service says before it ends: the second is the signal that its workload died
/// of. Its own status, 128 plus that number, is one that a workload may choose for itself.
pub const KILLED: u8 = b'S';
/// What the mesh says when it has verified collateral that was signed later than all before: it is at least that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proven(pub Duration);

impl Proven {
    /// The length of the message.
    pub const LEN: usize = 9;
    /// Its first byte.
    const KIND: u8 = b'P';

    /// The bytes: the kind, then seconds since 1970, little-endian.
    pub fn encode(self) -> [u8; Self::LEN] {
        let [a, b, c, d, e, f, g, h] = self.0.as_secs().to_le_bytes();
        [Self::KIND, a, b, c, d, e, f, g, h]
    }

    /// From what the mesh sent, which PID 1 does not trust. `None`: a message of another kind.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, seconds) = bytes.split_first()?;
        let seconds = u64::from_le_bytes(seconds.try_into().ok()?);
        (*kind == Self::KIND).then_some(Self(Duration::from_secs(seconds)))
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_one_message_of_one_size() {
        let proven = Proven(Duration::from_secs(1_800_000_000));
        assert_eq!(Proven::decode(&proven.encode()), Some(proven));
        let largest = Proven(Duration::from_secs(u64::MAX));
        assert_eq!(Proven::decode(&largest.encode()), Some(largest));
        let good = proven.encode();
        let long = [good.as_slice(), &[0]].concat();
        for bad in [&good[..8], &long, READY, HEARTBEAT, b"", &[KILLED; 9]] {
            assert_eq!(Proven::decode(bad), None, "{bad:?}");
        }
    }
}
