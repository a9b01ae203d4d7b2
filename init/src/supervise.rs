//! When a process that ended is started again. Pure: time comes in, a decision goes out.

use std::collections::VecDeque;
use std::time::Duration;

use casemate_measure::section::Restart;
use casemate_measure::status::Reason;

/// The first wait before a restart; it doubles with each failure in a row.
pub const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// The longest wait.
pub const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// A process that ran this long starts with [`FIRST_BACKOFF`] again.
pub const STEADY: Duration = Duration::from_secs(60);
/// How long a process has between SIGTERM and `cgroup.kill`.
pub const STOP_GRACE: Duration = Duration::from_secs(5);

/// How often one of our own processes says that its event loop turns ([`crate::roles`]).
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(5);
/// One that was ready and has said nothing for this long is ended, and started again.
pub const SILENCE: Duration = Duration::from_secs(30);
/// One that was started and has not said that it is ready for this long is ended, and started again: the deadline of the boot
/// stages that start them.
pub const START_LIMIT: Duration = Duration::from_secs(60);

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// By the kernel, for its cgroup's memory limit or the machine's.
    OutOfMemory,
    /// By the kernel, for a system call that it may not make.
    ForbiddenCall,
    /// By PID 1, because it did not say that it was alive.
    Hung,
}

impl Exit {
    /// What the kernel's `wait` says, told apart by what else is known: whether its cgroup counted a kill for memory during
    /// this run, and whether PID 1 ended it for its silence.
    #[must_use]
    pub const fn told_apart(self, out_of_memory: bool, hung: bool) -> Self {
        match self {
            Self::Signal(libc::SIGSYS) => Self::ForbiddenCall,
            Self::Signal(libc::SIGKILL) if out_of_memory => Self::OutOfMemory,
            Self::Signal(libc::SIGKILL) if hung => Self::Hung,
            other => other,
        }
    }

    /// The end of a service's first process, which passes on what its workload died of: `killed` is the signal that it named.
    #[must_use]
    pub fn of_workload(self, killed: Option<u8>) -> Self {
        match (self, killed.map(i32::from)) {
            (Self::Code(code), Some(signal)) if signal.checked_add(128) == Some(code) => Self::Signal(signal),
            (other, _) => other,
        }
    }

    /// Whether it counts as success.
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }

    /// The number for a status frame: the status, or 128 plus the signal, as a shell says it.
    pub fn number(self) -> u64 {
        let number = match self {
            Self::Code(code) => code,
            Self::Signal(signal) => signal.saturating_add(128),
            Self::OutOfMemory | Self::Hung => libc::SIGKILL + 128,
            Self::ForbiddenCall => libc::SIGSYS + 128,
        };
        u64::try_from(number).unwrap_or(0)
    }

    /// The frame that says so before the one of [`Next::reason`], for an end that a number does not explain.
    pub const fn reason(self) -> Option<Reason> {
        match self {
            Self::Code(_) | Self::Signal(_) => None,
            Self::OutOfMemory => Some(Reason::OutOfMemory),
            Self::ForbiddenCall => Some(Reason::ForbiddenCall),
            Self::Hung => Some(Reason::Hung),
        }
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "status {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::ForbiddenCall => f.write_str("a forbidden system call"),
            Self::Hung => f.write_str("killed, because it hung"),
        }
    }
}

/// What to do about a process that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Start it again at this time.
    RestartAt(Duration),
    /// It is done, as its restart rule says.
    Stay,
    /// It failed too often.
    GiveUp,
}

impl Next {
    /// The frame that says so; none for a process that did its work.
    pub fn reason(self, exit: Exit) -> Option<Reason> {
        match self {
            Self::RestartAt(_) => Some(Reason::Restarting),
            Self::Stay if exit.is_success() => None,
            Self::Stay => Some(Reason::Ended),
            Self::GiveUp => Some(Reason::GivenUp),
        }
    }
}

/// How often a process may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The failure that is one too many, counted from 1.
    pub failures: usize,
    /// Failures longer ago than this are forgotten.
    pub window: Duration,
}

/// A service's. With [`PACE`] a service that dies at once gets there after four minutes: longer than what it may wait for
/// takes to come up, shorter than nobody notices.
pub const SERVICE_BUDGET: Budget = Budget { failures: 10, window: Duration::from_secs(600) };

/// How long the waits before restarts are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// After the first failure in a row.
    pub first: Duration,
    /// The longest.
    pub longest: Duration,
}

/// Everybody's.
pub const PACE: Pace = Pace { first: FIRST_BACKOFF, longest: LONGEST_BACKOFF };

/// One process's history.
#[derive(Clone, Debug)]
pub struct Restarts {
    policy: Restart,
    pace: Pace,
    budget: Option<Budget>,
    /// When it failed, at most as often as the budget allows.
    failures: VecDeque<Duration>,
    in_a_row: u32,
    total: u64,
}

impl Restarts {
    /// One of our own: it is tried for ever, at the longest wait in the end. Without it the machine answers less, and the
    /// lock stands; powering off would lose the workload's state, which is in memory only, for what may pass.
    pub const fn for_ever(pace: Pace) -> Self {
        let policy = Restart::Always;
        Self { policy, pace, budget: None, failures: VecDeque::new(), in_a_row: 0, total: 0 }
    }

    /// One that does its work and is done.
    pub fn never() -> Self {
        Self { policy: Restart::Never, ..Self::for_ever(PACE) }
    }

    /// A service, under the rule of its document.
    pub const fn of_service(policy: Restart) -> Self {
        let budget = Some(SERVICE_BUDGET);
        Self { policy, pace: PACE, budget, failures: VecDeque::new(), in_a_row: 0, total: 0 }
    }

    /// How often it was started again.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// It was started again. An end is not counted: one that is part of the shutdown has no restart.
    pub const fn started_again(&mut self) {
        self.total = self.total.saturating_add(1);
    }

    /// From now on no wait is longer than the first, for tests that have not got an hour.
    #[cfg(feature = "danger-faults")]
    pub const fn hurry(&mut self) {
        self.pace.longest = self.pace.first;
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
        if !exit.is_success() && self.spent(now) {
            return Next::GiveUp;
        }
        if now.saturating_sub(started) >= STEADY {
            self.in_a_row = 0;
        }
        let factor = 2_u32.saturating_pow(self.in_a_row);
        let wait = self.pace.first.saturating_mul(factor).min(self.pace.longest);
        self.in_a_row = self.in_a_row.saturating_add(1);
        Next::RestartAt(now.saturating_add(wait))
    }

    /// Notes a failure, and says whether it was one too many.
    fn spent(&mut self, now: Duration) -> bool {
        let Some(budget) = self.budget else { return false };
        self.failures.retain(|then| now.saturating_sub(*then) <= budget.window);
        self.failures.push_back(now);
        self.failures.len() >= budget.failures
    }
}

/// Time in which PID 1 itself was awake: a machine whose host stopped it for an hour has not been silent for an hour.
#[derive(Clone, Copy, Debug, Default)]
pub struct Awake {
    last: Duration,
    total: Duration,
}

impl Awake {
    /// The longest time between two turns of PID 1's loop that is believed.
    const LONGEST_TURN: Duration = Duration::from_secs(2);

    /// For how long it was, altogether.
    #[must_use]
    pub const fn total(&self) -> Duration {
        self.total
    }

    /// PID 1 is awake at `now`, since the kernel started. Says for how long it was, altogether.
    pub fn turn(&mut self, now: Duration) -> Duration {
        let since = now.saturating_sub(self.last).min(Self::LONGEST_TURN);
        self.last = now;
        self.total = self.total.saturating_add(since);
        self.total
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
        let mut restarts = Restarts::for_ever(PACE);
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
            (Restart::OnFailure, Exit::OutOfMemory, true),
            (Restart::Never, Exit::Code(1), false),
        ];
        for (policy, exit, again) in cases {
            let next = Restarts::of_service(policy).ended(exit, at(0), at(1));
            assert_eq!(matches!(next, Next::RestartAt(_)), again, "{policy:?} {exit}");
        }
    }

    /// The times of its failures, one after the other, until it is given up.
    fn failures(restarts: &mut Restarts, exit: Exit, runs: Duration, at_most: usize) -> Vec<Duration> {
        let (mut now, mut times) = (at(0), Vec::new());
        for _ in 0..at_most {
            let started = now;
            now += runs;
            times.push(now);
            match restarts.ended(exit, started, now) {
                Next::RestartAt(then) => now = then,
                Next::GiveUp => return times,
                Next::Stay => panic!("stays"),
            }
        }
        panic!("not given up: {times:?}")
    }

    #[test]
    fn a_service_that_dies_at_once_is_given_up_after_four_minutes() {
        let times = failures(&mut Restarts::of_service(Restart::Always), Exit::Code(1), at(0), 100);
        assert_eq!((times.len(), times.last().copied()), (10, Some(at(243))));
    }

    #[test]
    fn failures_that_are_long_ago_are_forgotten() {
        // Nine within the window each time: one every 70 s, the tenth 630 s after the first.
        let mut restarts = Restarts::of_service(Restart::OnFailure);
        let mut now = at(0);
        for n in 0..1000 {
            assert_ne!(restarts.ended(Exit::Signal(11), now, now + at(69)), Next::GiveUp, "failure {n}");
            now += at(70);
        }
        assert!(restarts.failures.len() < SERVICE_BUDGET.failures);
    }

    #[test]
    fn what_ends_well_and_what_is_ours_is_never_given_up() {
        for (mut restarts, exit) in [
            (Restarts::of_service(Restart::Always), Exit::Code(0)),
            (Restarts::for_ever(PACE), Exit::Code(1)),
        ] {
            let mut now = at(0);
            for _ in 0..1000 {
                let Next::RestartAt(then) = restarts.ended(exit, now, now) else { panic!("{exit}") };
                now = then;
            }
            assert_eq!(restarts.failures.len(), 0, "nothing is kept of what is not counted");
        }
    }

    #[test]
    fn exits_are_numbered_as_a_shell_does() {
        assert_eq!(Exit::Code(3).number(), 3);
        assert_eq!(Exit::Signal(9).number(), 137);
        assert_eq!(Exit::OutOfMemory.number(), 137);
        assert_eq!(Exit::ForbiddenCall.number(), 159);
    }

    #[test]
    fn ends_by_signal_are_told_apart() {
        let cases = [
            (Exit::Signal(9), false, false, Exit::Signal(9)),
            (Exit::Signal(9), true, false, Exit::OutOfMemory),
            (Exit::Signal(9), false, true, Exit::Hung),
            // It was silent because the kernel was taking its memory back.
            (Exit::Signal(9), true, true, Exit::OutOfMemory),
            (Exit::Signal(31), true, true, Exit::ForbiddenCall),
            // One of its children was the one too many, or it ended before it was ended: its own words count.
            (Exit::Code(1), true, true, Exit::Code(1)),
            (Exit::Signal(11), true, true, Exit::Signal(11)),
        ];
        for (exit, out_of_memory, hung, expected) in cases {
            assert_eq!(exit.told_apart(out_of_memory, hung), expected);
        }
    }

    #[test]
    fn a_workloads_signal_is_not_its_own_status() {
        assert_eq!(Exit::Code(159).of_workload(Some(31)).told_apart(false, false), Exit::ForbiddenCall);
        assert_eq!(Exit::Code(159).of_workload(None).told_apart(false, false), Exit::Code(159));
        assert_eq!(Exit::Code(137).of_workload(Some(9)).told_apart(true, false), Exit::OutOfMemory);
        // What does not fit together is no signal.
        assert_eq!(Exit::Code(3).of_workload(Some(31)), Exit::Code(3));
        assert_eq!(Exit::Signal(9).of_workload(Some(31)), Exit::Signal(9));
    }

    #[test]
    fn time_in_which_the_machine_stood_still_does_not_count() {
        let mut awake = Awake::default();
        assert_eq!(awake.turn(at(1)), at(1));
        assert_eq!(awake.turn(at(2)), at(2));
        assert_eq!(awake.turn(at(3600)), at(4), "an hour's pause is one turn");
        assert_eq!(awake.turn(at(3601)), at(5));
    }
}
