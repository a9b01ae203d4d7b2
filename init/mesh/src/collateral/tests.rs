//! Intel's real collateral, at the time it was of.

use std::sync::atomic::{AtomicU64, Ordering};

use casemate_verify::collateral::Store;

use super::*;

const QUOTE: &[u8] = include_bytes!("../../../../attestation/tests/fixtures/tdx_quote");
const JSON: &str = include_str!("../../../../attestation/tests/fixtures/tdx_quote_collateral.json");
/// 2025-06-19T10:40:00Z: the collateral is minutes old.
const NOW: u64 = 1_750_329_600;

fn at(now: u64) -> (Collateral, Arc<AtomicU64>) {
    let time = Arc::new(AtomicU64::new(now));
    let reads = Arc::clone(&time);
    let clock: Clock = Arc::new(move || reads.load(Ordering::Relaxed));
    let verifier = Arc::new(Verifier::new([TrustAnchor::Intel], Arc::new(Store::new())));
    (Collateral::new(verifier, TrustAnchor::Intel, clock, Some(10 * DAY)), time)
}

fn genuine() -> evidence::Collateral {
    evidence::Collateral::from_json(JSON.as_bytes()).unwrap()
}

fn own() -> Own {
    Own { quote: QUOTE.into(), platform: PlatformKind::of_quote(QUOTE).unwrap() }
}

#[test]
fn what_is_ours_is_shown_until_it_expires() {
    let (collateral, time) = at(NOW);
    assert_eq!(collateral.offer(QUOTE, genuine()).unwrap(), Kept::Stored);
    assert_eq!(collateral.offer(QUOTE, genuine()).unwrap(), Kept::Known);
    assert!(collateral.json().is_none(), "it is not known that this platform is ours");
    *collateral.own.write().unwrap() = Some(own());
    let (json, tag) = collateral.json().unwrap();
    assert_eq!(json, genuine().to_json());
    let same = collateral.json().unwrap();
    assert_eq!((same.0.as_ptr(), same.1), (json.as_ptr(), tag), "one copy is shared");
    time.store(NOW + 31 * DAY, Ordering::Relaxed);
    assert!(collateral.json().is_none());
    assert_eq!(collateral.show(&HeaderMap::new()).status(), StatusCode::NOT_FOUND);
}

#[test]
fn it_proves_when_it_was_signed() {
    let (collateral, _) = at(NOW);
    let proven = collateral.proven.subscribe();
    assert_eq!(*proven.borrow(), 0);
    collateral.offer(QUOTE, genuine()).unwrap();
    assert_eq!(*proven.borrow(), genuine().times().newest_issue);
}

#[test]
fn what_is_too_old_is_refused_before_it_expires() {
    let issued = genuine().times().oldest_issue;
    let (collateral, _) = at(issued + 10 * DAY);
    assert_eq!(collateral.offer(QUOTE, genuine()).unwrap(), Kept::Stored);
    let (collateral, _) = at(issued + 10 * DAY + 1);
    let error = collateral.offer(QUOTE, genuine()).unwrap_err();
    assert!(matches!(error, Refused::TooOld { days: 10, .. }), "{error}");
    assert!(error.to_string().contains("issued at most 10 days ago"), "{error}");
}

#[test]
fn what_does_not_verify_is_not_kept() {
    let (collateral, _) = at(NOW);
    let mut parts: casemate_verify::QuoteCollateralV3 = serde_json::from_str(JSON).unwrap();
    parts.tcb_info = parts.tcb_info.replace("OutOfDate", "UpToDate");
    let forged = evidence::Collateral::new(parts).unwrap();
    assert!(matches!(collateral.offer(QUOTE, forged), Err(Refused::Verify(_))));
    let another = include_bytes!("../../../../attestation/tests/fixtures/tdx_quote_td15ex");
    assert!(matches!(collateral.offer(another, genuine()), Err(Refused::Verify(_))));
    assert!(collateral.verifier.store().find(TrustAnchor::Intel, own().platform).is_none());
    assert_eq!(*collateral.proven.borrow(), 0);
}
