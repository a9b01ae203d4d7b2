//! Certificates that no agent would issue.

use casemate_mesh::CertificateKey;
use casemate_verify::ratls::{self, Attestation};
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use rcgen::{CertificateParams, CustomExtension, KeyPair, PublicKeyData as _};
use rustls::pki_types::PrivatePkcs8KeyDer;
use sha2::{Digest as _, Sha256};
use time::{Duration, OffsetDateTime};

use crate::pki::Pki;

/// Header and TD report of a version 4 quote: what the attestation key signs (Intel TDX DCAP Quoting Library API, A.3).
const SIGNED: usize = 48 + 584;
/// Where an SGX report has its report data (Intel SDM volume 3D, table 38-21).
const QE_REPORT_DATA: usize = 320;

/// The evidence that a certificate carries.
pub(crate) fn of(certificate: &CertificateKey) -> Attestation {
    ratls::from_certificate(&certificate.chain[0]).unwrap().attestation
}

/// The report data under which evidence speaks for that key.
pub(crate) fn report_data(key: &KeyPair) -> [u8; 64] {
    ratls::report_data_for_key(&key.subject_public_key_info())
}

/// A self-signed certificate around a key, with that evidence or with none.
pub(crate) fn certificate(key: &KeyPair, evidence: Option<&Attestation>) -> CertificateKey {
    let mut params = CertificateParams::new(vec!["casemate-mesh".to_owned()]).unwrap();
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - Duration::hours(1), now + Duration::days(2));
    let extension = |evidence: &Attestation| {
        let value = ratls::extension_value(&evidence.encode_v0());
        CustomExtension::from_oid_content(ratls::ATTESTATION_OID, value)
    };
    params.custom_extensions = evidence.map(extension).into_iter().collect();
    let certificate = params.self_signed(key).unwrap();
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    CertificateKey { chain: vec![certificate.der().clone()], key: key.into() }
}

/// The same TD report, quoted by another platform: every signature and binding holds, up to the root of that platform.
pub(crate) fn quoted_under(pki: &Pki, quote: &[u8]) -> Vec<u8> {
    let signed = &quote[..SIGNED];
    let point = pki.attestation_key.verifying_key().to_encoded_point(false);
    // SEC1 uncompressed: 04 ‖ x ‖ y.
    let public = &point.as_bytes()[1..];
    let authentication = [0_u8; 32];
    let mut enclave = pki.qe_report;
    let binding = Sha256::new().chain_update(public).chain_update(authentication).finalize();
    enclave[QE_REPORT_DATA..QE_REPORT_DATA + binding.len()].copy_from_slice(&binding);
    let chain = typed(5, pki.pck_chain_pem.as_bytes());
    let enclave_signature = sign(&pki.pck_key, &enclave);
    let of_enclave = [&enclave, enclave_signature.as_slice(), &[32, 0], &authentication, &chain].concat();
    let signature = sign(&pki.attestation_key, signed);
    let data = [&signature, public, &typed(6, &of_enclave)].concat();
    [signed, &length(&data), &data].concat()
}

fn sign(key: &SigningKey, message: &[u8]) -> Vec<u8> {
    let signature: Signature = key.sign(message);
    signature.to_bytes().to_vec()
}

/// Certification data: type, length, data.
fn typed(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes(), length(data).as_slice(), data].concat()
}

fn length(data: &[u8]) -> [u8; 4] {
    u32::try_from(data.len()).unwrap().to_le_bytes()
}
