//! Waiting, always with an end.

use std::thread;
use std::time::{Duration, Instant};

/// How often a thing is looked at that somebody waits for.
const STEP: Duration = Duration::from_millis(100);

/// What `look` finds in the end; whoever waits in vain says for what.
pub(crate) fn until<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited {} s in vain: {what}", limit.as_secs());
        thread::sleep(STEP);
    }
}

/// That `look` finds nothing for as long.
pub(crate) fn never<T: std::fmt::Debug>(time: Duration, what: &str, mut look: impl FnMut() -> Option<T>) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        if let Some(found) = look() {
            panic!("{what}: {found:?}");
        }
        thread::sleep(STEP);
    }
}

/// Seconds, short.
pub(crate) const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
