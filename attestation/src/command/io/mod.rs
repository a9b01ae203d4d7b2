//! What touches files, the clock and the network.

pub(super) mod files;
pub(super) mod tls;

use std::time::{SystemTime, UNIX_EPOCH};

/// The host's clock, Unix seconds; 0 before 1970, when no evidence is valid.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
