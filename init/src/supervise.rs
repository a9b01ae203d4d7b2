//! When a process that ended is started again. Pure: time comes in, a decision goes out.

use std::time::Duration;

use casemate_measure::section::Restart;

/// The first wait before a restart; it doubles with each failure in a row.
pub const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// The longest wait.
pub const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// A process that ran this long starts with [`FIRST_BACKOFF`] again.
pub const STEADY: Duration = Duration::from_secs(60);
/// How long a process has between SIGTERM and `cgroup.kill`.
pub const STOP_GRACE: Duration = Duration::from_secs(5);

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// Whether it counts as success.
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }

    /// The number for a status frame: the status, or 128 plus the signal, as a shell says it.
    pub fn number(self) -> u64 {
        let number = match self {
            Self::Code(code) => code,
            Self::Signal(signal) => signal.saturating_add(128),
        };
        u64::try_from(number).unwrap_or(0)
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "status {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// What to do about a process that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Start it again at this time.
    RestartAt(Duration),
    /// It is done.
    Stay,
}

/// One process's history.
#[derive(Clone, Copy, Debug)]
pub struct Restarts {
    policy: Restart,
    in_a_row: u32,
    total: u64,
}

impl Restarts {
    /// Nothing has happened yet.
    pub const fn new(policy: Restart) -> Self {
        Self { policy, in_a_row: 0, total: 0 }
    }

    /// How often it was started again.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// It was started again. An end is not counted: one that is part of the shutdown has no restart.
    pub const fn started_again(&mut self) {
        self.total = self.total.saturating_add(1);
    }

    /// It ended at `now`, having been started at `started` (both since the kernel started).
    pub fn ended(&mut self, exit: Exit, started: Duration, now: Duration) -> Next {
        let again = match self.policy {
            Restart::Always => true,
            Restart::OnFailure => !exit.is_success(),
            Restart::Never => false,
        };
        if !again {
            return Next::Stay;
        }
        if now.saturating_sub(started) >= STEADY {
            self.in_a_row = 0;
        }
        let factor = 2_u32.saturating_pow(self.in_a_row);
        let wait = FIRST_BACKOFF.saturating_mul(factor).min(LONGEST_BACKOFF);
        self.in_a_row = self.in_a_row.saturating_add(1);
        Next::RestartAt(now.saturating_add(wait))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn back_off_doubles_to_a_minute_and_starts_over_after_a_steady_run() {
        let mut restarts = Restarts::new(Restart::Always);
        let mut now = at(10);
        let mut waits = Vec::new();
        for _ in 0..8 {
            let Next::RestartAt(then) = restarts.ended(Exit::Code(1), now, now) else { panic!("stays") };
            waits.push((then - now).as_secs());
            now = then;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(
            restarts.ended(Exit::Code(1), now, now + STEADY),
            Next::RestartAt(now + STEADY + FIRST_BACKOFF)
        );
        assert_eq!(restarts.total(), 0, "ends are not restarts");
        restarts.started_again();
        assert_eq!(restarts.total(), 1);
    }

    #[test]
    fn the_policy_decides_what_is_started_again() {
        let cases = [
            (Restart::Always, Exit::Code(0), true),
            (Restart::Always, Exit::Signal(9), true),
            (Restart::OnFailure, Exit::Code(0), false),
            (Restart::OnFailure, Exit::Code(3), true),
            (Restart::OnFailure, Exit::Signal(11), true),
            (Restart::Never, Exit::Code(1), false),
        ];
        for (policy, exit, again) in cases {
            let next = Restarts::new(policy).ended(exit, at(0), at(1));
            assert_eq!(matches!(next, Next::RestartAt(_)), again, "{policy:?} {exit}");
        }
    }

    #[test]
    fn exits_are_numbered_as_a_shell_does() {
        assert_eq!(Exit::Code(3).number(), 3);
        assert_eq!(Exit::Signal(9).number(), 137);
    }
}
