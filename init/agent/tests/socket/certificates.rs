//! What a certificate says and proves.

use std::time::{SystemTime, UNIX_EPOCH};

use casemate_agent::{TlsKey, TlsKeyRequest};
use casemate_verify::ratls::{self, Attestation};
use casemate_verify::{Class, ProviderClaim, Tee, TrustAnchor, Verifier};
use p256::pkcs8::{DecodePrivateKey as _, EncodePublicKey as _};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::host::{Served, handover, launch};

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn verifier() -> Verifier {
    Verifier::new([TrustAnchor::Simulator], Default::default())
}

fn der(pem: &str) -> Vec<u8> {
    let mut found = Pem::iter_from_buffer(pem.as_bytes());
    let certificate = found.next().unwrap().unwrap();
    assert_eq!(certificate.label, "CERTIFICATE");
    assert!(found.next().is_none());
    certificate.contents
}

/// [leaf, CA], after checking that there are two and that one signed the other, and the other itself.
fn chain(key: &TlsKey) -> [Vec<u8>; 2] {
    let chain: [Vec<u8>; 2] =
        key.certificate_chain.iter().map(|pem| der(pem)).collect::<Vec<_>>().try_into().unwrap();
    let [leaf, ca] = chain.each_ref().map(|der| {
        let (rest, certificate) = X509Certificate::from_der(der).unwrap();
        assert!(rest.is_empty());
        certificate
    });
    assert_eq!(leaf.issuer(), ca.subject());
    assert_eq!(ca.subject().to_string(), "CN=App Root Cert");
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &*ca.public_key().subject_public_key.data);
    for signed in [&leaf, &ca] {
        public.verify(signed.tbs_certificate.as_ref(), &signed.signature_value.data).unwrap();
    }
    chain
}

fn extension<'a>(certificate: &'a X509Certificate<'_>, oid: &[u64]) -> Option<&'a [u8]> {
    let oid = x509_parser::der_parser::Oid::from(oid).unwrap();
    certificate.get_extension_unique(&oid).unwrap().map(|extension| extension.value)
}

fn ra_tls() -> TlsKeyRequest {
    TlsKeyRequest { usage_ra_tls: true, usage_client_auth: true, ..TlsKeyRequest::default() }
}

#[tokio::test]
async fn leaf_and_ca_verify_as_the_app() {
    let served = Served::start();
    let key = served.client().get_tls_key(ra_tls()).await.unwrap();
    let given = handover();
    for certificate in &chain(&key) {
        let peer = verifier().verify_certificate(certificate, now()).unwrap();
        assert_eq!(peer.tee(), Tee::Simulator);
        assert_eq!(peer.app_id(), given.app_id);
        assert_eq!(peer.compose_hash(), given.compose_hash);
        assert_eq!(peer.instance_id(), given.instance_id);
        assert_eq!(peer.launch(), launch());
        assert_eq!(peer.rtmr3(), given.events.replay());
        let said: ProviderClaim = serde_json::from_str(&given.key_provider).unwrap();
        assert_eq!(*peer.key_provider(), said);
    }
}

#[tokio::test]
async fn nobody_who_was_not_told_to_trust_the_simulator_does() {
    let served = Served::start();
    let key = served.client().get_tls_key(ra_tls()).await.unwrap();
    let [leaf, _] = chain(&key);
    let error =
        Verifier::new([TrustAnchor::Intel], Default::default()).verify_certificate(&leaf, now()).unwrap_err();
    assert_eq!(error.class(), Class::Root, "{error}");
}

#[tokio::test]
async fn the_profile_is_that_of_dstack() {
    let served = Served::start();
    let request = TlsKeyRequest {
        subject: "web.example".into(),
        alt_names: vec![
            "web.example".into(),
            "*.web.example".into(),
            "192.0.2.1".into(),
            "2001:db8::1".into(),
        ],
        usage_ra_tls: true,
        usage_server_auth: true,
        usage_client_auth: true,
        not_before: Some(1_800_000_000),
        not_after: Some(2_600_000_000),
    };
    let key = served.client().get_tls_key(request).await.unwrap();
    let [leaf, ca] = chain(&key);
    let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
    assert_eq!(leaf.subject().to_string(), "CN=web.example");
    assert_eq!(leaf.validity().not_before.timestamp(), 1_800_000_000);
    assert_eq!(leaf.validity().not_after.timestamp(), 2_600_000_000);
    let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(
        *names,
        [
            GeneralName::DNSName("web.example"),
            GeneralName::DNSName("*.web.example"),
            GeneralName::IPAddress(&[192, 0, 2, 1]),
            GeneralName::IPAddress(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        ]
    );
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert_eq!(usage.flags, 1, "digitalSignature alone");
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any);
    assert!(!leaf.is_ca());

    // Extensions: the value is an OCTET STRING of its own.
    assert_eq!(extension(&leaf, ratls::USAGE_OID).unwrap(), b"\x04\x0aapp:custom");
    for absent in [ratls::QUOTE_OID, ratls::EVENT_LOG_OID, ratls::APP_ID_OID, ratls::APP_INFO_OID] {
        assert_eq!(extension(&leaf, absent), None);
    }
    let attestation = extension(&leaf, ratls::ATTESTATION_OID).unwrap();
    let [0x04, 0x82, high, low, content @ ..] = attestation else {
        panic!("an OCTET STRING of two length bytes")
    };
    assert_eq!(content.len(), usize::from(*high) << 8 | usize::from(*low));
    assert_eq!(content.first(), Some(&0), "version 0");
    let attestation = Attestation::decode(content).unwrap();
    assert_eq!(attestation.events, handover().events);
    assert_eq!(attestation.config, "{}");
    assert_eq!(attestation.report_data, ratls::report_data_for_key(leaf.public_key().raw));

    let (_, ca) = X509Certificate::from_der(&ca).unwrap();
    assert_eq!(ca.basic_constraints().unwrap().unwrap().value.path_len_constraint, Some(1));
    assert!(ca.is_ca());
    let usage = ca.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && usage.key_cert_sign() && usage.crl_sign());
}

#[tokio::test]
async fn the_key_is_fresh_and_the_certificates_own() {
    let served = Served::start();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let key = served.client().get_tls_key(ra_tls()).await.unwrap();
        let [leaf, ca] = chain(&key);
        let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
        assert!(key.key_pem.starts_with("-----BEGIN PRIVATE KEY-----"));
        let public = p256::SecretKey::from_pkcs8_pem(&key.key_pem).unwrap().public_key();
        assert_eq!(public.to_public_key_der().unwrap().as_bytes(), leaf.public_key().raw);
        assert!(!format!("{key:?}").contains("PRIVATE"));
        seen.push((leaf.public_key().raw.to_vec(), leaf.raw_serial().to_vec(), ca));
    }
    assert_ne!(seen[0].0, seen[1].0);
    assert_ne!(seen[0].1, seen[1].1);
    assert_eq!(seen[0].2, seen[1].2, "one CA for the life of the agent");
}

#[tokio::test]
async fn defaults_are_backdated_an_hour_and_last_ten_years() {
    let served = Served::start();
    let before = i64::try_from(now()).unwrap();
    let key = served.client().get_tls_key(TlsKeyRequest::default()).await.unwrap();
    let after = i64::try_from(now()).unwrap();
    for certificate in &chain(&key) {
        let (_, certificate) = X509Certificate::from_der(certificate).unwrap();
        let (from, to) =
            (certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp());
        // The CA is older than the question by the time that starting took.
        assert!((before - 3600 - 60..=after - 3600).contains(&from), "{from}");
        let ten_years = 3650 * 24 * 3600;
        assert!((before + ten_years - 60..=after + ten_years).contains(&to), "{to}");
    }
}

#[tokio::test]
async fn what_is_not_asked_for_is_not_there() {
    let served = Served::start();
    let key = served.client().get_tls_key(TlsKeyRequest::default()).await.unwrap();
    let [leaf, _] = chain(&key);
    let (_, certificate) = X509Certificate::from_der(&leaf).unwrap();
    assert_eq!(certificate.subject().to_string(), "");
    assert_eq!(extension(&certificate, ratls::ATTESTATION_OID), None);
    assert!(certificate.extended_key_usage().unwrap().is_none());
    assert!(certificate.subject_alternative_name().unwrap().is_none());
    let error = verifier().verify_certificate(&leaf, now()).unwrap_err();
    assert_eq!(error.class(), Class::Form, "{error}");
}
