//! The times in handshakes (WireGuard paper section 5.1; TAI64N, `cr.yp.to/libtai/tai64.html`): they only ever grow.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// What a beginning carries: compared as bytes, the greater is the later.
pub type Stamp = [u8; 12];

/// 1970-01-01 in TAI64, with the ten leap seconds that there were before.
const EPOCH: u64 = (1 << 62) + 10;
const NANOSECONDS: u64 = 1_000_000_000;

/// Makes our times: each later than the one before, however the clock is set. A peer takes none that is not (section 5.1), so
/// what was used last has to survive a restart of the process: [`Stamper::last`] and [`Stamper::raise`].
#[derive(Debug, Default)]
pub struct Stamper {
    /// Nanoseconds since 1970: 584 years of them.
    last: AtomicU64,
}

impl Stamper {
    /// What was used last, in nanoseconds since 1970; zero: nothing.
    pub fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    /// Everything up to here was used.
    pub fn raise(&self, last: u64) {
        self.last.fetch_max(last, Ordering::Relaxed);
    }

    pub(super) fn next(&self) -> Stamp {
        let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.next_at(clock)
    }

    fn next_at(&self, clock: Duration) -> Stamp {
        let clock = u64::try_from(clock.as_nanos()).unwrap_or(0);
        let later = |last: u64| clock.max(last.saturating_add(1));
        let step = |last| Some(later(last));
        let last = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).unwrap_or_default();
        encode(later(last))
    }
}

fn encode(nanoseconds: u64) -> Stamp {
    let mut stamp = [0; 12];
    let (seconds, rest) = stamp.split_at_mut(8);
    seconds.copy_from_slice(&(EPOCH + nanoseconds / NANOSECONDS).to_be_bytes());
    let nanoseconds = u32::try_from(nanoseconds % NANOSECONDS).unwrap_or(0);
    rest.copy_from_slice(&nanoseconds.to_be_bytes());
    stamp
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_stands_or_goes_back_makes_later_times_all_the_same() {
        let stamper = Stamper::default();
        let mut last = [0; 12];
        for seconds in [1000, 1000, 999, 0, 1001] {
            let stamp = stamper.next_at(Duration::from_secs(seconds));
            assert!(stamp > last, "{seconds}");
            last = stamp;
        }
        assert_eq!(stamper.last(), 1001 * NANOSECONDS);
    }

    #[test]
    fn what_was_used_before_a_restart_is_not_used_again() {
        let before = Stamper::default();
        let last = before.next_at(Duration::from_secs(5000));
        let after = Stamper::default();
        after.raise(before.last());
        assert!(after.next_at(Duration::from_secs(4000)) > last);
    }

    #[test]
    fn it_is_tai64n() {
        assert_eq!(encode(1_500_000_000), [0x40, 0, 0, 0, 0, 0, 0, 11, 0x1d, 0xcd, 0x65, 0]);
    }
}
