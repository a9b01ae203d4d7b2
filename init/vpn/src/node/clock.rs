//! Whether the machine slept: the one clock goes on meanwhile, the other does not.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// A sleep that no connection need have survived (a NAT forgets a TCP connection later, but what it sent is lost).
const LONG: Duration = Duration::from_secs(10);

/// How far the clocks were apart when a sleep was last told of.
#[derive(Debug, Default)]
pub(super) struct Sleep {
    asleep: Option<Duration>,
}

impl Sleep {
    /// Looks at the system's clocks: how long the machine slept since it last did for long.
    pub(super) fn look(&mut self) -> Option<Duration> {
        let now = |clock| clock_gettime(clock).map(Duration::from);
        match (now(ClockId::CLOCK_BOOTTIME), now(ClockId::CLOCK_MONOTONIC)) {
            (Ok(boot), Ok(monotonic)) => self.slept(boot, monotonic),
            _ => None,
        }
    }

    /// `boot` counts sleep, `monotonic` does not.
    fn slept(&mut self, boot: Duration, monotonic: Duration) -> Option<Duration> {
        let asleep = boot.saturating_sub(monotonic);
        let since = asleep.saturating_sub(*self.asleep.get_or_insert(asleep));
        // Short ones add up: whoever counts the time is never behind by more.
        let slept = Some(since).filter(|since| *since > LONG)?;
        self.asleep = Some(asleep);
        Some(slept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_sleep_is_told_of_and_no_short_one_is_forgotten() {
        let seconds = Duration::from_secs;
        let mut sleep = Sleep::default();
        // What it slept before we ran is not ours.
        assert_eq!(sleep.slept(seconds(5000), seconds(100)), None);
        assert_eq!(sleep.slept(seconds(5030), seconds(130)), None, "awake for long");
        assert_eq!(sleep.slept(seconds(5041), seconds(131)), None, "asleep for 10 s");
        assert_eq!(sleep.slept(seconds(5042), seconds(132)), None, "and told of neither then nor later");
        assert_eq!(
            sleep.slept(seconds(5054), seconds(133)),
            Some(seconds(21)),
            "with what was too short before"
        );
        assert_eq!(sleep.slept(seconds(5055), seconds(134)), None, "told once");
    }

    #[test]
    fn both_clocks_of_the_system_are_looked_at() {
        let mut sleep = Sleep::default();
        assert_eq!(sleep.look(), None, "what it slept before we ran is not ours");
        let apart = sleep.asleep;
        assert!(apart.is_some());
        assert_eq!((sleep.look(), sleep.asleep), (None, apart), "awake since");
    }
}
