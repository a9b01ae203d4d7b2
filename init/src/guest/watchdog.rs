//! Powers off when a stage does not end, and when PID 1's loop does not turn.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use casemate_measure::status::{Reason, Stage};

use super::power;

/// Waiting stages judge their own deadline and say what they waited for; the watchdog is for a stage that is stuck in
/// the kernel, and comes this much later.
const SLACK: Duration = Duration::from_secs(15);

/// How long PID 1's loop may stand still once the machine is ready.
pub(super) const STUCK: Duration = Duration::from_secs(45);

/// Time is taken in pieces, and each counts as no more than it is: a machine that its host stopped for an hour wakes up with
/// one piece gone, and PID 1 has the rest to show that it is well.
const PIECE: Duration = Duration::from_secs(5);

/// A thread that powers off unless it is told in time that things went on.
#[derive(Debug)]
pub(super) struct Watchdog(Sender<(Stage, Duration)>);

impl Watchdog {
    /// Starts it, unarmed.
    pub(super) fn start() -> std::io::Result<Self> {
        Self::with(PIECE, |stage| power::off_because(stage, Reason::Deadline, 0, [0; 32]))
    }

    fn with(piece: Duration, expired: impl FnOnce(Stage) + Send + 'static) -> std::io::Result<Self> {
        let (sender, receiver) = channel();
        std::thread::Builder::new().name("watchdog".into()).stack_size(64 << 10).spawn(move || {
            if let Some(stage) = watch(&receiver, piece) {
                expired(stage);
            }
        })?;
        Ok(Self(sender))
    }

    /// The stage must end, or this be called again, within `deadline`.
    pub(super) fn arm(&self, stage: Stage, deadline: Duration) {
        // The thread lives as long as the process.
        _ = self.0.send((stage, deadline.saturating_add(SLACK)));
    }
}

/// Returns the stage whose deadline passed; `None` if nobody can arm it any more.
fn watch(orders: &Receiver<(Stage, Duration)>, piece: Duration) -> Option<Stage> {
    let (mut stage, mut left) = orders.recv().ok()?;
    loop {
        match orders.recv_timeout(piece.min(left)) {
            Ok(next) => (stage, left) = next,
            Err(RecvTimeoutError::Timeout) => left = left.saturating_sub(piece),
            Err(RecvTimeoutError::Disconnected) => return None,
        }
        if left.is_zero() {
            return Some(stage);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    const PIECE: Duration = Duration::from_millis(5);

    #[test]
    fn who_arms_it_again_in_time_is_left_alone_and_who_does_not_is_not() {
        let (sender, expired) = channel();
        let begin = Instant::now();
        let watchdog = Watchdog::with(PIECE, move |stage| sender.send(stage).unwrap()).unwrap();
        assert!(expired.recv_timeout(PIECE * 4).is_err(), "it is not armed");
        // Sent past SLACK, which is too long for a test.
        for _ in 0..20 {
            watchdog.0.send((Stage::Links, PIECE * 100)).unwrap();
            assert!(expired.recv_timeout(PIECE * 2).is_err(), "it is armed again and again");
        }
        watchdog.0.send((Stage::Ready, PIECE * 10)).unwrap();
        assert_eq!(expired.recv_timeout(Duration::from_secs(60)).unwrap(), Stage::Ready);
        assert!(begin.elapsed() >= PIECE * (4 + 40 + 10));
    }
}
