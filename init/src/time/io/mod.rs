//! Sockets: the key exchange by TLS, requests by UDP, and the kernel's clock that nobody sets.

mod exchange;
mod request;

use std::time::Duration;

pub(super) use exchange::{Exchanged, exchange};
pub(super) use request::ask;

use super::TimeError;

/// Since the kernel started, with time in which the machine was suspended.
pub(super) fn since_boot() -> Result<Duration, TimeError> {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .map(Duration::from)
        .map_err(|errno| TimeError::io("CLOCK_BOOTTIME")(errno.into()))
}
