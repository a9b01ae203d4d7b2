//! How much of what a server says the log bears.

use std::time::{Duration, Instant};

/// So many lines at once.
const BURST: u32 = 8;
/// After so long, one more.
const PAUSE: Duration = Duration::from_secs(10);

/// A token bucket of log lines. What a server sends is counted always; it says when it sends, so it must not say how much is logged.
#[derive(Clone, Debug)]
pub(crate) struct LogPace {
    left: u32,
    refilled: Option<Instant>,
    unsaid: u64,
}

impl Default for LogPace {
    fn default() -> Self {
        Self { left: BURST, refilled: None, unsaid: 0 }
    }
}

impl LogPace {
    /// It is now so late.
    pub(crate) fn at(&mut self, now: Instant) {
        let refilled = *self.refilled.get_or_insert(now);
        let pauses = now.saturating_duration_since(refilled).as_secs() / PAUSE.as_secs();
        let pauses = u32::try_from(pauses).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(pauses).min(BURST);
        self.refilled =
            Some(refilled + PAUSE.saturating_mul(pauses).min(now.saturating_duration_since(refilled)));
    }

    /// As [`Self::line`], when it is so late.
    pub(crate) fn line_at(&mut self, now: Instant) -> Option<u64> {
        self.at(now);
        self.line()
    }

    /// Takes a line, and says how many there were not since the last; `None`: there is none now.
    pub(crate) const fn line(&mut self) -> Option<u64> {
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Some(std::mem::replace(&mut self.unsaid, 0))
            }
            None => {
                self.unsaid = self.unsaid.saturating_add(1);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_few_lines_and_then_one_now_and_then() {
        let start = Instant::now();
        let mut pace = LogPace::default();
        let mut said = Vec::new();
        for second in 0..100 {
            for message in 0..1000 {
                pace.at(start + Duration::from_secs(second) + Duration::from_millis(message));
                said.extend(pace.line());
            }
        }
        assert_eq!(said.len(), 8 + 9);
        assert_eq!(said.get(..8), Some(&[0; 8][..]));
        // Those of ten seconds, less the one that is said.
        assert_eq!((said.get(8), said.last()), (Some(&9992), Some(&9999)));
        // Silence makes no more of them than at first.
        pace.at(start + Duration::from_secs(100_000));
        assert_eq!((0..100).filter_map(|_| pace.line()).count(), 8);
    }
}
