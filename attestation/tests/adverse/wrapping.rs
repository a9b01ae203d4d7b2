//! Extensions that occur twice, or whose content is not wrapped as it must be (dstack `ra-tls/src/cert.rs`: one DER OCTET
//! STRING, primitive, with a definite length).

use casemate_verify::ratls::{self, from_certificate};
use casemate_verify::{AuthenticPeer, Class, EvidenceError, VerifyError};
use rcgen::{CertificateParams, CustomExtension};
use time::macros::datetime;

use crate::certificates::{attestation, key, older_log};
use crate::machine::{NOW, trusting_verifier};

/// Extensions, each with its value as it stands in the certificate.
type Extensions = Vec<(&'static [u64], Vec<u8>)>;

fn certificate(extensions: &Extensions) -> Vec<u8> {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_before = datetime!(2026-11-21 00:00:00 UTC);
    params.not_after = datetime!(2026-11-29 00:00:00 UTC);
    params.custom_extensions =
        extensions.iter().map(|(oid, value)| CustomExtension::from_oid_content(oid, value.clone())).collect();
    params.self_signed(&key()).unwrap().der().to_vec()
}

fn judge(extensions: &Extensions) -> Result<AuthenticPeer, VerifyError> {
    trusting_verifier().verify_certificate(&certificate(extensions), NOW)
}

/// `.9`: eight times `bin`.
fn app_info() -> Vec<u8> {
    let lengths = [20, 32, 20, 32, 32, 32, 32, 26];
    let fields =
        lengths.into_iter().flat_map(|len: u8| [vec![0xc4, len], vec![1; usize::from(len)]].concat());
    [0x98].into_iter().chain(fields).collect()
}

/// Every extension that is read, its content, and those that must be there beside it.
fn extensions() -> Vec<(&'static [u64], Vec<u8>, Extensions)> {
    let attestation = attestation(&key());
    let newer = vec![(ratls::ATTESTATION_OID, ratls::extension_value(&attestation.encode_v0()))];
    let quote = (ratls::QUOTE_OID, ratls::extension_value(&attestation.quote));
    let log = (ratls::EVENT_LOG_OID, ratls::extension_value(&older_log(&attestation)));
    vec![
        (ratls::QUOTE_OID, attestation.quote.clone(), vec![log]),
        (ratls::EVENT_LOG_OID, older_log(&attestation), vec![quote]),
        (ratls::APP_ID_OID, vec![1; 20], newer.clone()),
        (ratls::USAGE_OID, b"app:custom".to_vec(), newer.clone()),
        (ratls::ATTESTATION_OID, attestation.encode_v0(), Vec::new()),
        (ratls::APP_INFO_OID, app_info(), newer),
    ]
}

fn dotted(oid: &[u64]) -> String {
    oid.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
}

#[test]
fn each_extension_is_read_when_it_is_right() {
    for (oid, content, beside) in extensions() {
        let all = [vec![(oid, ratls::extension_value(&content))], beside].concat();
        judge(&all).unwrap_or_else(|error| panic!("{}: {error}", dotted(oid)));
    }
}

/// RFC 5280, section 4.2: no more than one instance of an extension. The second may be the same, another, or junk.
#[test]
fn duplicate_extensions() {
    for (oid, content, beside) in extensions() {
        let value = ratls::extension_value(&content);
        for second in [value.clone(), ratls::extension_value(b"junk"), Vec::new()] {
            for pair in [[value.clone(), second.clone()], [second, value.clone()]] {
                let twice = pair.into_iter().map(|value| (oid, value)).collect();
                let error = judge(&[twice, beside.clone()].concat()).unwrap_err();
                let expected = EvidenceError::DuplicateExtension { oid: dotted(oid) };
                assert_eq!(error, expected.into());
                assert_eq!(judge(&vec![(oid, value.clone())]).is_ok(), oid == ratls::ATTESTATION_OID);
            }
        }
    }
}

/// The older pair counts for nothing beside the newer extension; twice is still no certificate.
#[test]
fn duplicates_of_what_is_not_needed() {
    let newer = (ratls::ATTESTATION_OID, ratls::extension_value(&attestation(&key()).encode_v0()));
    for oid in [ratls::QUOTE_OID, ratls::EVENT_LOG_OID] {
        let value = ratls::extension_value(b"junk");
        judge(&vec![newer.clone(), (oid, value.clone())]).unwrap();
        let error = judge(&vec![(oid, value.clone()), newer.clone(), (oid, value)]).unwrap_err();
        assert_eq!(error, EvidenceError::DuplicateExtension { oid: dotted(oid) }.into());
    }
}

/// X.690: lengths in section 8.1.3, OCTET STRING in 8.7, what DER forbids in 10.1 and 10.2.
#[test]
fn wrong_wrappings() {
    for (oid, content, beside) in extensions() {
        let right = ratls::extension_value(&content);
        // Tag, length, content.
        let (head, _) = right.split_at(right.len() - content.len());
        let retagged = |tag: u8| [&[tag], &right[1..]].concat();
        let with_length = |length: &[u8]| [&[0x04], length, &content].concat();
        let len = u32::try_from(content.len()).unwrap().to_be_bytes();
        let wrong = [
            ("no OCTET STRING inside", content.clone()),
            ("a second one inside", ratls::extension_value(&right)),
            (
                "BIT STRING",
                [&[0x03], ratls::extension_value(&[&[0], content.as_slice()].concat())[1..].as_ref()]
                    .concat(),
            ),
            ("UTF8String", retagged(0x0c)),
            ("SEQUENCE", retagged(0x30)),
            ("context tag", retagged(0x80)),
            ("constructed", {
                let inner = ratls::extension_value(&right);
                [&[0x24], &inner[1..]].concat()
            }),
            ("indefinite length", [&[0x24, 0x80], right.as_slice(), &[0, 0]].concat()),
            ("indefinite length, primitive", [&[0x04, 0x80], content.as_slice(), &[0, 0]].concat()),
            ("length not the shortest", with_length(&[&[0x85, 0], len.as_slice()].concat())),
            ("reserved length", with_length(&[0xff])),
            ("length of 2^64 and more", with_length(&[0x89, 1, 0, 0, 0, 0, 0, 0, 0, 0])),
            ("trailing byte", [right.as_slice(), &[0]].concat()),
            ("second value behind it", [right.as_slice(), right.as_slice()].concat()),
            ("one byte short", right[..right.len() - 1].to_vec()),
            ("head alone", head.to_vec()),
            ("nothing", Vec::new()),
        ];
        for (what, value) in wrong {
            if oid == ratls::USAGE_OID && what == "a second one inside" {
                // Any text is a usage.
                continue;
            }
            let all = [vec![(oid, value)], beside.clone()].concat();
            let error = judge(&all).map(drop).expect_err(what);
            assert_eq!(error.class(), Class::Form, "{} {what}: {error}", dotted(oid));
            assert!(from_certificate(&certificate(&all)).is_err(), "{} {what}", dotted(oid));
        }
    }
}
