//! The times of our handshakes over a restart: peers take none that is not later than all before.

use std::time::{Duration, SystemTime};

/// How far the kept time of the last handshake may be behind, in nanoseconds: ten seconds.
const BEHIND: u64 = 10_000_000_000;

/// How much further behind: a large record is not written at once (`keep`; 4 MiB at 64 KiB a second), nor saved at once by the parent.
const UNWRITTEN: u64 = 120_000_000_000;

/// What counts as used at a start. A clock that has passed what was kept makes later times by itself: a process that is started again
/// and again must not run ahead of it, since whoever takes its place without what was kept has nothing but the clock.
pub(super) fn used(kept: u64) -> u64 {
    used_at(kept, SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

fn used_at(kept: u64, clock: Duration) -> u64 {
    let clock = u64::try_from(clock.as_nanos()).unwrap_or(0);
    if clock > kept { kept } else { kept.saturating_add(BEHIND + UNWRITTEN) }
}

/// What is to be kept of the last time, if that is not near enough.
pub(super) const fn to_keep(kept: u64, last: u64) -> Option<u64> {
    if last > kept.saturating_add(BEHIND) { Some(last) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// One life: a handshake each second for so long. What it keeps, and the times that it used.
    fn life(kept: u64, clock: u64, seconds: u64) -> (u64, Vec<u64>) {
        let (mut kept, mut last, mut times) = (kept, used_at(kept, Duration::from_nanos(clock)), Vec::new());
        for second in 0..seconds {
            // As `engine::Stamper` does.
            last = (clock + second * SECOND).max(last + 1);
            times.push(last);
            kept = to_keep(kept, last).unwrap_or(kept);
        }
        (kept, times)
    }

    #[test]
    fn a_process_that_is_started_again_and_again_stays_with_the_clock() {
        let (mut kept, mut clock) = (0, 1_000_000 * SECOND);
        for _ in 0..100 {
            let times;
            (kept, times) = life(kept, clock, 1);
            assert_eq!(times, [clock]);
            clock += 2 * SECOND;
        }
        assert!(clock - kept <= BEHIND + 2 * SECOND, "it is kept all the same");
    }

    #[test]
    fn a_clock_that_was_set_back_makes_later_times_all_the_same() {
        let clock = 1_000_000 * SECOND;
        let mut last = 0;
        let mut kept = 0;
        // The first by the right clock, the others by one that is a day behind.
        for (clock, seconds) in [(clock, 25), (clock - 86_400 * SECOND, 25), (clock - 86_000 * SECOND, 3)] {
            let times;
            (kept, times) = life(kept, clock, seconds);
            assert!(times.is_sorted() && times.first().is_some_and(|first| *first > last));
            last = times.last().copied().unwrap_or_default();
        }
    }
}
