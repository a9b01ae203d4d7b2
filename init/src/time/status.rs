//! What status says of the clock.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use super::{Change, Clock, Proof, Report};

/// Part of the status document: `time`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// `host (unauthenticated)`, or `nts` once a server has been agreed with.
    pub source: &'static str,
    /// `unsynchronised`, `synchronised`, `slewing` (it is off by a little and on its way), or `skewed`: it is ahead and cannot be
    /// set back while anything runs.
    pub state: &'static str,
    /// Whether nothing ran before an authenticated time was obtained (dstack's `secure_time`).
    pub required: bool,
    /// The server with the smallest error among those that agreed.
    pub server: Option<SocketAddr>,
    /// How many agreed.
    pub votes: u8,
    /// How far the clock was ahead (behind, if negative) when it was last compared, in ms; before it was corrected.
    pub offset_ms: Option<i64>,
    /// The error bound of that, in ms.
    pub error_ms: Option<u64>,
    /// When that was, in seconds since 1970.
    pub last_sync: Option<u64>,
    /// What the clock is never below, in seconds since 1970.
    pub floor: u64,
    /// What proved it: `image`, `nts` or `collateral`.
    pub floor_from: &'static str,
    /// Authenticated times that PID 1 did not believe.
    pub refused: u64,
}

/// The host's clock.
const HOST: &str = "host (unauthenticated)";

/// What a server's answer has made of it.
const NTS: &str = "nts";

impl Default for Status {
    /// Before there is a floor.
    fn default() -> Self {
        Self {
            source: HOST,
            state: "unsynchronised",
            required: false,
            server: None,
            votes: 0,
            offset_ms: None,
            error_ms: None,
            last_sync: None,
            floor: 0,
            floor_from: "image",
            refused: 0,
        }
    }
}

impl Status {
    /// Nobody was asked yet.
    pub fn new(clock: &Clock) -> Self {
        let mut status = Self::default();
        status.floor(clock);
        status
    }

    /// Whether an authenticated time has been the clock's.
    pub fn is_authenticated(&self) -> bool {
        self.source == NTS
    }

    /// The floor may have risen.
    pub fn floor(&mut self, clock: &Clock) {
        self.floor = clock.floor().as_secs();
        self.floor_from = match clock.floor_from() {
            Proof::Image => "image",
            Proof::Nts => "nts",
            Proof::Collateral => "collateral",
        };
    }

    /// A report was believed, while the clock said `now` and the kernel had run for `uptime`.
    pub fn judged(
        &mut self,
        report: &Report,
        server: Option<SocketAddr>,
        change: Change,
        now: Duration,
        uptime: Duration,
    ) {
        let time = report.sample.time_at(uptime);
        self.state = match change {
            Change::Keep | Change::Step(_) => "synchronised",
            Change::Slew(_) => "slewing",
            Change::Skewed => "skewed",
        };
        // A clock that is still the host's does not become anybody else's by being compared.
        if change != Change::Skewed {
            self.source = NTS;
        }
        self.server = server;
        self.votes = report.votes;
        let off = i64::try_from(now.abs_diff(time).as_millis()).unwrap_or(i64::MAX);
        self.offset_ms = Some(if now < time { off.saturating_neg() } else { off });
        self.error_ms = Some(u64::try_from(report.sample.error.as_millis()).unwrap_or(u64::MAX));
        self.last_sync = Some(time.as_secs());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{Phase, Sample};

    #[test]
    fn a_host_far_ahead_stays_the_hosts_and_one_that_was_corrected_does_not() {
        let epoch = Duration::from_secs(1_800_000_000);
        let (uptime, time) = (Duration::from_secs(9), epoch + Duration::from_secs(1000));
        let sample = Sample { at: uptime, time, error: Duration::from_millis(5) };
        let report = Report { sample, server: 0, votes: 1 };
        let server = Some("192.0.2.1:4460".parse().unwrap());
        let year = Duration::from_secs(31_556_952);
        for (phase, now, source, state, offset_ms) in [
            (Phase::Starting, time + year, "nts", "synchronised", 31_556_952_000),
            (Phase::Running, time + year, HOST, "skewed", 31_556_952_000),
            (Phase::Running, time + Duration::from_secs(1), "nts", "slewing", 1000),
            (Phase::Running, epoch, "nts", "synchronised", -1_000_000),
        ] {
            let mut clock = Clock::new(epoch);
            let mut status = Status::new(&clock);
            assert_eq!((status.source, status.state, status.floor_from), (HOST, "unsynchronised", "image"));
            let change = clock.judge(&sample, phase, now, uptime).unwrap();
            status.judged(&report, server, change, now, uptime);
            status.floor(&clock);
            assert_eq!((status.source, status.state), (source, state), "{phase:?} {now:?}");
            assert_eq!(status.offset_ms, Some(offset_ms));
            assert_eq!((status.last_sync, status.error_ms), (Some(1_800_001_000), Some(5)));
            assert_eq!((status.floor, status.floor_from), (1_800_000_999, "nts"));
        }
    }
}
