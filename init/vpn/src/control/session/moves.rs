//! How many changes of the network count. With each, what is under way is given up and what failed is tried anew; an address that flaps,
//! as a bridge's does whose only container restarts, must not keep us from ever being answered, nor make a storm at the server.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So many changes count in a [`SPAN`]: a machine that goes from one network to another makes two or three.
const MOST: usize = 4;
/// Some times what any request may take ([`crate::control::client::REQUEST_TIMEOUT`]).
const SPAN: Duration = Duration::from_secs(120);

/// The changes that counted last, the earliest first.
#[derive(Debug, Default)]
pub(super) struct Moves(VecDeque<Instant>);

impl Moves {
    /// From when on the next one counts; `None`: always.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.front().filter(|_| self.0.len() >= MOST).map(|first| *first + SPAN)
    }

    /// Whether one counts that is seen now; then it does.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let counts = self.next().is_none_or(|next| next <= now);
        if counts {
            if self.0.len() >= MOST {
                self.0.pop_front();
            }
            self.0.push_back(now);
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_flaps_counts_a_few_times_and_then_leaves_room_for_an_answer() {
        let start = Instant::now();
        let mut moves = Moves::default();
        let counted: Vec<u64> =
            (0..300).filter(|second| moves.take(start + Duration::from_secs(*second))).collect();
        assert_eq!(counted, [0, 1, 2, 3, 120, 121, 122, 123, 240, 241, 242, 243]);
        assert_eq!(moves.next(), Some(start + Duration::from_secs(360)));
    }
}
