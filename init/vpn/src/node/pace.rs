//! Something that others ask for and that is done at most so often: the last wish counts.

use std::time::{Duration, Instant};

/// When it was done last, and whether it is asked for.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    done: Option<Instant>,
    asked: bool,
}

impl Pace {
    pub(super) const fn new(interval: Duration) -> Self {
        Self { interval, done: None, asked: false }
    }

    /// From now on at most so often: what takes longer is done less.
    pub(super) const fn every(&mut self, interval: Duration) {
        self.interval = interval;
    }

    /// It is wanted: now, if it was not done for so long, else later.
    pub(super) const fn ask(&mut self) {
        self.asked = true;
    }

    /// When [`Pace::take`] says yes.
    pub(super) fn due(&self) -> Option<Instant> {
        // Never done is long ago.
        self.done.filter(|_| self.asked).map(|done| done + self.interval)
    }

    /// Whether it is to be done now; then it is.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let is_due = self.asked && self.due().is_none_or(|due| due <= now);
        if is_due {
            self.done = Some(now);
            self.asked = false;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_of_wishes_is_fulfilled_at_its_pace_and_the_last_is_not_lost() {
        let start = Instant::now();
        let mut pace = Pace::new(Duration::from_secs(10));
        assert!(!pace.take(start), "nobody asked");
        let mut done = Vec::new();
        for second in 0..=25 {
            pace.ask();
            let now = start + Duration::from_secs(second);
            if pace.take(now) {
                done.push(second);
            }
        }
        assert_eq!(done, [0, 10, 20]);
        assert_eq!(pace.due(), Some(start + Duration::from_secs(30)));
        assert!(!pace.take(start + Duration::from_secs(29)));
        assert!(pace.take(start + Duration::from_secs(31)));
        assert_eq!(pace.due(), None);
    }
}
