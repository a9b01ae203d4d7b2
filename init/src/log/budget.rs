//! How much a process may write, or report: so much a second, and it waits in its own write(2) for the rest. PID 1's time is
//! not its to spend.

/// Bytes a second for the ring: all of it. Of more than that nobody could read every line.
pub(super) const RATE: usize = 1 << 20;
/// Bytes a second for the console of a development image: a serial port is slow, and PID 1 waits for it.
pub(super) const SHOWN: usize = 32 << 10;

/// What was taken in the current second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    rate: usize,
    second: u64,
    taken: usize,
}

impl Budget {
    /// So many bytes, or messages, a second.
    #[must_use]
    pub const fn new(rate: usize) -> Self {
        Self { rate, second: 0, taken: 0 }
    }

    /// What is left now.
    #[must_use]
    pub const fn left(self, now_ms: u64) -> usize {
        if now_ms / 1000 == self.second { self.rate.saturating_sub(self.taken) } else { self.rate }
    }

    /// Takes some of it.
    pub const fn take(&mut self, bytes: usize, now_ms: u64) {
        self.taken = self.rate.saturating_sub(self.left(now_ms)).saturating_add(bytes);
        self.second = now_ms / 1000;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_has_its_own() {
        let mut budget = Budget::new(RATE);
        assert_eq!(budget.left(7_000), RATE);
        budget.take(RATE - 1, 7_000);
        assert_eq!(budget.left(7_999), 1);
        budget.take(5, 7_999);
        assert_eq!((budget.left(7_999), budget.left(8_000), budget.left(6_000)), (0, RATE, RATE));
        budget.take(1, 8_000);
        assert_eq!(budget.left(8_001), RATE - 1);
    }
}
