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
    // Also to a clock that is a hundred days behind, or has not been set at all.
    for now in [NOW, NOW - 100 * DAY, 0] {
        let (collateral, _) = at(now);
        let proven = collateral.proven.subscribe();
        assert_eq!(*proven.borrow(), 0);
        assert_eq!(collateral.offer(QUOTE, genuine()).unwrap(), Kept::Stored);
        assert_eq!(*proven.borrow(), genuine().times().newest_issue);
    }
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
    // What is forged proves nothing, of whatever time it says to be.
    let (collateral, _) = at(NOW - 100 * DAY);
    let mut parts: casemate_verify::QuoteCollateralV3 = serde_json::from_str(JSON).unwrap();
    parts.tcb_info = parts.tcb_info.replace("OutOfDate", "UpToDate");
    let forged = evidence::Collateral::new(parts).unwrap();
    assert!(matches!(collateral.offer(QUOTE, forged), Err(Refused::Verify(_))));
    let another = include_bytes!("../../../../attestation/tests/fixtures/tdx_quote_td15ex");
    assert!(matches!(collateral.offer(another, genuine()), Err(Refused::Verify(_))));
    assert!(collateral.verifier.store().find(TrustAnchor::Intel, own().platform).is_none());
    assert_eq!(*collateral.proven.borrow(), 0);
}

#[tokio::test]
async fn ours_is_brought_as_it_is_taken() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let made = rcgen::generate_simple_self_signed(vec!["far".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let expected = Offer::write(QUOTE, &genuine().to_json());
    let length = expected.len();
    let far = tokio::spawn(async move {
        let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
        let mut read = Vec::new();
        while !read.windows(4).any(|four| four == b"\r\n\r\n") {
            read.push(stream.read_u8().await.unwrap());
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        stream.write_all(b"HTTP/1.1 204 X\r\n\r\n").await.unwrap();
        (String::from_utf8(read).unwrap(), String::from_utf8(body).unwrap())
    });
    let (collateral, _) = at(NOW);
    assert!(!collateral.introduce(address).await, "there is none yet");
    *collateral.own.write().unwrap() = Some(own());
    collateral.offer(QUOTE, genuine()).unwrap();
    assert!(collateral.introduce(address).await);
    let (head, body) = far.await.unwrap();
    assert!(head.starts_with("POST /.well-known/casemate/collateral HTTP/1.1\r\n"), "{head}");
    assert_eq!(body, expected);
    // Whoever it is takes it by the same reading.
    let (there, _) = at(NOW);
    let asker = Asker::Stranger(address.ip());
    let taken = there.take(http_body_util::Full::new(Bytes::from(body)), &asker).await;
    assert_eq!(taken.status(), StatusCode::NO_CONTENT);
    assert!(there.verifier.store().find(TrustAnchor::Intel, own().platform).is_some());
}
