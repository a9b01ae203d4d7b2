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

    /// Keeps collateral, unless any part of what is there is newer and still counts: a revocation that is known stays known.
    /// Revocation lists are compared with those of every kind of platform that they are for, too. What has expired makes room
    /// for another kind.
    pub fn keep(&self, verified: VerifiedCollateral, now: u64) -> Kept {
        let key = (verified.anchor, verified.platform);
        let new = verified.collateral.times();
        // No code between lock and unlock leaves the map half changed.
        let mut entries = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if entries.iter().any(|((anchor, platform), entry)| {
            let old = entry.collateral.times().parts;
            let same_root = *anchor == verified.anchor;
            let same_ca = same_root && platform.ca == verified.platform.ca;
            same_root && old.root_crl.is_rolled_back_by(&new.parts.root_crl, now)
                || same_ca && old.pck_crl.is_rolled_back_by(&new.parts.pck_crl, now)
        }) {
            return Kept::Older;
        }
        if let Some(there) = entries.get(&key) {
            let old = there.collateral.times();
            let fewer = new.evaluation_number < old.evaluation_number && now <= old.parts.tcb_info.until;
            let mut parts = old.parts.beside(&new.parts).into_iter();
            if fewer || parts.any(|(old, new)| old.is_rolled_back_by(&new, now)) {
                return Kept::Older;
            }
            if there.collateral.says_the_same(&verified.collateral) {
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
    use crate::collateral::{Collateral, PartTimes, Times, Window};
    use crate::platform::Ca;

    /// All parts signed at 100 and good until 900, unless changed; the signed bytes say when.
    fn of(fmspc: u8, change: impl FnOnce(&mut Times)) -> VerifiedCollateral {
        let json = include_str!("../../tests/fixtures/tdx_quote_collateral.json");
        let mut collateral = Collateral::from_json(json.as_bytes()).unwrap();
        let window = Window { issued: 100, until: 900 };
        let parts = PartTimes { tcb_info: window, qe_identity: window, pck_crl: window, root_crl: window };
        collateral.times =
            Times { oldest_issue: 100, newest_issue: 100, next_update: 900, evaluation_number: 17, parts };
        change(&mut collateral.times);
        collateral.times.newest_issue =
            collateral.times.parts.beside(&parts).iter().map(|(part, _)| part.issued).max().unwrap();
        collateral.parts.tcb_info = format!("{:?}", collateral.times);
        let platform = PlatformKind { fmspc: [fmspc; 6], ca: Ca::Platform };
        VerifiedCollateral { anchor: TrustAnchor::Intel, platform, collateral, expires: 900 }
    }

    type Part = fn(&mut Times) -> &mut Window;
    const PARTS: [Part; 4] = [
        |times| &mut times.parts.tcb_info,
        |times| &mut times.parts.qe_identity,
        |times| &mut times.parts.pck_crl,
        |times| &mut times.parts.root_crl,
    ];

    #[test]
    fn no_part_is_ever_replaced_by_an_older_one_however_new_the_others_are() {
        let store = Store::new();
        assert_eq!(store.keep(of(1, |_| ()), 500), Kept::Stored);
        assert_eq!(store.keep(of(1, |_| ()), 500), Kept::Known);
        assert_eq!(store.keep(of(1, |t| t.evaluation_number = 16), 500), Kept::Older);
        for older in PARTS {
            let rolled_back = of(1, |times| {
                PARTS.iter().for_each(|part| part(times).issued = 200);
                older(times).issued = 99;
            });
            assert_eq!(store.keep(rolled_back, 500), Kept::Older);
        }
        for newer in PARTS {
            let store = Store::new();
            assert_eq!(store.keep(of(1, |_| ()), 500), Kept::Stored);
            assert_eq!(store.keep(of(1, |times| newer(times).issued = 101), 500), Kept::Stored);
            assert_eq!(store.proven_time(), Some(101));
        }
        let there = store.find(TrustAnchor::Intel, of(1, |_| ()).platform).unwrap();
        let processor = PlatformKind { ca: Ca::Processor, ..there.platform };
        assert!(store.find(TrustAnchor::Intel, processor).is_none());
        #[cfg(feature = "simulator")]
        assert!(store.find(TrustAnchor::Simulator, there.platform).is_none());
    }

    /// A revocation list is for all kinds of platforms below its CA.
    #[test]
    fn another_kind_brings_no_older_list() {
        let store = Store::new();
        assert_eq!(store.keep(of(1, |_| ()), 500), Kept::Stored);
        for list in [PARTS[2], PARTS[3]] {
            assert_eq!(store.keep(of(2, |times| list(times).issued = 99), 500), Kept::Older);
        }
        let other_ca = |list: Part| {
            let mut verified = of(2, |times| list(times).issued = 99);
            verified.platform.ca = Ca::Processor;
            verified
        };
        assert_eq!(store.keep(other_ca(PARTS[3]), 500), Kept::Older);
        assert_eq!(store.keep(other_ca(PARTS[2]), 500), Kept::Stored);
        assert_eq!(store.keep(of(3, |times| PARTS[0](times).issued = 99), 500), Kept::Stored);
    }

    #[test]
    fn what_has_expired_blocks_nothing() {
        let store = Store::new();
        assert_eq!(store.keep(of(1, |t| t.evaluation_number = 18), 500), Kept::Stored);
        let standard = || {
            of(1, |times| PARTS.iter().for_each(|part| *part(times) = Window { issued: 99, until: 2_000 }))
        };
        assert_eq!(store.keep(standard(), 900), Kept::Older);
        assert_eq!(store.keep(standard(), 901), Kept::Stored);
    }

    #[test]
    fn it_stays_bounded() {
        let store = Store::new();
        let kinds = 0..u8::try_from(CAPACITY).unwrap();
        assert!(kinds.clone().all(|kind| store.keep(of(kind, |_| ()), 500) == Kept::Stored));
        assert_eq!(store.keep(of(200, |_| ()), 500), Kept::Full);
        assert_eq!(store.keep(of(1, |times| PARTS[0](times).issued = 101), 500), Kept::Stored);
        // All have expired.
        assert_eq!(store.keep(of(200, |_| ()), 901), Kept::Stored);
        assert!(store.find(TrustAnchor::Intel, of(1, |_| ()).platform).is_none());
    }
}
