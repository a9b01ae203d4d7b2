//! When the VPC server may be asked again: at most once a minute, later where it says so, and never in step with other machines.

use std::time::{Duration, Instant};

/// Between the beginnings of two requests that may have arrived.
pub const MIN_INTERVAL: Duration = Duration::from_secs(60);
/// How long a server is left alone that refused us, or answered what cannot be used.
pub const REFUSED_PAUSE: Duration = Duration::from_secs(300);
/// The shortest back-off where no request was sent.
pub const MIN_BACKOFF: Duration = Duration::from_secs(1);
/// The longest.
pub const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// The most that a `Retry-After` can mean.
pub const MAX_RETRY: Duration = Duration::from_secs(3600);

/// How a request ended, as far as it matters for the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A key came.
    Key,
    /// None comes: a refusal, or an answer that cannot be used.
    Refused,
    /// Not now, says the server; perhaps it says until when.
    NotNow(Option<Duration>),
    /// No answer.
    Transport {
        /// Whether the request may have arrived.
        sent: bool,
    },
}

/// What decides when the next request may begin.
#[derive(Clone, Debug)]
pub struct Pace {
    began: Option<Instant>,
    not_before: Option<Instant>,
    backoff: Duration,
    jitter: u64,
}

impl Pace {
    /// At the beginning one may ask at once. The seed is for jitter, which is no secret.
    pub const fn new(seed: u64) -> Self {
        Self { began: None, not_before: None, backoff: MIN_BACKOFF.saturating_mul(2), jitter: seed | 1 }
    }

    /// When the next request may begin; `None`: now.
    pub const fn due(&self) -> Option<Instant> {
        self.not_before
    }

    /// A request begins.
    pub fn begin(&mut self, now: Instant) {
        self.began = Some(now);
        // Whoever is dropped in the middle of a request has made one.
        self.not_before = Some(now + MIN_INTERVAL);
    }

    /// It ended.
    pub fn end(&mut self, outcome: Outcome, now: Instant) {
        let again = self.began.unwrap_or(now) + MIN_INTERVAL;
        let wait = match outcome {
            Outcome::Transport { sent: false } => {
                self.not_before = Some(now + self.back_off());
                return;
            }
            Outcome::Transport { sent: true } => self.back_off(),
            Outcome::Key => Duration::ZERO,
            Outcome::Refused => REFUSED_PAUSE,
            Outcome::NotNow(after) => after.unwrap_or(MIN_INTERVAL).min(MAX_RETRY),
        };
        if !matches!(outcome, Outcome::Transport { .. }) {
            self.backoff = MIN_BACKOFF.saturating_mul(2);
        }
        // Many machines may have been told the same at the same time.
        let spread = wait.mul_f64(self.random() / 10.0);
        self.not_before = Some(again.max(now + wait + spread));
    }

    /// From half of the back-off to the whole of it; the next is twice as long.
    fn back_off(&mut self) -> Duration {
        let half = (self.backoff / 2).max(MIN_BACKOFF);
        self.backoff = self.backoff.saturating_mul(2).min(MAX_BACKOFF);
        half + half.mul_f64(self.random())
    }

    /// A number from 0 to 1 (xorshift64).
    fn random(&mut self) -> f64 {
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        f64::from((self.jitter >> 40) as u32 & 0xff_ffff) / f64::from(0x100_0000)
    }
}
