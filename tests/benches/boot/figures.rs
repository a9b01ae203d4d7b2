//! Medians and spreads, and the control that tells whether the host stayed the same.

use std::fmt;
use std::time::Instant;

use sha2::{Digest as _, Sha256};

/// Median, least and most of some rounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let last = sorted.len().saturating_sub(1);
        // Of an even number of rounds, the mean of the two in the middle.
        Self { median: f64::midpoint(at(last / 2), at(sorted.len() / 2)), least: at(0), most: at(last) }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let precision = f.precision().unwrap_or(2);
        let Self { median, least, most } = self;
        write!(f, "{median:.precision$} [{least:.precision$}..{most:.precision$}]")
    }
}

/// How long this host takes for a fixed piece of work, in milliseconds.
pub(crate) fn control_ms() -> f64 {
    let begin = Instant::now();
    let block = vec![0x5a_u8; 64 << 20];
    let digest = Sha256::digest(std::hint::black_box(&block));
    std::hint::black_box(digest);
    begin.elapsed().as_secs_f64() * 1000.0
}
