//! What several servers agree on: more than half of those that the document names, or nothing.
//!
//! One server that lies, or a minority, can then neither move the clock nor, by silence, be replaced by one that does.

use super::Sample;

/// What a majority says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The time.
    pub sample: Sample,
    /// The one of them with the smallest error: its place in the document.
    pub server: usize,
    /// How many agree.
    pub votes: usize,
}

/// The interval in which the time at the kernel's start lay, by one sample, in nanoseconds.
struct Interval {
    server: usize,
    low: i128,
    high: i128,
}

/// The time on which more than half of `named` servers agree (Marzullo's algorithm: the intervals of all of them share a
/// moment). `answers` are those that answered, with their places; each server once.
///
/// The error covers every interval of those that agree, so that it is right if only one of them is.
pub fn agree(answers: &[(usize, Sample)], named: usize) -> Option<Agreed> {
    let intervals: Vec<Interval> = answers.iter().map(interval).collect();
    let around = |moment: i128| intervals.iter().filter(move |one| one.low <= moment && moment <= one.high);
    // The most-shared moment is the beginning of one of them.
    let begin = intervals.iter().map(|one| one.low).max_by_key(|low| around(*low).count())?;
    let votes = around(begin).count();
    if votes.saturating_mul(2) <= named {
        return None;
    }
    let low = around(begin).map(|one| one.low).max()?;
    let high = around(begin).map(|one| one.high).min()?;
    let middle = low.midpoint(high);
    let error = around(begin).map(|one| (middle - one.low).max(one.high - middle)).max()?;
    let best = around(begin).min_by_key(|one| one.high - one.low)?;
    let at = answers.iter().map(|(_, sample)| sample.at).max()?;
    let nanos = |value: i128| u64::try_from(value).ok().map(std::time::Duration::from_nanos);
    let at_nanos = i128::try_from(at.as_nanos()).ok()?;
    let sample = Sample { at, time: nanos(middle.checked_add(at_nanos)?)?, error: nanos(error)? };
    Some(Agreed { sample, server: best.server, votes })
}

fn interval((server, sample): &(usize, Sample)) -> Interval {
    // Durations are at most 2^64 s: 2^94 ns.
    let nanos = |duration: std::time::Duration| i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX >> 8);
    let start = nanos(sample.time) - nanos(sample.at);
    let error = nanos(sample.error);
    Interval { server: *server, low: start - error, high: start + error }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const TRUE: u64 = 1_800_000_000_000;

    /// A sample that is off by so many ms, with an error of so many ms, taken at `at` ms.
    fn sample(at: u64, off: i64, error: u64) -> Sample {
        Sample {
            at: Duration::from_millis(at),
            time: Duration::from_millis((TRUE + at).checked_add_signed(off).unwrap()),
            error: Duration::from_millis(error),
        }
    }

    #[test]
    fn one_named_server_is_believed_and_nobody_else() {
        let only = sample(50, 0, 10);
        let agreed = agree(&[(0, only)], 1).unwrap();
        assert_eq!(agreed, Agreed { sample: only, server: 0, votes: 1 });
        assert_eq!(agree(&[], 1), None);
        assert_eq!(agree(&[(0, only)], 2), None, "half is not more than half");
        assert_eq!(agree(&[(0, only)], 3), None);
    }

    #[test]
    fn a_liar_among_three_changes_nothing() {
        let good = [(0, sample(50, 3, 10)), (2, sample(900, -4, 20))];
        for lie in [-86_400_000, -40, 40, 3_000_000_000_000] {
            let agreed = agree(&[good[0], (1, sample(400, lie, 5)), good[1]], 3).unwrap();
            assert_eq!((agreed.votes, agreed.server), (2, 0), "{lie}");
            // Never outside what the good ones say.
            let now = agreed.sample.time_at(Duration::from_millis(1000)).as_millis();
            assert!(now.abs_diff(u128::from(TRUE) + 1000) <= 13, "{lie}: {now}");
            assert!(agreed.sample.error >= Duration::from_millis(10));
        }
        // Two liars that agree are a majority.
        let lies = [(0, sample(50, 5000, 10)), (1, sample(50, 5005, 10)), (2, sample(50, 0, 10))];
        assert_eq!(agree(&lies, 3).unwrap().votes, 2);
        // Two that do not agree are none, and neither is the one who is right.
        let lies = [(0, sample(50, 5000, 10)), (1, sample(50, -5000, 10)), (2, sample(50, 0, 10))];
        assert_eq!(agree(&lies, 3), None);
    }

    #[test]
    fn samples_of_different_moments_are_compared_as_of_one() {
        let samples = [(0, sample(0, 0, 5)), (1, sample(60_000, 0, 5))];
        let agreed = agree(&samples, 2).unwrap();
        assert_eq!(agreed.votes, 2);
        assert_eq!(agreed.sample.at, Duration::from_millis(60_000));
        assert_eq!(agreed.sample.time, Duration::from_millis(TRUE + 60_000));
    }

    proptest! {
        /// As long as more than half of the named are right, and all of those that are right answer, the truth is
        /// within the error.
        #[test]
        fn the_truth_is_within_the_error(
            good in proptest::collection::vec((0_u64..100_000, -100_i64..=100, 100_u64..300), 1..5),
            lies in proptest::collection::vec((0_u64..100_000, -1_000_000_i64..1_000_000, 0_u64..300), 0..4),
        ) {
            let lies = lies.get(..lies.len().min(good.len() - 1)).unwrap();
            let all: Vec<(usize, Sample)> =
                good.iter().chain(lies).map(|(at, off, error)| sample(*at, *off, *error)).enumerate().collect();
            let agreed = agree(&all, all.len()).unwrap();
            let truth = Duration::from_millis(TRUE) + agreed.sample.at;
            prop_assert!(truth.abs_diff(agreed.sample.time) <= agreed.sample.error);
        }

        #[test]
        fn nothing_panics(
            all in proptest::collection::vec(
                (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(at, time, error)| Sample {
                    at: Duration::from_secs(at), time: Duration::from_secs(time), error: Duration::from_secs(error),
                }), 0..8),
        ) {
            let all: Vec<(usize, Sample)> = all.into_iter().enumerate().collect();
            _ = agree(&all, all.len());
        }
    }
}
