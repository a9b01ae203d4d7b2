//! Powers off when a stage does not end.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use casemate_measure::status::{Reason, Stage};

use super::power;

/// Waiting stages judge their own deadline and say what they waited for; the watchdog is for a stage that is stuck in
/// the kernel, and comes this much later.
const SLACK: Duration = Duration::from_secs(15);

/// A thread that powers off unless it is told in time that the boot went on.
#[derive(Debug)]
pub(super) struct Watchdog(Sender<Option<(Stage, Duration)>>);

impl Watchdog {
    /// Starts it, unarmed.
    pub(super) fn start() -> std::io::Result<Self> {
        let (sender, receiver) = channel();
        std::thread::Builder::new()
            .name("watchdog".into())
            .stack_size(64 << 10)
            .spawn(move || watch(&receiver))?;
        Ok(Self(sender))
    }

    /// The stage must end within `deadline`.
    pub(super) fn arm(&self, stage: Stage, deadline: Duration) {
        // The thread lives as long as the process.
        _ = self.0.send(Some((stage, deadline)));
    }

    /// No deadline any more.
    pub(super) fn disarm(&self) {
        _ = self.0.send(None);
    }
}

fn watch(orders: &Receiver<Option<(Stage, Duration)>>) {
    let mut armed: Option<(Stage, Duration)> = None;
    loop {
        let order = match armed {
            None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some((_, deadline)) => orders.recv_timeout(deadline.saturating_add(SLACK)),
        };
        match (order, armed) {
            (Ok(next), _) => armed = next,
            (Err(RecvTimeoutError::Timeout), Some((stage, _))) => {
                power::off_because(stage, Reason::Deadline, 0, [0; 32]);
            }
            (Err(_), _) => return,
        }
    }
}
