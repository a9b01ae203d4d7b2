//! Who must not get in: each is refused inside the handshake, the mesh's log says why, and the backend never hears of it,
//! although each sends a whole request behind its certificate without waiting for a verdict.

use casemate_mesh::CertificateKey;
use casemate_verify::ratls::Attestation;
use casemate_verify::{TrustAnchor, Verifier};
use dcap_qvl::verify::QuoteVerifier;
use rcgen::KeyPair;

use crate::backend::Seen;
use crate::callers::{GET, demo};
use crate::client::call;
use crate::evidence::{self, certificate, quoted_under, report_data};
use crate::log;
use crate::machine::{CALLER, DEMO, Machine, another_image, image, now};
use crate::pki::{Pki, Variant};

/// A real quote of a real TDX machine, signed under Intel's root.
const INTEL_QUOTE: &[u8] = include_bytes!("../../attestation/tests/fixtures/tdx_quote");

/// Calls the demo's mesh with that certificate and expects a refusal for that reason.
async fn refused(own: CertificateKey, reason: &[&str]) {
    let (mesh, backend, _demo) = demo().await;
    let mark = log::mark();
    let outcome = call(mesh.inbound, Some(own), GET).await;
    let how = outcome.refusal();
    let who = format!("peer={} ", outcome.from);
    let line = mark.line(&["handshake refused", &who]).await;
    for text in reason {
        assert!(line.contains(text), "expected {text} in: {line} ({how})");
    }
    assert_eq!(backend.seen(), Seen::nothing());

    // The control: the same mesh serves the same request of somebody good.
    let good = Machine::boot(CALLER, image()).certificate().await;
    let served = call(mesh.inbound, Some(good), GET).await;
    assert_eq!(served.status(), 200);
    backend.only_request();
}

/// Who the evidence says is there, for a verifier that believes the simulator and has no opinion of images.
fn authentic(own: &CertificateKey) -> casemate_verify::AuthenticPeer {
    let verifier = Verifier::new([TrustAnchor::Simulator], Default::default());
    verifier.verify_certificate(&own.chain[0], now()).unwrap()
}

#[tokio::test]
async fn a_certificate_without_evidence() {
    let key = KeyPair::generate().unwrap();
    refused(certificate(&key, None), &["expected the RA-TLS attestation extension"]).await;
}

/// Evidence of the caller's document for this key, with another quote in it.
async fn with_quote(key: &KeyPair, quote: impl FnOnce(&[u8]) -> Vec<u8>) -> Attestation {
    let genuine = evidence::of(&Machine::boot(CALLER, image()).certificate().await);
    // A quote over this key: of the genuine one only the report data are changed, so whatever signed it no longer does.
    let mut claimed = genuine.quote.clone();
    let report_data = report_data(key);
    let place = 48 + 584 - report_data.len();
    claimed[place..place + report_data.len()].copy_from_slice(&report_data);
    Attestation { quote: quote(&claimed), report_data, ..genuine }
}

#[tokio::test]
async fn a_genuine_quote_of_intels_under_a_key_of_ones_own() {
    let key = KeyPair::generate().unwrap();
    let evidence = with_quote(&key, |_| INTEL_QUOTE.to_vec()).await;
    let reason = "found an Intel TDX module, which this verifier was not told to trust";
    refused(certificate(&key, Some(&evidence)), &[reason]).await;
}

/// Flawless in itself: the report speaks for the key, the log replays, the image is the right one. Only the platform that
/// signed it is one of the caller's own making.
#[tokio::test]
async fn a_quote_signed_under_another_root() {
    let pki = Pki::generate(&Variant { seed: "somebody's own", ..Variant::default() }).unwrap();
    let key = KeyPair::generate().unwrap();
    let evidence = with_quote(&key, |claimed| quoted_under(&pki, claimed)).await;
    let verifier = QuoteVerifier::new(pki.root_der.clone());
    verifier.verify(&evidence.quote, &pki.collateral, now()).unwrap();
    let own = certificate(&key, Some(&evidence));
    refused(own, &["found an unknown root", "Root CA"]).await;
}

/// The same with the right root's name and key, but a signature that it did not make.
#[tokio::test]
async fn a_quote_whose_report_was_changed_after_signing() {
    let key = KeyPair::generate().unwrap();
    let evidence = with_quote(&key, <[u8]>::to_vec).await;
    refused(certificate(&key, Some(&evidence)), &["the peer's certificate is not accepted: quote: "]).await;
}

#[tokio::test]
async fn evidence_copied_from_anothers_certificate() {
    let victim = Machine::boot(CALLER, image()).certificate().await;
    let key = KeyPair::generate().unwrap();
    let copied = evidence::of(&victim);
    refused(certificate(&key, Some(&copied)), &["report data: expected "]).await;

    // With the evidence's own word for its report data bent to fit: then the quote does not carry them.
    let bent = Attestation { report_data: report_data(&key), ..copied };
    refused(certificate(&key, Some(&bent)), &["report data: expected the quote's, "]).await;
}

#[tokio::test]
async fn anothers_certificate_without_its_key() {
    let victim = Machine::boot(CALLER, image()).certificate().await;
    let thief = certificate(&KeyPair::generate().unwrap(), None);
    let stolen = CertificateKey { chain: victim.chain, key: thief.key };
    refused(stolen, &["BadSignature"]).await;
}

#[tokio::test]
async fn a_genuine_quote_of_another_image() {
    let other = Machine::boot(CALLER, another_image()).certificate().await;
    let (ours, theirs) = (image().rtmr2.to_string(), another_image().rtmr2.to_string());
    assert_eq!(authentic(&other).launch(), another_image());
    refused(other, &["not trusted: images[0].rtmr2: expected our own, ", &ours, &theirs]).await;
}

/// The attack of which quotes alone know nothing: a machine with a kernel of its owner's own extends the events of the
/// victim's boot. Its quote is genuine, its log replays, and both say that it is the victim.
#[tokio::test]
async fn a_kernel_of_ones_own_with_the_victims_app_id() {
    let victim = Machine::boot(DEMO, image());
    let forger = Machine::boot(DEMO, another_image());
    let forged = forger.certificate().await;
    let said = authentic(&forged);
    assert_eq!((said.app_id(), said.compose_hash()), (victim.app, victim.compose));
    assert_eq!(said.rtmr3(), authentic(&victim.certificate().await).rtmr3());
    refused(forged, &["not trusted: images[0].rtmr2: expected our own, "]).await;
}

/// An image that was not measured is nobody's.
#[tokio::test]
async fn an_image_that_was_not_measured() {
    let nothing = casemate_measure::LaunchRegisters::ZERO;
    let unmeasured = Machine::boot(CALLER, nothing).certificate().await;
    refused(unmeasured, &["images[0].rtmr2: expected our own, ", "found zero (not measured)"]).await;
}
