//! Places that several want, shared so that none of them gets them all. Pure, but for the wait.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// So many places, each taken under a name. A name gets one more only while it holds fewer than are free (the dynamic thresholds
/// of Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998): alone it gets half of them, two get a third each,
/// and one that comes anew finds a place however many the others want.
#[derive(Debug)]
pub(crate) struct Shares<N: Ord> {
    all: usize,
    held: Mutex<Held<N>>,
    given_back: Notify,
}

#[derive(Debug)]
struct Held<N> {
    by: BTreeMap<N, usize>,
    sum: usize,
}

/// One place. It is given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share<N: Ord + Clone> {
    of: Arc<Shares<N>>,
    name: N,
}

impl<N: Ord + Clone> Shares<N> {
    pub(crate) fn new(all: usize) -> Arc<Self> {
        let held = Mutex::new(Held { by: BTreeMap::new(), sum: 0 });
        Arc::new(Self { all, held, given_back: Notify::new() })
    }

    /// A place for that name, if it may have one more now.
    pub(crate) fn try_take(self: &Arc<Self>, name: &N) -> Option<Share<N>> {
        let mut held = self.lock();
        let own = held.by.get(name).copied().unwrap_or(0);
        if own >= self.all.saturating_sub(held.sum) {
            return None;
        }
        held.by.insert(name.clone(), own.saturating_add(1));
        held.sum = held.sum.saturating_add(1);
        Some(Share { of: Arc::clone(self), name: name.clone() })
    }

    /// The same, however long that takes.
    pub(crate) async fn take(self: &Arc<Self>, name: &N) -> Share<N> {
        loop {
            // From here on nothing that is given back is missed.
            let given_back = self.given_back.notified();
            if let Some(share) = self.try_take(name) {
                return share;
            }
            given_back.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held<N>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<N: Ord + Clone> Drop for Share<N> {
    fn drop(&mut self) {
        let mut held = self.of.lock();
        held.sum = held.sum.saturating_sub(1);
        if let Some(own) = held.by.get_mut(&self.name) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                held.by.remove(&self.name);
            }
        }
        drop(held);
        self.of.given_back.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_it_can(shares: &Arc<Shares<u8>>, name: u8) -> Vec<Share<u8>> {
        std::iter::from_fn(|| shares.try_take(&name)).collect()
    }

    #[test]
    fn none_gets_all_and_who_comes_anew_gets_one() {
        let shares = Shares::new(16);
        let mut held: Vec<_> = (0..10).map(|name| all_it_can(&shares, name)).collect();
        let counts: Vec<_> = held.iter().map(Vec::len).collect();
        assert_eq!(counts, [8, 4, 2, 1, 1, 0, 0, 0, 0, 0], "each that comes gets half of what is left");
        // What one gives back is for all, itself last.
        held[0].truncate(2);
        assert_eq!(held[0].len(), 2);
        assert_eq!(all_it_can(&shares, 9).len(), 3);
        held.clear();
        assert_eq!(shares.lock().by.len(), 0, "nothing is kept of who has gone");
        assert_eq!(shares.lock().sum, 0);
    }

    #[tokio::test]
    async fn who_waits_gets_the_next() {
        let shares = Shares::new(2);
        let first = shares.take(&1).await;
        let waiting = tokio::spawn({
            let shares = Arc::clone(&shares);
            async move { shares.take(&1).await }
        });
        tokio::task::yield_now().await;
        let other = shares.take(&2).await;
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop((first, other));
        waiting.await.unwrap();
    }
}
