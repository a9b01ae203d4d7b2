//! How long a connection without identity may last: not long, but for what itself takes long.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// The end of a connection, which can be put off once while it lasts.
#[derive(Debug)]
pub(crate) struct Patience {
    end: watch::Sender<Instant>,
    put_off: AtomicBool,
}

impl Patience {
    /// It ends after that time.
    pub(crate) fn new(time: Duration) -> Self {
        Self { end: watch::Sender::new(Instant::now() + time), put_off: AtomicBool::new(false) }
    }

    /// It ends that time from now, unless it ends later anyhow. Only the first call counts: whoever asks again and again would
    /// stay for ever.
    pub(crate) fn put_off_once(&self, time: Duration) {
        if self.put_off.swap(true, Ordering::Relaxed) {
            return;
        }
        let until = Instant::now() + time;
        self.end.send_if_modified(|end| {
            let later = until > *end;
            *end = until.max(*end);
            later
        });
    }

    /// Until it ends.
    pub(crate) async fn ended(&self) {
        let mut end = self.end.subscribe();
        loop {
            let until = *end.borrow_and_update();
            tokio::select! {
                () = sleep_until(until) => return,
                // The sender is ours, and stays.
                _ = end.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_ends_no_sooner_than_it_was_put_off_to() {
        let begin = Instant::now();
        let patience = Patience::new(Duration::from_millis(50));
        let put_off = async {
            patience.put_off_once(Duration::from_millis(400));
            patience.put_off_once(Duration::from_secs(3600));
        };
        tokio::join!(patience.ended(), put_off);
        assert!(begin.elapsed() >= Duration::from_millis(400));
    }

    #[tokio::test]
    async fn what_would_end_it_sooner_does_not() {
        let begin = Instant::now();
        let patience = Patience::new(Duration::from_millis(200));
        patience.put_off_once(Duration::from_millis(1));
        patience.ended().await;
        assert!(begin.elapsed() >= Duration::from_millis(200));
    }
}
