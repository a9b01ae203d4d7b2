//! The clock that certificates are judged by.

use std::time::SystemTime;

/// Seconds since 1970. A clock before that reads 0, and then nothing is valid yet.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
