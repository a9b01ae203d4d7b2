//! Identities that were decided lately, by the SHA-256 of the certificate they were decided for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest as _, Sha256};

use crate::peer::VerifiedPeer;

/// Only accepted peers get in, so this bounds memory against many genuine ones. An entry takes some 4 KiB.
const CAPACITY: usize = 256;
/// An identity is decided again after this many seconds, so that newly expired evidence is noticed on old certificates.
const MAX_AGE: u64 = 3600;

#[derive(Default)]
pub(super) struct Cache(Mutex<BTreeMap<[u8; 32], Entry>>);

struct Entry {
    peer: Arc<VerifiedPeer>,
    decided: u64,
    /// Last second at which the entry counts.
    until: u64,
}

impl Cache {
    /// The identity, unless it has expired or the clock has gone behind its decision.
    pub(super) fn find(&self, leaf_der: &[u8], now: u64) -> Option<Arc<VerifiedPeer>> {
        let entries = self.entries();
        let entry = entries.get(&key(leaf_der))?;
        (entry.decided..=entry.until).contains(&now).then(|| Arc::clone(&entry.peer))
    }

    /// Keeps an identity. A full cache first drops what has expired, then what would expire first.
    pub(super) fn keep(&self, leaf_der: &[u8], peer: Arc<VerifiedPeer>, now: u64) {
        let until = now.saturating_add(MAX_AGE).min(peer.expires());
        let mut entries = self.entries();
        if entries.len() >= CAPACITY {
            entries.retain(|_, entry| entry.until >= now);
        }
        if entries.len() >= CAPACITY {
            let first = entries.iter().min_by_key(|(_, entry)| entry.until).map(|(key, _)| *key);
            first.and_then(|first| entries.remove(&first));
        }
        entries.insert(key(leaf_der), Entry { peer, decided: now, until });
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<[u8; 32], Entry>> {
        // No code between lock and unlock leaves the map half changed, so a poisoned lock still guards a whole one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(leaf_der: &[u8]) -> [u8; 32] {
    Sha256::digest(leaf_der).into()
}

#[cfg(test)]
mod tests {
    use casemate_measure::LaunchRegisters;

    use super::*;
    use crate::anchor::Tee;
    use crate::peer::{Binding, Key, sample};

    fn peer(not_after: u64) -> Arc<VerifiedPeer> {
        let mut peer = sample::peer(Tee::Simulator, LaunchRegisters::ZERO);
        peer.binding = Binding::Key(Key { spki_sha256: [0; 32], not_after });
        Arc::new(VerifiedPeer { peer, tags: Vec::new() })
    }

    #[test]
    fn an_entry_ends_with_the_first_of_certificate_collateral_and_an_hour() {
        let now = sample::VALID;
        let collateral = peer(u64::MAX).collateral_expires();
        for (decided, not_after, last) in [
            (now, u64::MAX, now + MAX_AGE),
            (now, now + 500, now + 500),
            (collateral - 60, u64::MAX, collateral),
        ] {
            let cache = Cache::default();
            cache.keep(b"leaf", peer(not_after), decided);
            assert!(cache.find(b"leaf", decided).is_some());
            assert!(cache.find(b"leaf", last).is_some());
            assert!(cache.find(b"leaf", last + 1).is_none());
            // A clock that went back proves nothing about validity then.
            assert!(cache.find(b"leaf", decided - 1).is_none());
            assert!(cache.find(b"another", decided).is_none());
        }
    }

    #[test]
    fn it_stays_bounded_and_drops_what_expires_first() {
        let (cache, now) = (Cache::default(), sample::VALID);
        for number in 0..2_000_u64 {
            cache.keep(&number.to_le_bytes(), peer(now + 1_000 + number), now);
        }
        assert_eq!(cache.entries().len(), CAPACITY);
        assert!(cache.find(&1_999_u64.to_le_bytes(), now).is_some());
        assert!(cache.find(&0_u64.to_le_bytes(), now).is_none());
    }
}
