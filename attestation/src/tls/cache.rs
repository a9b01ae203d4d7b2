//! Identities that were decided lately, by the SHA-256 of the certificate they were decided for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest as _, Sha256};

use crate::peer::VerifiedPeer;

/// Only accepted peers get in, so this bounds memory against many genuine ones. An entry takes a few hundred bytes.
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
        let until = now.saturating_add(MAX_AGE).min(peer.not_after()).min(peer.collateral_expires());
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
