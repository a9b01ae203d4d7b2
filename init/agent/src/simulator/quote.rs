//! The bytes around a TD report in a quote of version 4 (Intel TDX DCAP Quoting Library API, appendix 3), as
//! `pki/README.md` lists them. All integers are little-endian.

use casemate_verify::quote::TdReport;

/// Quote version 4, ECDSA with P-256 (2), TEE type TDX (0x81), two reserved fields.
const HEADER_START: [u8; 12] = [4, 0, 2, 0, 0x81, 0, 0, 0, 0, 0, 0, 0];
/// Intel's quoting enclave vendor id, which every reader demands.
const QE_VENDOR_ID: [u8; 16] =
    [0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07];
/// The header's user data; any.
const USER_DATA: [u8; 20] = [0; 20];

/// Bound into the quoting enclave's report beside the attestation key: the bytes 00 to 1f.
pub(super) const AUTHENTICATION_DATA: [u8; 32] = [
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28,
    29, 30, 31,
];

/// Certification data that hold a quoting enclave's report.
const CERTIFICATION_QE_REPORT: u16 = 6;
/// Certification data that hold a PEM chain.
const CERTIFICATION_CHAIN: u16 = 5;

/// Why a reader may believe the attestation key.
pub(super) struct Certification<'a> {
    /// `x ‖ y`.
    pub(super) attestation_public: &'a [u8; 64],
    /// The quoting enclave's report, bound to that key.
    pub(super) report: &'a [u8; 384],
    /// The platform key's signature over the report, `r ‖ s`.
    pub(super) signature: &'a [u8; 64],
    /// The platform key's certificates, leaf first.
    pub(super) chain_pem: &'a [u8],
}

/// Header (48 bytes) and TD report (584 bytes): what the attestation key signs.
pub(super) fn signed_part(report: &TdReport) -> Vec<u8> {
    let parts: [&[u8]; 4] = [&HEADER_START, &QE_VENDOR_ID, &USER_DATA, &report.encode()];
    parts.concat()
}

/// What follows the signed part, but for its length and the signature; `None` if a part is longer than its length field
/// can say.
pub(super) fn certification(of: &Certification<'_>) -> Option<Vec<u8>> {
    let authentication_len = u16::try_from(AUTHENTICATION_DATA.len()).ok()?.to_le_bytes();
    let chain = typed(CERTIFICATION_CHAIN, of.chain_pem)?;
    let enclave: [&[u8]; 5] = [of.report, of.signature, &authentication_len, &AUTHENTICATION_DATA, &chain];
    let enclave = typed(CERTIFICATION_QE_REPORT, &enclave.concat())?;
    Some([&of.attestation_public[..], &enclave].concat())
}

/// The whole quote; `None` if the certification is longer than a length field can say.
pub(super) fn assemble(signed: &[u8], signature: &[u8; 64], certification: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(signature.len().checked_add(certification.len())?).ok()?.to_le_bytes();
    let parts: [&[u8]; 4] = [signed, &length, signature, certification];
    Some(parts.concat())
}

/// Type, length, data.
fn typed(kind: u16, data: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(data.len()).ok()?.to_le_bytes();
    let parts: [&[u8]; 3] = [&kind.to_le_bytes(), &length, data];
    Some(parts.concat())
}
