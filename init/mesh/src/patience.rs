//! How long a connection without identity may last: not long, but for what itself takes long.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// The end of a connection, which can be put off while it lasts.
#[derive(Debug)]
pub(crate) struct Patience(watch::Sender<Instant>);

impl Patience {
    /// It ends after that time.
    pub(crate) fn new(time: Duration) -> Self {
        Self(watch::Sender::new(Instant::now() + time))
    }

    /// It ends that time from now, unless it ends later anyhow.
    pub(crate) fn at_least(&self, time: Duration) {
        let until = Instant::now() + time;
        self.0.send_if_modified(|end| {
            let later = until > *end;
            *end = until.max(*end);
            later
        });
    }

    /// Until it ends.
    pub(crate) async fn ended(&self) {
        let mut end = self.0.subscribe();
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
            patience.at_least(Duration::from_millis(400));
            patience.at_least(Duration::from_millis(1));
        };
        tokio::join!(patience.ended(), put_off);
        assert!(begin.elapsed() >= Duration::from_millis(400));
    }
}
