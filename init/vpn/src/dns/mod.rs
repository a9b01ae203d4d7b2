//! MagicDNS: the names of the tailnet, answered on the node itself.
//!
//! What the coordinator says about names is hostile input. Its records hold only under its own base domain, and never for a name
//! that the egress allowlist knows; its resolvers are asked only if they are peers. Everything else is refused here
//! (`internal_only`) or goes to the measured resolvers, which the coordinator cannot change.
//!
//! [`answer`] is a function of the query's bytes and the [`Zone`]; [`serve`] does the rest.

mod answer;
mod authenticated;
mod forward;
mod lookup;
mod peers;
mod serve;
mod zone;

#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};

pub use self::answer::{Answer, Forward, Outcome, Transport, answer};
pub use self::authenticated::Authenticated;
pub use self::lookup::lookup;
pub use self::serve::{Listeners, serve};
pub use self::zone::{Ignored, Policy, Zone};

/// Where MagicDNS listens (`net/tsaddr/tsaddr.go`, `TailscaleServiceIP`).
pub const ADDRESS_V4: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 100);
/// The same in IPv6 (`TailscaleServiceIPv6`).
pub const ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0x53);

/// What became of the queries.
#[derive(Debug, Default)]
pub struct Counters {
    answered: AtomicU64,
    refused: AtomicU64,
    forwarded: AtomicU64,
    failed: AtomicU64,
}

/// The counters at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Answered from the map, also with "no such name".
    pub answered: u64,
    /// Refused here: nobody else heard of them.
    pub refused: u64,
    /// Answered by a resolver.
    pub forwarded: u64,
    /// Not understood, or no resolver answered.
    pub failed: u64,
}

impl Counters {
    /// The counters now.
    pub fn counts(&self) -> Counts {
        let [answered, refused, forwarded, failed] =
            [&self.answered, &self.refused, &self.forwarded, &self.failed]
                .map(|counter| counter.load(Ordering::Relaxed));
        Counts { answered, refused, forwarded, failed }
    }

    fn count(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Answered => &self.answered,
            Outcome::Refused => &self.refused,
            Outcome::Failed => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
