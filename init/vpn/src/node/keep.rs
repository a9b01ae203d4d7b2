//! What must survive a restart is written when it changes, but not at each change of a busy map; and what the parent is told of it, and
//! of us. Nothing here waits for the parent: what it did not take is said again, as it stands then.

use std::io;
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use super::NodeError;
use crate::parent::Requests;
use crate::parent::message::Report;
use crate::parent::slots::{MAX_CONTENT, Slots};
use crate::state::Kept;

/// What may be lost by a sudden end, in time.
const DELAY: Duration = Duration::from_secs(1);
/// The bytes that are written in a second, in the mean: a large map that changes all the time is not the node's whole work.
const PER_SECOND: usize = 64 << 10;
/// After a write that failed.
const RETRY: Duration = Duration::from_secs(10);
/// How often the parent hears of us, although nothing changed.
const REPORT: Duration = Duration::from_secs(10);

/// The kept state and whether it is written.
pub(super) struct Keeper {
    slots: Slots,
    /// The state itself.
    pub(super) kept: Kept,
    due: Option<Instant>,
    /// How long something may wait: longer, the larger the record was.
    delay: Duration,
    /// When the parent is told that the slots were written, which it does not know yet.
    unsaid: Option<Instant>,
    /// That the map has no room was said.
    left_out: bool,
    /// That nothing can be written was said.
    failed: bool,
}

impl Keeper {
    pub(super) const fn new(slots: Slots, kept: Kept) -> Self {
        Self { slots, kept, due: None, delay: DELAY, unsaid: None, left_out: false, failed: false }
    }

    /// Something changed that may be written a little later.
    pub(super) fn touch(&mut self, now: Instant) {
        self.due.get_or_insert(now + self.delay);
    }

    /// When [`Keeper::write_if_due`] has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        [self.due, self.unsaid].into_iter().flatten().min()
    }

    /// Writes what waits, and says what is unsaid.
    pub(super) fn write_if_due(&mut self, now: Instant, parent: &Requests) {
        if self.due.is_some_and(|due| due <= now)
            && let Err(error) = self.write(now, parent)
            && !std::mem::replace(&mut self.failed, true)
        {
            warn!(%error, "the state is not kept; it is tried again");
        }
        if self.unsaid.is_some_and(|due| due <= now) {
            self.say(now, parent);
        }
    }

    /// Writes it now: what is used next must not be lost. A map that has no room is left out, with the ways to its peers; an identity
    /// always has.
    ///
    /// # Errors
    /// If it cannot be written; it is tried again.
    pub(super) fn write(&mut self, now: Instant, parent: &Requests) -> Result<(), NodeError> {
        self.due = Some(now + RETRY);
        let record = self.kept.encode_within(MAX_CONTENT)?;
        self.slots.write(&record.bytes)?;
        self.due = None;
        self.delay = DELAY.saturating_mul(u32::try_from(record.bytes.len() / PER_SECOND + 1).unwrap_or(1));
        self.failed = false;
        if !record.whole && !self.left_out {
            let peers = self.kept.map.as_ref().map_or(0, |map| map.peers.len());
            warn!(peers, "the map is too large to be kept: after a restart we wait for the server");
        }
        self.left_out = !record.whole;
        self.say(now, parent);
        Ok(())
    }

    /// That the slots were written. However often they are before it can be said, it is said once.
    fn say(&mut self, now: Instant, parent: &Requests) {
        self.unsaid = match parent.kept() {
            Ok(()) => None,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(now + DELAY),
            // A parent that is gone ends us by other means.
            Err(error) => {
                warn!(%error, "the parent does not know that the state was written");
                None
            }
        };
    }
}

/// What the parent knows of us.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// What it took last, and when that is said again.
    last: Option<(Report, Instant)>,
    gone: bool,
}

impl Told {
    /// Says how we stand, if the parent does not know it or did not hear of us for long. To be called again soon in any case.
    pub(super) fn tell(&mut self, now: Instant, report: Report, parent: &Requests) {
        if self.last.as_ref().is_some_and(|(last, again)| *last == report && now < *again) {
            return;
        }
        match parent.report(&report) {
            Ok(()) => self.last = Some((report, now + REPORT)),
            // What is said when there is room is what holds then.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => debug!("the parent is busy"),
            Err(error) if !std::mem::replace(&mut self.gone, true) => {
                warn!(%error, "the parent does not hear us");
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
