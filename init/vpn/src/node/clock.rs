//! Whether the machine slept: the one clock goes on meanwhile, the other does not.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// A sleep that no connection need have survived (a NAT forgets a TCP connection later, but what it sent is lost).
const LONG: Duration = Duration::from_secs(10);

/// What both clocks said when they were last looked at.
#[derive(Debug, Default)]
pub(super) struct Sleep {
    asleep: Option<Duration>,
}

impl Sleep {
    /// Looks at the system's clocks: whether the machine slept since the last look.
    pub(super) fn look(&mut self) -> bool {
        let now = |clock| clock_gettime(clock).map(Duration::from);
        match (now(ClockId::CLOCK_BOOTTIME), now(ClockId::CLOCK_MONOTONIC)) {
            (Ok(boot), Ok(monotonic)) => self.slept(boot, monotonic),
            _ => false,
        }
    }

    /// `boot` counts sleep, `monotonic` does not.
    fn slept(&mut self, boot: Duration, monotonic: Duration) -> bool {
        let asleep = boot.saturating_sub(monotonic);
        let before = self.asleep.replace(asleep);
        before.is_some_and(|before| asleep.saturating_sub(before) > LONG)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_long_sleep_is_one() {
        let seconds = Duration::from_secs;
        let mut sleep = Sleep::default();
        // What it slept before we ran is not ours.
        assert!(!sleep.slept(seconds(5000), seconds(100)));
        assert!(!sleep.slept(seconds(5030), seconds(130)), "awake for long");
        assert!(!sleep.slept(seconds(5041), seconds(131)), "asleep for 10 s");
        assert!(sleep.slept(seconds(5053), seconds(132)));
        assert!(!sleep.slept(seconds(5054), seconds(133)), "told once");
        assert!(!sleep.look() || !sleep.look());
    }
}
