//! Calls that wait for the TEE. It makes one quote at a time and takes seconds for it: they wait beside the server's one
//! thread, which answers everybody else meanwhile.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::limits::{QUOTES_MAX, QUOTES_OF_ONE_UID};
use super::places::{Most, Places};

/// The queue.
#[derive(Debug)]
pub(super) struct Quotes {
    /// The one that is being made.
    one: Arc<Semaphore>,
    places: Places,
}

/// Why nothing was quoted. The text goes to the caller.
#[derive(Debug, thiserror::Error)]
pub(super) enum QueueError {
    #[error(
        "too many calls wait for a quote: expected at most {QUOTES_MAX}, and {QUOTES_OF_ONE_UID} of one uid"
    )]
    Full,
    #[error("the quote was given up")]
    GivenUp,
}

impl Quotes {
    pub(super) fn new() -> Self {
        let places = Places::new(Most { all: QUOTES_MAX, of_one_uid: QUOTES_OF_ONE_UID });
        Self { one: Arc::new(Semaphore::new(1)), places }
    }

    /// Does this work when its turn comes, on a thread of its own. Who closed its connection meanwhile keeps its turn (it may
    /// have closed its sending side only); whose connection was ended leaves the queue. Work that has begun goes on to its
    /// end, and the next waits for that.
    pub(super) async fn in_turn<T: Send + 'static>(
        &self,
        uid: u32,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, QueueError> {
        let place = self.places.take(uid).ok_or(QueueError::Full)?;
        // The semaphore is never closed.
        let turn = Arc::clone(&self.one).acquire_owned().await.map_err(|_| QueueError::GivenUp)?;
        let working = spawn_blocking(move || {
            let done = work();
            drop((turn, place));
            done
        });
        working.await.map_err(|_| QueueError::GivenUp)
    }
}
