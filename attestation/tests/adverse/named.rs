//! Attacks by name, each with the class of its refusal.

use casemate_verify::collateral::Collateral;
use casemate_verify::evidence::detect;
use casemate_verify::ratls::{self, Attestation};
use casemate_verify::{
    AuthenticPeer, Class, Evidence, EvidenceError, Presented, QuoteCollateralV3, TrustAnchor, VerifyError,
    challenge,
};
use rcgen::{KeyPair, PublicKeyData as _};

use crate::certificates::{DOCUMENT, attestation, key, older_log};
use crate::machine::{Machine, NOW, certificate, image, trusting_verifier};
use crate::pki::{CA_SERIAL, Pki, SIGNING_SERIAL, Variant};
use crate::real::{OUTDATED, Real, VERSION_4, VERSION_5, intel};

fn refusal(der: &[u8]) -> Class {
    trusting_verifier().verify_certificate(der, NOW).unwrap_err().class()
}

/// One machine's quote beside another's log, or another's beside its own.
#[test]
fn swapped_logs() {
    let key = key();
    let genuine = attestation(&key);
    let report_data = genuine.report_data;
    let other = Machine::boot(b"another document", image()).attest(report_data);
    for (quote, log) in [(&genuine, &other), (&other, &genuine)] {
        let swapped = Attestation { events: log.events.clone(), ..quote.clone() };
        let versions = [swapped.encode_v0(), swapped.encode_v1().unwrap()];
        for content in versions {
            assert_eq!(refusal(&certificate(&key, &[(ratls::ATTESTATION_OID, &content)])), Class::Log);
        }
        let log = older_log(log);
        let pair: [(&[u64], &[u8]); 2] = [(ratls::QUOTE_OID, &quote.quote), (ratls::EVENT_LOG_OID, &log)];
        assert_eq!(refusal(&certificate(&key, &pair)), Class::Log);
    }
}

/// What a certificate carries, in a certificate of a key that it is not for.
#[test]
fn replayed_certificates() {
    let genuine = attestation(&key());
    let thief = KeyPair::generate().unwrap();
    let for_thief = ratls::report_data_for_key(&thief.subject_public_key_info());
    let log = older_log(&genuine);
    let rewritten = Attestation { report_data: for_thief, ..genuine.clone() };
    let stolen: [&[(&[u64], &[u8])]; 5] = [
        &[(ratls::ATTESTATION_OID, &genuine.encode_v0())],
        &[(ratls::ATTESTATION_OID, &genuine.encode_v1().unwrap())],
        &[(ratls::QUOTE_OID, &genuine.quote), (ratls::EVENT_LOG_OID, &log)],
        // With what the quote is said to carry made to fit.
        &[(ratls::ATTESTATION_OID, &rewritten.encode_v0())],
        &[(ratls::ATTESTATION_OID, &rewritten.encode_v1().unwrap())],
    ];
    for extensions in stolen {
        assert_eq!(refusal(&certificate(&thief, extensions)), Class::Binding);
    }
    // And in the quote itself: then its signature is not of that.
    let mut forged = rewritten.clone();
    forged.quote[568..632].copy_from_slice(&for_thief);
    let extensions: [(&[u64], &[u8]); 1] = [(ratls::ATTESTATION_OID, &forged.encode_v0())];
    assert_eq!(refusal(&certificate(&thief, &extensions)), Class::Signature);
}

/// A genuine machine's answer to the same nonce, asked for by a thief in the middle: it is for the thief's connection to the
/// machine, and for the machine's key.
#[test]
fn relayed_challenges() {
    const NONCE: [u8; 32] = [7; 32];
    let (ours, theirs) = ([8; 32], [9; 32]);
    let (key, thief) = (key(), KeyPair::generate().unwrap());
    let machine = Machine::boot(DOCUMENT, image());
    let leaf = |key: &KeyPair| {
        let attestation = machine.attest(ratls::report_data_for_key(&key.subject_public_key_info()));
        certificate(key, &[(ratls::ATTESTATION_OID, &attestation.encode_v0())])
    };
    let judge = |leaf: &[u8], nonce, exporter, key: &KeyPair| {
        let answer = machine.attest(challenge::report_data(nonce, exporter, &key.subject_public_key_info()));
        let judged = trusting_verifier().verify_challenge(leaf, &answer, &NONCE, &ours, NOW);
        judged.map(drop).map_err(|error: VerifyError| error.class())
    };
    assert_eq!(judge(&leaf(&key), &NONCE, &ours, &key), Ok(()));
    assert_eq!(judge(&leaf(&key), &NONCE, &theirs, &key), Err(Class::Binding), "another connection");
    assert_eq!(judge(&leaf(&key), &[6; 32], &ours, &key), Err(Class::Binding), "another nonce");
    assert_eq!(judge(&leaf(&thief), &NONCE, &ours, &key), Err(Class::Binding), "another key");
    // Neither is evidence for a key evidence for a connection, nor the other way round.
    let plain = attestation(&key);
    let judged = trusting_verifier().verify_challenge(&leaf(&key), &plain, &NONCE, &ours, NOW);
    assert_eq!(judged.unwrap_err().class(), Class::Binding);
    let answer = machine.attest(challenge::report_data(&NONCE, &ours, &key.subject_public_key_info()));
    assert_eq!(refusal(&certificate(&key, &[(ratls::ATTESTATION_OID, &answer.encode_v0())])), Class::Binding);
}

#[test]
fn expired_and_future_collateral() {
    for real in [VERSION_4, VERSION_5, OUTDATED] {
        let times = *real.collateral().times();
        let judge = |now| {
            let verified = Real { valid: now, ..real }.verify(real.quote, &real.collateral());
            verified.map(drop).map_err(|error| error.class())
        };
        assert_eq!(judge(times.next_update + 1), Err(Class::Collateral), "{}", real.name);
        assert_eq!(judge(times.oldest_issue - 1), Err(Class::Collateral), "{}", real.name);
        assert_eq!(judge(0), Err(Class::Collateral), "{}", real.name);
        assert_eq!(judge(u64::from(u32::MAX)), Err(Class::Collateral), "{}", real.name);
        let within = if real.name == OUTDATED.name { Err(Class::Tcb) } else { Ok(()) };
        // A revocation list ends with the second before it (RFC 5280, section 5.1.2.5: "by this date").
        assert_eq!(judge(times.next_update - 1), within, "{}", real.name);
        assert_eq!(judge(times.newest_issue), within, "{}", real.name);
    }
}

#[test]
fn revoked_chains() {
    let quote = Machine::boot(DOCUMENT, image()).attest([0; 64]).quote;
    let judge = |variant: Variant<'_>| {
        let collateral = Collateral::new(Pki::generate(&variant).unwrap().collateral).unwrap();
        let verified = trusting_verifier().verify_quote_with(&quote, &collateral, NOW);
        verified.map(drop).map_err(|error| error.class())
    };
    let revoked_by_root = |serial| judge(Variant { root_revokes: Some(serial), ..Variant::default() });
    assert_eq!(judge(Variant::default()), Ok(()));
    assert_eq!(judge(Variant { pck_revoked: true, ..Variant::default() }), Err(Class::Revocation));
    assert_eq!(judge(Variant { tcb_status: "Revoked", ..Variant::default() }), Err(Class::Revocation));
    assert_eq!(revoked_by_root(CA_SERIAL), Err(Class::Revocation));
    assert_eq!(revoked_by_root(SIGNING_SERIAL), Err(Class::Revocation));
    // The root itself.
    assert_eq!(revoked_by_root(1), Err(Class::Revocation));
    // Nobody's.
    assert_eq!(revoked_by_root(77), Ok(()));
}

#[test]
fn every_truncation() {
    let key = key();
    let attestation = attestation(&key);
    let (scale, msgpack) = (attestation.encode_v0(), attestation.encode_v1().unwrap());
    for encoded in [&scale, &msgpack] {
        assert_eq!(Attestation::decode(encoded).unwrap(), attestation);
        for length in 0..encoded.len() {
            let error: VerifyError = Attestation::decode(&encoded[..length]).unwrap_err().into();
            assert_eq!(error.class(), Class::Form, "{length} of {}: {error}", encoded.len());
            assert!(detect(&encoded[..length]).is_err(), "{length}");
        }
    }
    let der = certificate(&key, &[(ratls::ATTESTATION_OID, &scale)]);
    for length in 0..der.len() {
        assert_eq!(refusal(&der[..length]), Class::Form, "{length}");
        assert!(detect(&der[..length]).is_err(), "{length}");
    }
    // The length of its signature data says where it ends.
    let end = VERSION_4.quote.len() - VERSION_4.quote.iter().rev().take_while(|byte| **byte == 0).count();
    let collateral = VERSION_4.collateral();
    for length in 0..end {
        let error = VERSION_4.verify(&VERSION_4.quote[..length], &collateral).unwrap_err();
        assert_eq!(error.class(), Class::Form, "{length}: {error}");
    }
}

#[test]
fn collateral_of_another_platform() {
    for (quote, other) in [(VERSION_4, OUTDATED), (OUTDATED, VERSION_5)] {
        let error = other.verify(quote.quote, &other.collateral()).unwrap_err();
        assert_eq!(error.class(), Class::Collateral, "{}: {error}", quote.name);
        let verified = intel().verify_collateral(quote.quote, other.collateral(), other.valid);
        assert_eq!(verified.unwrap_err().class(), Class::Collateral);
    }
    // The simulated TEE's for a real quote, and the other way round.
    let simulated = casemate_verify::simulator::collateral().unwrap();
    let error = intel().verify_quote_with(VERSION_4.quote, &simulated, NOW).unwrap_err();
    assert_eq!(error.class(), Class::Collateral, "{error}");
    let quote = Machine::boot(DOCUMENT, image()).attest([0; 64]).quote;
    let real = trusting_verifier().verify_quote_with(&quote, &VERSION_4.collateral(), VERSION_4.valid);
    assert_eq!(real.unwrap_err().class(), Class::Collateral);
}

/// `dcap-qvl` takes the platform's chain from the collateral if there is one. A quote that its own chain does not lead to
/// would then be judged as another platform's.
#[test]
fn collateral_that_brings_a_platforms_chain() {
    let foreign = Pki::generate(&Variant { seed: "somebody else's", ..Variant::default() }).unwrap();
    let parts: QuoteCollateralV3 = serde_json::from_slice(VERSION_4.collateral).unwrap();
    for chain in [foreign.pck_chain_pem.as_str(), "", "junk"] {
        let parts = QuoteCollateralV3 { pck_certificate_chain: Some(chain.into()), ..parts.clone() };
        let with_chain = Collateral::new(parts).unwrap();
        let plain = VERSION_4.verify(VERSION_4.quote, &VERSION_4.collateral()).unwrap();
        assert_eq!(VERSION_4.verify(VERSION_4.quote, &with_chain).unwrap(), plain);
    }

    // A forged quote that says to be of a foreign platform, and collateral with the genuine platform's chain.
    let machine = Machine::boot(DOCUMENT, image());
    let mut thief = Machine::boot(DOCUMENT, image());
    thief.pki = foreign;
    // So that the simulator's root is found in the quote.
    let (leaf_and_intermediate, _) = thief.pki.pck_chain_pem.rsplit_once("-----BEGIN").unwrap();
    let (_, root) = machine.pki.pck_chain_pem.rsplit_once("-----BEGIN").unwrap();
    thief.pki.pck_chain_pem = format!("{leaf_and_intermediate}-----BEGIN{root}");
    let mut parts = machine.pki.collateral.clone();
    parts.pck_certificate_chain = Some(machine.pki.pck_chain_pem.clone());
    let collateral = Collateral::new(parts).unwrap();
    let judge = |machine: &Machine| {
        let verified =
            trusting_verifier().verify_quote_with(&machine.attest([0; 64]).quote, &collateral, NOW);
        verified.map(drop).map_err(|error| error.class())
    };
    assert_eq!(judge(&machine), Ok(()));
    assert_eq!(judge(&thief), Err(Class::Signature));
}

/// `dcap-qvl` verifies these, too: an enclave is no TD.
#[test]
fn sgx_quotes() {
    const QUOTE: &[u8] = include_bytes!("../fixtures/sgx_quote");
    assert_eq!(detect(QUOTE), Err(EvidenceError::Unknown));
    assert_eq!(intel().verify_quote(QUOTE, VERSION_4.valid).unwrap_err().class(), Class::Form);
    // As if it were one: TEE type and version.
    for (version, tee_type) in [(3, 0x81), (4, 0), (4, 0x81), (5, 0x81)] {
        let mut changed = QUOTE.to_vec();
        (changed[0], changed[4]) = (version, tee_type);
        let error = VERSION_4.verify(&changed, &VERSION_4.collateral()).unwrap_err();
        assert_eq!(error.class(), Class::Form, "{version}: {error}");
    }
}

/// Evidence of the simulated TEE before a verifier of Intel's, and of Intel's before one of the simulated TEE's.
#[test]
fn evidence_under_another_root() {
    let evidence = Evidence::Attestation(Machine::boot(DOCUMENT, image()).attest([0; 64]));
    let refused: Result<AuthenticPeer, VerifyError> = intel().authenticate(&Presented::from(&evidence), NOW);
    assert_eq!(refused.unwrap_err().class(), Class::Root);
    let error = trusting_verifier().verify_quote(VERSION_4.quote, VERSION_4.valid).unwrap_err();
    assert_eq!(error.class(), Class::Root);
    let nobody = casemate_verify::Verifier::new(std::iter::empty::<TrustAnchor>(), Default::default());
    assert_eq!(nobody.verify_quote(VERSION_4.quote, VERSION_4.valid).unwrap_err().class(), Class::Root);
}
