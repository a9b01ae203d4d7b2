//! RA-TLS certificates: good ones in both forms, and each way in which one can be bad.

use casemate_measure::event::RUNTIME_EVENT_TYPE;
use casemate_measure::{ComposeHash, InstanceId, RuntimeEvent};
use casemate_verify::ratls::{self, Attestation};
use casemate_verify::{
    Binding, Class, EvidenceError, Key, ProviderClaim, Tee, TrustAnchor, Verifier, VerifyError,
};
use rcgen::{CertificateParams, CustomExtension, KeyPair, PublicKeyData as _};
use sha2::{Digest as _, Sha256};
use time::macros::datetime;

use crate::machine::{
    Machine, NOW, boot_events, certificate, certificate_valid, image, image_bound_to, trusting_verifier,
};

const DOCUMENT: &[u8] = br#"{"casemate":{}}"#;

fn machine() -> Machine {
    Machine::boot(DOCUMENT, image())
}

fn refusal(certificate: &[u8]) -> VerifyError {
    trusting_verifier().verify_certificate(certificate, NOW).unwrap_err()
}

/// A key and the attestation that speaks for it.
fn attested(machine: &Machine) -> (KeyPair, Attestation) {
    let key = KeyPair::generate().unwrap();
    let attestation = machine.attest(ratls::report_data_for_key(&key.subject_public_key_info()));
    (key, attestation)
}

#[test]
fn a_good_certificate_says_who_is_there() {
    let (key, certificate) = machine().certificate();
    let peer = trusting_verifier().verify_certificate(&certificate, NOW).unwrap();
    let compose = ComposeHash::of(DOCUMENT);
    assert_eq!(peer.compose_hash(), compose);
    assert_eq!(peer.app_id(), compose.app_id());
    assert_eq!(peer.instance_id(), Some(InstanceId::derive(&[7; 20], &compose.app_id())));
    assert_eq!(*peer.key_provider(), ProviderClaim::none());
    assert_eq!(peer.tee(), Tee::Simulator);
    assert_eq!(peer.launch(), image());
    let spki: [u8; 32] = Sha256::digest(key.subject_public_key_info()).into();
    let key = Key { spki_sha256: spki, not_after: 1_795_910_400 };
    assert_eq!(*peer.binding(), Binding::Key(key));
    assert_eq!(peer.expires(), 1_795_910_400);
}

#[test]
fn the_older_pair_of_extensions_is_read() {
    let machine = machine();
    let (key, attestation) = attested(&machine);
    let events: Vec<_> = machine
        .log
        .events()
        .iter()
        .map(|e| {
            serde_json::json!({
                "imr": 3, "event_type": RUNTIME_EVENT_TYPE, "digest": e.digest(), "event": e.event,
                "event_payload": hex::encode(&e.payload),
            })
        })
        .collect();
    let log = serde_json::to_vec(&events).unwrap();
    let both: [(&[u64], &[u8]); 2] = [(ratls::QUOTE_OID, &attestation.quote), (ratls::EVENT_LOG_OID, &log)];
    let peer = trusting_verifier().verify_certificate(&certificate(&key, &both), NOW).unwrap();
    assert_eq!(peer.compose_hash(), ComposeHash::of(DOCUMENT));

    // Another machine's key under the same quote.
    let stolen = certificate(&KeyPair::generate().unwrap(), &both);
    assert_eq!(refusal(&stolen).class(), Class::Binding);
    // The quote without its log.
    let bare = certificate(&key, &[(ratls::QUOTE_OID, &attestation.quote)]);
    assert_eq!(refusal(&bare), EvidenceError::NoEventLog.into());
}

#[test]
fn the_newer_extension_comes_first() {
    let (key, attestation) = attested(&machine());
    let encoded = attestation.encode_v0();
    let extensions: [(&[u64], &[u8]); 3] =
        [(ratls::QUOTE_OID, b"junk"), (ratls::EVENT_LOG_OID, b"junk"), (ratls::ATTESTATION_OID, &encoded)];
    trusting_verifier().verify_certificate(&certificate(&key, &extensions), NOW).unwrap();
}

#[test]
fn a_quote_for_another_key_is_refused() {
    let (_, attestation) = attested(&machine());
    let thief = KeyPair::generate().unwrap();
    let stolen = certificate(&thief, &[(ratls::ATTESTATION_OID, &attestation.encode_v0())]);
    assert_eq!(refusal(&stolen).class(), Class::Binding);

    // The same with the report data rewritten to fit: then the quote does not carry them.
    let report_data = ratls::report_data_for_key(&thief.subject_public_key_info());
    let rewritten = Attestation { report_data, ..attestation };
    let stolen = certificate(&thief, &[(ratls::ATTESTATION_OID, &rewritten.encode_v0())]);
    assert_eq!(refusal(&stolen).class(), Class::Binding);
}

#[test]
fn a_tampered_log_is_refused() {
    let (key, attestation) = attested(&machine());
    let with_log = |events: Vec<RuntimeEvent>| {
        let changed = Attestation { events: casemate_measure::EventLog::new(events), ..attestation.clone() };
        refusal(&certificate(&key, &[(ratls::ATTESTATION_OID, &changed.encode_v0())]))
    };
    for index in 0..attestation.events.events().len() {
        let mut renamed = attestation.events.events().to_vec();
        renamed[index].event.push('x');
        assert_eq!(with_log(renamed).class(), Class::Log);
        let mut changed = attestation.events.events().to_vec();
        changed[index].payload.push(0);
        assert_eq!(with_log(changed).class(), Class::Log);
        let mut shorter = attestation.events.events().to_vec();
        shorter.remove(index);
        assert_eq!(with_log(shorter).class(), Class::Log);
    }
    let mut longer = attestation.events.events().to_vec();
    longer.push(RuntimeEvent::new("late", []));
    assert_eq!(with_log(longer).class(), Class::Log);
}

/// Whoever boots a kernel of their own in a TD can extend any events: these logs replay.
#[test]
fn a_log_that_replays_must_still_be_a_boots() {
    let with_events = |change: fn(&mut Vec<RuntimeEvent>)| {
        let mut events = boot_events(&ComposeHash::of(DOCUMENT));
        change(&mut events);
        let (_, certificate) = machine().with_events(events).certificate();
        refusal(&certificate).to_string()
    };
    assert_eq!(
        with_events(|events| events.insert(2, RuntimeEvent::new("app-id", [9; 20]))),
        "event log: event 2 (app-id): expected this event once, found it again"
    );
    assert_eq!(
        with_events(|events| events.swap(1, 2)),
        "event log: event 1 (compose-hash): expected app-id first, found it out of order"
    );
    assert_eq!(
        with_events(|events| events.insert(4, RuntimeEvent::new("debug-shell", []))),
        "event log: event 4 (debug-shell): expected a boot event, found an unknown one"
    );
    assert_eq!(
        with_events(|events| {
            events.pop();
        }),
        "event log: event 6 (system-ready): expected this event, found the end of the log"
    );
    assert!(with_events(|events| events[1].payload = vec![9; 20]).starts_with("app id: expected "));
}

#[test]
fn mrconfigid_must_name_the_logs_document() {
    let (_, certificate) = Machine::boot(DOCUMENT, image_bound_to(DOCUMENT)).certificate();
    trusting_verifier().verify_certificate(&certificate, NOW).unwrap();
    let (_, certificate) = Machine::boot(DOCUMENT, image_bound_to(b"another")).certificate();
    assert_eq!(refusal(&certificate).class(), Class::Identity);
}

#[test]
fn a_certificate_has_its_time() {
    let (key, attestation) = attested(&machine());
    let encoded = attestation.encode_v0();
    let certificate = certificate_valid(
        &key,
        &[(ratls::ATTESTATION_OID, &encoded)],
        datetime!(2026-11-22 00:00:00 UTC),
        datetime!(2026-11-23 00:00:00 UTC),
    );
    let verifier = trusting_verifier();
    for now in [NOW, NOW + 86_400] {
        verifier.verify_certificate(&certificate, now).unwrap();
    }
    for now in [NOW - 1, NOW + 86_401] {
        let error = verifier.verify_certificate(&certificate, now).unwrap_err();
        assert_eq!(error.class(), Class::Validity);
        let end = NOW + 86_400;
        let text = format!("certificate: expected valid from {NOW} to {end} (Unix seconds), found now {now}");
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn malformed_certificates_are_refused() {
    let (key, attestation) = attested(&machine());
    let encoded = attestation.encode_v0();
    assert_eq!(refusal(&certificate(&key, &[])), EvidenceError::NoExtension.into());

    let twice: [(&[u64], &[u8]); 2] =
        [(ratls::ATTESTATION_OID, &encoded), (ratls::ATTESTATION_OID, &encoded)];
    let oid = "1.3.6.1.4.1.62397.1.8".to_owned();
    assert_eq!(refusal(&certificate(&key, &twice)), EvidenceError::DuplicateExtension { oid }.into());

    // Without the inner OCTET STRING.
    let mut params = CertificateParams::default();
    params.custom_extensions =
        vec![CustomExtension::from_oid_content(ratls::ATTESTATION_OID, encoded.clone())];
    let unwrapped = params.self_signed(&key).unwrap();
    assert_eq!(
        refusal(unwrapped.der()).to_string(),
        "certificate: extension 1.3.6.1.4.1.62397.1.8: expected a DER OCTET STRING, found something else"
    );

    let good = certificate(&key, &[(ratls::ATTESTATION_OID, &encoded)]);
    let mut longer = good.clone();
    longer.push(0);
    assert_eq!(
        refusal(&longer).to_string(),
        "certificate: expected nothing after it, found 1 trailing bytes"
    );
    for length in (0..good.len()).step_by(97) {
        assert_eq!(refusal(&good[..length]).class(), Class::Form, "{length}");
    }
    assert_eq!(refusal(b"-----BEGIN CERTIFICATE-----").class(), Class::Form);
}

#[test]
fn production_does_not_believe_it() {
    let (_, certificate) = machine().certificate();
    let verifier = Verifier::new([TrustAnchor::Intel], Default::default());
    let error = verifier.verify_certificate(&certificate, NOW).unwrap_err();
    assert_eq!(error.class(), Class::Root);
}
