//! What must survive a restart is written when it changes, but not at each change of a busy map.

use std::time::{Duration, Instant};

use tracing::warn;

use super::NodeError;
use crate::parent::Requests;
use crate::parent::slots::Slots;
use crate::state::Kept;

/// What may be lost by a sudden end, in time.
const DELAY: Duration = Duration::from_secs(1);

/// The kept state and whether it is written.
pub(super) struct Keeper {
    slots: Slots,
    /// The state itself.
    pub(super) kept: Kept,
    due: Option<Instant>,
}

impl Keeper {
    pub(super) const fn new(slots: Slots, kept: Kept) -> Self {
        Self { slots, kept, due: None }
    }

    /// Something changed that may be written a little later.
    pub(super) fn touch(&mut self, now: Instant) {
        self.due.get_or_insert(now + DELAY);
    }

    /// When [`Keeper::write_if_due`] has something to do.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Writes what waits.
    pub(super) fn write_if_due(&mut self, now: Instant, parent: &Requests) {
        if self.due.is_some_and(|due| due <= now)
            && let Err(error) = self.write(parent)
        {
            warn!(%error, "the state is not kept");
        }
    }

    /// Writes it now: what is used next must not be lost. A map that has no room is left out; an identity always has.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn write(&mut self, parent: &Requests) -> Result<(), NodeError> {
        self.due = None;
        let bytes = self.kept.encode()?;
        if bytes.len() > crate::parent::slots::MAX_CONTENT {
            warn!(
                bytes = bytes.len(),
                "the map is too large to be kept: a restart has to wait for the server"
            );
            let map = self.kept.map.take();
            let bytes = self.kept.encode();
            self.kept.map = map;
            self.slots.write(&bytes?)?;
        } else {
            self.slots.write(&bytes)?;
        }
        // Nobody reads the answer of this socket for it: a parent that is gone ends us by other means.
        if let Err(error) = parent.kept() {
            warn!(%error, "the parent does not know that the state was written");
        }
        Ok(())
    }
}
