//! The rule by which the clock moves. Pure: what time it is comes in, what to do about it goes out.

use std::time::Duration;

use super::TimeError;

/// How far behind the image's epoch a time may lie: ten years. An image that old is long replaced, and a clock beyond it
/// serves only who wants certificates to expire.
pub const HORIZON: Duration = Duration::from_secs(10 * 31_556_952);

/// The largest error bound of a sample that is believed: RFC 5905 appendix A.1.1, `MAXDIST`, the root distance from which a
/// server counts as unfit.
pub const LARGEST_ERROR: Duration = Duration::from_secs(1);

/// From here on forward the clock is stepped and not slewed: RFC 5905 appendix A.1.1, `STEPT`.
pub const STEP_THRESHOLD: Duration = Duration::from_millis(128);

/// How far ahead the clock may be and still be slewed back, once something runs: a leap second that the kernel was not told
/// of, and drift. The kernel slews 500 ppm (kernel/time/ntp.c, `MAX_TICKADJ`), so this takes little more than an hour.
pub const SLEW_LIMIT: Duration = Duration::from_secs(2);

/// What time it was at one moment, by somebody who knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The moment, since the kernel started (`CLOCK_BOOTTIME`).
    pub at: Duration,
    /// The time at that moment.
    pub time: Duration,
    /// How much it may be off, either way.
    pub error: Duration,
}

impl Sample {
    /// The time at another, later moment.
    pub fn time_at(&self, moment: Duration) -> Duration {
        self.time.saturating_add(moment.saturating_sub(self.at))
    }
}

/// Whether anything that lives by the clock has run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing: no certificate was issued, no peer was judged, no service was started.
    Starting,
    /// The agent, the mesh, services.
    Running,
}

/// What proved that the time is at least some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The image was built then; the epoch is measured with it.
    Image,
    /// An authenticated server said so.
    Nts,
    /// Verified collateral (TCB info, a revocation list) was issued then.
    Collateral,
}

/// What is to be done to the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing: it is right, as far as anybody can tell.
    Keep,
    /// Set it to this time.
    Step(Duration),
    /// Let it run faster or slower until it has gained so many nanoseconds (or lost, if negative).
    Slew(i64),
    /// Nothing can be done: it is ahead by more than [`SLEW_LIMIT`], and it never goes back while anything runs.
    Skewed,
}

/// The clock's rule.
///
/// - It starts as the later of the host's (RTC) and the image's epoch.
/// - What is proved raises a floor ([`Clock::prove_at_least`]); the clock is never below the floor, and the floor never falls.
/// - Before anything has run ([`Phase::Starting`]) an authenticated time sets it in either direction: a host that says 2099
///   is corrected.
/// - Afterwards it only moves forward: in steps, or by slewing if it is little. Back only by slewing, which never repeats a
///   moment, and only within [`SLEW_LIMIT`]. A clock further ahead stays, and status says so: ahead, certificates and
///   collateral expire too early and peers are refused, which fails closed; set back, what has expired would be valid again,
///   and certificates that we issued would not be valid yet.
/// - A time below the floor, or more than [`HORIZON`] after the image's epoch, is refused whoever says it.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    floor: Duration,
    floor_from: Proof,
    horizon: Duration,
}

impl Clock {
    /// With the epoch that was pinned with the image.
    pub const fn new(epoch: Duration) -> Self {
        Self { floor: epoch, floor_from: Proof::Image, horizon: epoch.saturating_add(HORIZON) }
    }

    /// The time that the clock is never below.
    pub const fn floor(&self) -> Duration {
        self.floor
    }

    /// What proved it.
    pub const fn floor_from(&self) -> Proof {
        self.floor_from
    }

    /// The time from which on nobody is believed.
    pub const fn horizon(&self) -> Duration {
        self.horizon
    }

    /// What to do about a clock that says `now`, whoever set it: never below the floor.
    pub fn at_least_the_floor(&self, now: Duration) -> Change {
        if now < self.floor { Change::Step(self.floor) } else { Change::Keep }
    }

    /// Takes in that it is at least `time`, while the clock says `now`.
    ///
    /// The way for whoever verifies something signed and dated: the mesh tells PID 1 when the newest of its collateral was issued.
    ///
    /// # Errors
    /// A time beyond the horizon; nothing changes then.
    pub fn prove_at_least(
        &mut self,
        time: Duration,
        proof: Proof,
        now: Duration,
    ) -> Result<Change, TimeError> {
        if time > self.horizon {
            return Err(TimeError::BeyondHorizon { time: time.as_secs(), horizon: self.horizon.as_secs() });
        }
        if time > self.floor {
            self.floor = time;
            self.floor_from = proof;
        }
        Ok(self.at_least_the_floor(now))
    }

    /// Judges an authenticated sample, while the clock says `now` and the kernel has run for `uptime`. Raises the floor by
    /// what it proves.
    ///
    /// # Errors
    /// A sample that cannot be: its moment is not in the last minute, it is too vague, below the floor, or beyond the horizon.
    /// Nothing changes then.
    pub fn judge(
        &mut self,
        sample: &Sample,
        phase: Phase,
        now: Duration,
        uptime: Duration,
    ) -> Result<Change, TimeError> {
        /// A report is on its way for as long as PID 1 does something else; a stage's work is the longest.
        const OLDEST: Duration = Duration::from_secs(60);
        if sample.at > uptime || uptime.saturating_sub(sample.at) > OLDEST {
            return Err(TimeError::Stale);
        }
        if sample.error > LARGEST_ERROR {
            return Err(TimeError::TooVague(sample.error));
        }
        let time = sample.time_at(uptime);
        // The whole interval may lie below: then the floor, which is certain, says that the sample is wrong.
        if time.saturating_add(sample.error) < self.floor {
            return Err(TimeError::BelowFloor { time: time.as_secs(), floor: self.floor.as_secs() });
        }
        self.prove_at_least(time.saturating_sub(sample.error), Proof::Nts, now)?;
        // Never below what is proved, also where the sample's middle is.
        let time = time.max(self.floor);
        Ok(change(phase, now, time, sample.error))
    }
}

fn change(phase: Phase, now: Duration, time: Duration, error: Duration) -> Change {
    let ahead = now.checked_sub(time);
    let off = now.abs_diff(time);
    if off <= error {
        return Change::Keep;
    }
    let slew = || i64::try_from(off.as_nanos()).unwrap_or(i64::MAX);
    match (phase, ahead) {
        (Phase::Starting, _) => Change::Step(time),
        (Phase::Running, None) if off > STEP_THRESHOLD => Change::Step(time),
        (Phase::Running, None) => Change::Slew(slew()),
        (Phase::Running, Some(_)) if off > SLEW_LIMIT => Change::Skewed,
        (Phase::Running, Some(_)) => Change::Slew(slew().saturating_neg()),
    }
}

#[cfg(test)]
mod tests;
