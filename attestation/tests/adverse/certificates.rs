//! RA-TLS certificates of a simulated machine and the attestations in them, in each form, one bit of every byte.

use casemate_measure::event::RUNTIME_EVENT_TYPE;
use casemate_verify::ratls::{self, Attestation};
use casemate_verify::{AuthenticEvidence, Class, Verifier};
use p256::pkcs8::EncodePrivateKey as _;
use rcgen::{KeyPair, PublicKeyData as _};
use rustls::pki_types::CertificateDer;
use rustls::server::ParsedCertificate;

use crate::flips::{Judgement, Pass, Region, Tally, every_byte};
use crate::layout::{Layout, find};
use crate::machine::{Machine, NOW, certificate, image, trusting_verifier};

use Class::{Binding, Form, Log, NotImplemented, Root, Signature, Validity};

pub(crate) const DOCUMENT: &[u8] = br#"{"casemate":{}}"#;

/// The same key in every run: only the certificate's own signature differs, which nobody reads.
pub(crate) fn key() -> KeyPair {
    let key = p256::SecretKey::from_slice(&[7; 32]).unwrap().to_pkcs8_der().unwrap();
    KeyPair::try_from(key.as_bytes()).unwrap()
}

/// What a machine says for that key.
pub(crate) fn attestation(key: &KeyPair) -> Attestation {
    Machine::boot(DOCUMENT, image()).attest(ratls::report_data_for_key(&key.subject_public_key_info()))
}

/// RTMR3's events as the older form has them.
pub(crate) fn older_log(attestation: &Attestation) -> Vec<u8> {
    let events: Vec<_> = attestation
        .events
        .events()
        .iter()
        .map(|event| {
            serde_json::json!({
                "imr": 3, "event_type": RUNTIME_EVENT_TYPE, "digest": event.digest(), "event": event.event,
                "event_payload": hex::encode(&event.payload),
            })
        })
        .collect();
    serde_json::to_vec(&events).unwrap()
}

/// Version 0 (SCALE): `report_data` is the class of a change in what the quote is said to carry.
fn version_0(layout: &mut Layout<'_>, attestation: &Attestation) {
    let len = attestation.encode_v0().len();
    let end = layout.at() + len;
    let runtime: usize =
        1 + attestation.events.events().iter().map(|e| 2 + e.event.len() + e.payload.len()).sum::<usize>();
    let config = 1 + attestation.config.len();
    layout.part("version", 1, &[Form], Pass::Never);
    layout.part("platform", 1, &[NotImplemented], Pass::Never);
    layout.part("length of the quote", 2, &[Form], Pass::Never);
    layout.quote(&[Signature]);
    // dstack's verifier replays the runtime events, too, and nothing else.
    layout.to(end - config - 64 - runtime, "event log", &[Form], Pass::Unread);
    layout.part("runtime events", runtime, &[Form, Log], Pass::Never);
    layout.part("report data", 64, &[Binding], Pass::Never);
    layout.part("config", config, &[Form], Pass::Unread);
}

/// Version 1 (MessagePack); `item` holds it from the layout's place on.
fn version_1(layout: &mut Layout<'_>, item: &[u8], attestation: &Attestation) {
    let len = attestation.encode_v1().unwrap().len();
    let (begin, end) = (layout.at(), layout.at() + len);
    let place = |name: &[u8]| begin + find(&item[begin..end], name);
    // Key and head of the array, three bytes.
    let quote = place(b"\xa5quote") + 6 + 3;
    layout.to(quote, "head", &[Form, NotImplemented], Pass::Never);
    let of_quote = [Form, NotImplemented, Root, Signature, Validity];
    layout.to(place(b"\xa9event_log"), "quote", &of_quote, Pass::Unread);
    layout.part("event_log: name", 10, &[Form], Pass::Never);
    layout.to(place(b"\xa5stack"), "event log", &[Form], Pass::Unread);
    let report_data = place(b"\xabreport_data") + 12 + 3;
    layout.to(report_data, "stack", &[Form], Pass::Never);
    layout.to(place(b"\xaeruntime_events"), "report data", &[Form, Binding], Pass::Never);
    layout.to(place(b"\xa6config"), "runtime events", &[Form, Log], Pass::Never);
    layout.part("config: name", 7, &[Form], Pass::Never);
    layout.to(end, "config", &[Form], Pass::Unread);
}

/// A certificate around what `content` lays out, from its first byte on.
fn around(der: &[u8], first: usize, content: impl FnOnce(&mut Layout<'_>)) -> Vec<Region> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).unwrap();
    let spki = certificate.public_key().raw;
    let mut layout = Layout::new(der);
    // UTCTime, tag and length before it: not before, not after. Its own holder wrote it, so it may be another time.
    let validity = find(der, b"\x17\x0d261121000000Z");
    layout.to(validity, "serial number and issuer", &[Form], Pass::Unread);
    layout.part("validity", 30, &[Form, Validity], Pass::Unread);
    layout.to(find(der, spki), "subject", &[Form], Pass::Unread);
    layout.part("public key", spki.len(), &[Form, Binding], Pass::Never);
    layout.to(first, "extensions", &[Form], Pass::Unread);
    content(&mut layout);
    // Whoever holds the key signed it: it proves nothing that the handshake does not prove.
    layout.rest("signature of the certificate", &[Form], Pass::Unread)
}

fn flip(item: &str, der: &[u8], regions: &[Region]) -> Tally {
    let verifier = trusting_verifier();
    let judge = |der: &[u8]| -> Judgement<(AuthenticEvidence, [u8; 32])> {
        let peer = verifier.verify_certificate(der, NOW)?;
        Ok(((*peer).clone(), peer.key().unwrap().spki_sha256))
    };
    let plain = |der: &[u8]| ParsedCertificate::try_from(&CertificateDer::from(der)).is_ok();
    every_byte(item, der, regions, judge, plain)
}

#[test]
fn certificate_with_version_0() {
    let key = key();
    let attestation = attestation(&key);
    let content = attestation.encode_v0();
    let der = certificate(&key, &[(ratls::ATTESTATION_OID, &content)]);
    let regions = around(&der, find(&der, &content), |layout| version_0(layout, &attestation));
    flip("certificate (.8, version 0)", &der, &regions);
}

#[test]
fn certificate_with_version_1() {
    let key = key();
    let attestation = attestation(&key);
    let content = attestation.encode_v1().unwrap();
    let der = certificate(&key, &[(ratls::ATTESTATION_OID, &content)]);
    let regions = around(&der, find(&der, &content), |layout| version_1(layout, &der, &attestation));
    flip("certificate (.8, version 1)", &der, &regions);
}

#[test]
fn certificate_of_the_older_form() {
    let key = key();
    let attestation = attestation(&key);
    let log = older_log(&attestation);
    let der = certificate(&key, &[(ratls::QUOTE_OID, &attestation.quote), (ratls::EVENT_LOG_OID, &log)]);
    let regions = around(&der, find(&der, &attestation.quote), |layout| {
        // Nothing else says what the quote's report data are: first of all they are not the key's.
        layout.quote(&[Binding]);
        layout.to(find(&der, &log), "extension of the log", &[Form], Pass::Never);
        // The digests that it tells are not read.
        layout.part("event log", log.len(), &[Form, Log], Pass::Unread);
    });
    flip("certificate (.1, .2)", &der, &regions);
}

/// Attestations that no certificate carries.
fn bare_attestation(item: &str, bytes: &[u8], regions: &[Region]) {
    let verifier: Verifier = trusting_verifier();
    let judge = |bytes: &[u8]| verifier.verify_attestation(&Attestation::decode(bytes)?, NOW);
    every_byte(item, bytes, regions, judge, |bytes| Attestation::decode(bytes).is_ok());
}

#[test]
fn attestation_of_version_0() {
    let attestation = attestation(&key());
    let bytes = attestation.encode_v0();
    let mut layout = Layout::new(&bytes);
    version_0(&mut layout, &attestation);
    bare_attestation("attestation, version 0", &bytes, &layout.rest("end", &[], Pass::Never));
}

#[test]
fn attestation_of_version_1() {
    let attestation = attestation(&key());
    let bytes = attestation.encode_v1().unwrap();
    let mut layout = Layout::new(&bytes);
    version_1(&mut layout, &bytes, &attestation);
    bare_attestation("attestation, version 1", &bytes, &layout.rest("end", &[], Pass::Never));
}
