//! Evidence in whatever form it comes, the forms that have a reader of their own, and the policies that judge it.

use casemate_measure::DigestVersion;
use casemate_verify::evidence::{Detected, detect};
use casemate_verify::ratls::{self, Attestation, from_certificate};
use casemate_verify::{Evidence, Policy};

use crate::Verdict;
use crate::measured::check_printable;

/// Fewer hex digits than this are no binary form.
const SHORTEST: usize = 256;

/// What was detected is detected again in the form in which it would be passed on.
pub(crate) fn evidence(bytes: &[u8]) -> Verdict {
    let detected = match detect(bytes) {
        Ok(detected) => detected,
        Err(error) => {
            check_printable(&error.to_string());
            return Verdict::Refused;
        }
    };
    let binary = match &detected {
        Detected::Evidence(Evidence::Quote(quote), None) => quote.clone(),
        Detected::Evidence(Evidence::Attestation(attestation), _) => encoding(attestation),
        Detected::Evidence(Evidence::Certificate(certificate), None) => match certificate.chain.as_slice() {
            [leaf] => leaf.clone(),
            // A chain has no binary form.
            _ => return Verdict::Accepted,
        },
        _ => return Verdict::Accepted,
    };
    if binary.len() > ratls::MAX_ATTESTATION {
        return Verdict::Accepted;
    }
    let Detected::Evidence(first, _) = detected else { return Verdict::Accepted };
    let again = [binary.clone(), hex(&binary).into_bytes()];
    for bytes in again.iter().filter(|bytes| *bytes == &binary || bytes.len() >= SHORTEST) {
        assert_eq!(detect(bytes), Ok(Detected::Evidence(first.clone(), None)));
    }
    Verdict::Accepted
}

/// Version 1 says everything that an attestation can say.
pub(crate) fn msgpack(bytes: &[u8]) -> Verdict {
    if !matches!(bytes, [0x80..=0x8f | 0xde | 0xdf, ..]) {
        return Verdict::Refused;
    }
    match Attestation::decode(bytes) {
        Ok(attestation) => {
            let written = version_1(&attestation);
            assert_eq!(Attestation::decode(&written), Ok(attestation));
            Verdict::Accepted
        }
        Err(error) => {
            check_printable(&error.to_string());
            Verdict::Refused
        }
    }
}

/// In version 0 if that can say it: it does not know of other digests than the first kind.
pub(crate) fn encoding(attestation: &Attestation) -> Vec<u8> {
    if attestation.events.events().iter().all(|event| event.version == DigestVersion::V1) {
        attestation.encode_v0()
    } else {
        version_1(attestation)
    }
}

fn version_1(attestation: &Attestation) -> Vec<u8> {
    attestation.encode_v1().unwrap_or_else(|error| panic!("read, and cannot be written: {error}"))
}

/// The app info of a certificate that is right but for it: no more than its bytes, and one value.
pub(crate) fn app_info(content: &[u8]) -> Verdict {
    let evidence = match from_certificate(&certificate(content)) {
        Ok(evidence) => evidence,
        Err(error) => {
            check_printable(&error.to_string());
            return Verdict::Refused;
        }
    };
    let Some(info) = evidence.claims.app_info else { panic!("the extension was not seen") };
    let fixed = info.app_id.0.len() + info.compose_hash.0.len() + 2 * info.mr_system.0.len();
    let others = [&info.instance_id, &info.device_id, &info.os_image_hash, &info.key_provider_info];
    let said = fixed + others.iter().map(|field| field.len()).sum::<usize>();
    assert!(said < content.len(), "{said} bytes out of {}", content.len());
    let longer = [content, &[0xc0]].concat();
    assert!(from_certificate(&certificate(&longer)).is_err(), "something behind it was not seen");
    Verdict::Accepted
}

/// What is read is written as what is read as the same.
pub(crate) fn policy(json: &[u8]) -> Verdict {
    let policy = match Policy::from_json("FILE", json, None) {
        Ok(policy) => policy,
        Err(error) => {
            assert!(error.to_string().starts_with("FILE: "), "{error}");
            return Verdict::Refused;
        }
    };
    assert!(!policy.apps().is_empty());
    let written =
        serde_json::to_vec(&policy).unwrap_or_else(|error| panic!("read, and cannot be written: {error}"));
    assert_eq!(Policy::from_json("FILE", &written, None), Ok(policy));
    Verdict::Accepted
}

/// A certificate with an empty attestation and that app info, in DER (RFC 5280, section 4.1).
fn certificate(app_info: &[u8]) -> Vec<u8> {
    const ATTESTATION: &[u8] = include_bytes!("../seeds/attestation/empty");
    let algorithm = sequence(&[&hex_bytes("06082a8648ce3d040302")]);
    let time = der(0x17, b"261121000000Z");
    let spki = sequence(&[
        &sequence(&[&hex_bytes("06072a8648ce3d0201"), &hex_bytes("06082a8648ce3d030107")]),
        &der(0x03, &[&[0, 4], [7; 64].as_slice()].concat()),
    ]);
    // 1.3.6.1.4.1.62397.1.N, and the content in an OCTET STRING of its own.
    let extension = |number: u8, content: &[u8]| {
        let oid = [hex_bytes("2b0601040183e73d01"), vec![number]].concat();
        sequence(&[&der(0x06, &oid), &der(0x04, &ratls::extension_value(content))])
    };
    let extensions = sequence(&[&extension(8, ATTESTATION), &extension(9, app_info)]);
    let signed = sequence(&[
        &der(0xa0, &der(0x02, &[2])),
        &der(0x02, &[1]),
        &algorithm,
        &sequence(&[]),
        &sequence(&[&time, &time]),
        &sequence(&[]),
        &spki,
        &der(0xa3, &extensions),
    ]);
    sequence(&[&signed, &algorithm, &der(0x03, &[0, 0])])
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    der(0x30, &parts.concat())
}

/// Tag, length in its shortest form, content: an OCTET STRING under another tag.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut wrapped = ratls::extension_value(content);
    wrapped[0] = tag;
    wrapped
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hex_bytes(digits: &str) -> Vec<u8> {
    let digit = |index| digits.get(index..index + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    (0..digits.len()).step_by(2).map_while(digit).collect()
}
