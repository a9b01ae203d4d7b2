//! What is being done, on standard error: lines, so that a log file reads as well as a terminal.

use std::io::Write as _;
use std::time::Instant;

/// Where progress goes.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    start: Instant,
    quiet: bool,
}

impl Progress {
    /// To standard error, with the seconds since now at the start of each line.
    pub fn new() -> Self {
        Self { start: Instant::now(), quiet: false }
    }

    /// Nowhere.
    pub fn silent() -> Self {
        Self { start: Instant::now(), quiet: true }
    }

    /// One line.
    pub fn say(&self, line: impl std::fmt::Display) {
        if !self.quiet {
            // A closed standard error must not stop the build.
            drop(writeln!(std::io::stderr(), "[{:>6.1}s] {line}", self.start.elapsed().as_secs_f64()));
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

/// A number of bytes for people: `13.9 MB` (10^6 bytes).
pub fn megabytes(bytes: u64) -> String {
    let tenths = bytes.saturating_add(50_000) / 100_000;
    format!("{}.{} MB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    #[test]
    fn megabytes_round_to_the_nearest_tenth() {
        assert_eq!(super::megabytes(13_965_248), "14.0 MB");
        assert_eq!(super::megabytes(49_999), "0.0 MB");
        assert_eq!(super::megabytes(1_150_000), "1.2 MB");
    }
}
