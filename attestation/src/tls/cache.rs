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

#[cfg(test)]
mod tests {
    use casemate_measure::{AppId, ComposeHash, Register};

    use super::*;
    use crate::TcbStatus;
    use crate::peer::{AuthenticEvidence, AuthenticPeer, AuthenticQuote, Tee};
    use crate::quote::TdReport;

    fn peer(not_after: u64, collateral_expires: u64) -> Arc<VerifiedPeer> {
        let report = TdReport {
            tee_tcb_svn: [0; 16],
            mr_seam: Register::ZERO,
            mr_signer_seam: Register::ZERO,
            seam_attributes: [0; 8],
            td_attributes: [0; 8],
            xfam: [0; 8],
            mrtd: Register::ZERO,
            mr_config_id: casemate_measure::MrConfigId::ZERO,
            mr_owner: Register::ZERO,
            mr_owner_config: Register::ZERO,
            rtmr: [Register::ZERO; 4],
            report_data: [0; 64],
        };
        let quote = AuthenticQuote {
            tee: Tee::Simulator,
            report,
            tcb_status: TcbStatus::UpToDate,
            advisory_ids: Vec::new(),
            collateral_expires,
        };
        let evidence = AuthenticEvidence {
            quote,
            app_id: AppId([0; 20]),
            compose_hash: ComposeHash([0; 32]),
            instance_id: None,
            key_provider: String::new(),
        };
        let peer = AuthenticPeer { evidence, spki_sha256: [0; 32], not_after };
        Arc::new(VerifiedPeer { peer, tags: Vec::new() })
    }

    #[test]
    fn an_entry_ends_with_the_first_of_certificate_collateral_and_an_hour() {
        for (not_after, collateral, last) in
            [(9_000, 9_999, 1_000 + MAX_AGE), (1_500, 9_999, 1_500), (9_999, 1_400, 1_400)]
        {
            let cache = Cache::default();
            cache.keep(b"leaf", peer(not_after, collateral), 1_000);
            assert!(cache.find(b"leaf", 1_000).is_some());
            assert!(cache.find(b"leaf", last).is_some());
            assert!(cache.find(b"leaf", last + 1).is_none());
            // A clock that went back proves nothing about validity then.
            assert!(cache.find(b"leaf", 999).is_none());
            assert!(cache.find(b"another", 1_000).is_none());
        }
    }

    #[test]
    fn it_stays_bounded_and_drops_what_expires_first() {
        let cache = Cache::default();
        for number in 0..2_000_u64 {
            cache.keep(&number.to_le_bytes(), peer(10_000 + number, 99_999), 8_000);
        }
        assert_eq!(cache.entries().len(), CAPACITY);
        assert!(cache.find(&1_999_u64.to_le_bytes(), 8_000).is_some());
        assert!(cache.find(&0_u64.to_le_bytes(), 8_000).is_none());
    }
}
