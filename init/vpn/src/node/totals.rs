//! What went to and came from each peer since we run: the plane counts anew with each key, a person does not.

use std::collections::HashMap;

use crate::key::{Node, Public};

/// Bytes received and sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bytes {
    pub(super) rx: u64,
    pub(super) tx: u64,
}

impl Bytes {
    const fn plus(self, other: Self) -> Self {
        Self { rx: self.rx.saturating_add(other.rx), tx: self.tx.saturating_add(other.tx) }
    }
}

/// The counters of one peer: those that ended, and what the one that goes on was last seen at.
#[derive(Clone, Copy, Debug, Default)]
struct Total {
    ended: Bytes,
    seen: Bytes,
}

impl Total {
    /// With what the plane counts now; less than before is another counter.
    const fn with(self, now: Bytes) -> Self {
        let anew = now.rx < self.seen.rx || now.tx < self.seen.tx;
        Self { ended: if anew { self.ended.plus(self.seen) } else { self.ended }, seen: now }
    }

    const fn sum(self) -> Bytes {
        self.ended.plus(self.seen)
    }
}

/// The counters of all peers.
#[derive(Debug, Default)]
pub(super) struct Totals(HashMap<Public<Node>, Total>);

impl Totals {
    /// The plane counts this now: to be told now and then, or what was counted just before a new key is lost.
    pub(super) fn note(&mut self, peer: Public<Node>, now: Bytes) {
        if now != Bytes::default() || self.0.contains_key(&peer) {
            let total = self.0.entry(peer).or_default();
            *total = total.with(now);
        }
    }

    /// All that was counted, with what the plane counts now.
    pub(super) fn of(&self, peer: &Public<Node>, now: Bytes) -> Bytes {
        self.0.get(peer).copied().unwrap_or_default().with(now).sum()
    }

    /// A peer has another key.
    pub(super) fn renamed(&mut self, before: &Public<Node>, after: Public<Node>) {
        if let Some(total) = self.0.remove(before) {
            let new = self.0.entry(after).or_default();
            new.ended = new.ended.plus(total.sum());
        }
    }

    /// A peer is gone.
    pub(super) fn forget(&mut self, peer: &Public<Node>) {
        self.0.remove(peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Public<Node> = Public::new([1; 32]);
    const B: Public<Node> = Public::new([2; 32]);

    const fn bytes(rx: u64, tx: u64) -> Bytes {
        Bytes { rx, tx }
    }

    #[test]
    fn a_new_key_of_ours_or_theirs_takes_nothing_from_the_sum() {
        let mut totals = Totals::default();
        totals.note(A, bytes(100, 10));
        assert_eq!(totals.of(&A, bytes(150, 10)), bytes(150, 10));
        // Another key of ours: the plane begins at zero.
        totals.note(A, bytes(5, 0));
        assert_eq!(totals.of(&A, bytes(6, 1)), bytes(106, 11));
        // Another key of the peer's.
        totals.renamed(&A, B);
        assert_eq!(totals.of(&B, bytes(0, 0)), bytes(105, 10));
        assert_eq!(totals.of(&B, bytes(7, 7)), bytes(112, 17));
        assert_eq!(totals.of(&A, bytes(1, 1)), bytes(1, 1));
        totals.renamed(&A, B);
        totals.forget(&B);
        totals.note(B, bytes(0, 0));
        assert!(totals.0.is_empty(), "who never said a word takes no room");
    }
}
