//! Verified collateral by kind of platform, shared by every verifier of a process.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::VerifiedCollateral;
use crate::anchor::TrustAnchor;
use crate::platform::PlatformKind;

/// Kinds of platforms that are kept: all that Intel ever sold with TDX are fewer. An entry takes some 25 KiB.
const CAPACITY: usize = 64;

/// What is known about platforms. Only verified collateral gets in, and never an older one in place of a newer.
#[derive(Debug, Default)]
pub struct Store(RwLock<BTreeMap<(TrustAnchor, PlatformKind), Arc<VerifiedCollateral>>>);

/// What became of collateral that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is used from now on.
    Stored,
    /// What is there is the same, or as new.
    Known,
    /// What is there is newer: whoever offers the older one may be hiding a revocation.
    Older,
    /// There is no room for another kind of platform.
    Full,
}

impl Store {
    /// Nothing is known.
    pub fn new() -> Self {
        Self::default()
    }

    /// The collateral for platforms of a kind, expired or not.
    pub fn find(&self, anchor: TrustAnchor, platform: PlatformKind) -> Option<Arc<VerifiedCollateral>> {
        let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
        entries.get(&(anchor, platform)).map(Arc::clone)
    }

    /// Keeps collateral, unless what is there is newer. What has expired makes room for another kind.
    pub fn keep(&self, verified: VerifiedCollateral, now: u64) -> Kept {
        let key = (verified.anchor, verified.platform);
        // No code between lock and unlock leaves the map half changed.
        let mut entries = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = entries.get(&key) {
            let (old, new) = (there.collateral.times(), verified.collateral.times());
            if new.evaluation_number < old.evaluation_number
                || new.newest_issue < old.newest_issue
                || new.oldest_issue < old.oldest_issue
            {
                return Kept::Older;
            }
            if there.collateral == verified.collateral {
                return Kept::Known;
            }
        } else {
            if entries.len() >= CAPACITY {
                entries.retain(|_, entry| entry.expires >= now);
            }
            if entries.len() >= CAPACITY {
                return Kept::Full;
            }
        }
        entries.insert(key, Arc::new(verified));
        Kept::Stored
    }

    /// The latest time that anything here was signed at, Unix seconds: the clock cannot be before it.
    pub fn proven_time(&self) -> Option<u64> {
        let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
        entries.values().map(|entry| entry.collateral.times().newest_issue).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collateral::{Collateral, Times};
    use crate::platform::Ca;

    fn of(fmspc: u8, change: impl FnOnce(&mut Times)) -> VerifiedCollateral {
        let json = include_str!("../../tests/fixtures/tdx_quote_collateral.json");
        let mut collateral = Collateral::from_json(json.as_bytes()).unwrap();
        collateral.times =
            Times { oldest_issue: 100, newest_issue: 200, next_update: 900, evaluation_number: 17 };
        change(&mut collateral.times);
        let platform = PlatformKind { fmspc: [fmspc; 6], ca: Ca::Platform };
        VerifiedCollateral { anchor: TrustAnchor::Intel, platform, collateral, expires: 900 }
    }

    #[test]
    fn older_collateral_never_takes_the_place_of_newer() {
        let store = Store::new();
        assert_eq!(store.keep(of(1, |_| ()), 500), Kept::Stored);
        assert_eq!(store.keep(of(1, |_| ()), 500), Kept::Known);
        assert_eq!(store.keep(of(1, |t| t.evaluation_number = 16), 500), Kept::Older);
        assert_eq!(store.keep(of(1, |t| t.newest_issue = 199), 500), Kept::Older);
        assert_eq!(store.keep(of(1, |t| t.oldest_issue = 99), 500), Kept::Older);
        assert_eq!(store.keep(of(1, |t| t.newest_issue = 201), 500), Kept::Stored);
        let there = store.find(TrustAnchor::Intel, of(1, |_| ()).platform).unwrap();
        assert_eq!(there.collateral.times().newest_issue, 201);
        assert_eq!(store.proven_time(), Some(201));
        let processor = PlatformKind { ca: Ca::Processor, ..there.platform };
        assert!(store.find(TrustAnchor::Intel, processor).is_none());
        #[cfg(feature = "simulator")]
        assert!(store.find(TrustAnchor::Simulator, there.platform).is_none());
    }

    #[test]
    fn it_stays_bounded() {
        let store = Store::new();
        let kinds = 0..u8::try_from(CAPACITY).unwrap();
        assert!(kinds.clone().all(|kind| store.keep(of(kind, |_| ()), 500) == Kept::Stored));
        assert_eq!(store.keep(of(200, |_| ()), 500), Kept::Full);
        assert_eq!(store.keep(of(1, |t| t.newest_issue = 201), 500), Kept::Stored);
        // All have expired.
        assert_eq!(store.keep(of(200, |_| ()), 901), Kept::Stored);
        assert!(store.find(TrustAnchor::Intel, of(1, |_| ()).platform).is_none());
    }
}
