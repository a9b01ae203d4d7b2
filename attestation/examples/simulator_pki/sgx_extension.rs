//! The SGX extension of a PCK certificate (Intel SGX PCK Certificate and CRL Profile Specification, section 3.5).

/// `id-ce-sGXExtensions`.
pub(crate) const OID: &[u64] = &[1, 2, 840, 113741, 1, 13, 1];

/// [`OID`] in DER, without tag and length.
const OID_DER: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01];

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const ENUMERATED: u8 = 0x0a;
const SEQUENCE: u8 = 0x30;

/// What the extension says of a platform.
pub(crate) struct Platform {
    pub(crate) ppid: [u8; 16],
    pub(crate) instance: [u8; 16],
    /// Every component of CPUSVN, and PCESVN; below 128.
    pub(crate) svn: u8,
    pub(crate) pce_id: [u8; 2],
    pub(crate) fmspc: [u8; 6],
}

pub(crate) fn encode(platform: &Platform) -> Vec<u8> {
    // Components 1 to 16, then 17 (PCESVN) and 18 (CPUSVN).
    let mut tcb: Vec<u8> =
        (1..=17).flat_map(|component| entry(&[2, component], &der(INTEGER, &[platform.svn]))).collect();
    tcb.extend(entry(&[2, 18], &der(OCTET_STRING, &[platform.svn; 16])));
    // Dynamic platform, cached keys, SMT enabled.
    let configuration: Vec<u8> = (1..=3).flat_map(|flag| entry(&[7, flag], &der(BOOLEAN, &[0]))).collect();
    let entries = [
        entry(&[1], &der(OCTET_STRING, &platform.ppid)),
        entry(&[2], &der(SEQUENCE, &tcb)),
        entry(&[3], &der(OCTET_STRING, &platform.pce_id)),
        entry(&[4], &der(OCTET_STRING, &platform.fmspc)),
        // Scalable SGX, the kind that runs TDX.
        entry(&[5], &der(ENUMERATED, &[1])),
        entry(&[6], &der(OCTET_STRING, &platform.instance)),
        entry(&[7], &der(SEQUENCE, &configuration)),
    ];
    der(SEQUENCE, &entries.concat())
}

/// `SEQUENCE { OID.arcs, value }`; every arc is below 128, thus one byte.
fn entry(arcs: &[u8], value: &[u8]) -> Vec<u8> {
    let oid = der(OBJECT_IDENTIFIER, &[&OID_DER, arcs].concat());
    der(SEQUENCE, &[oid.as_slice(), value].concat())
}

/// Tag, length (up to 65,535), content.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let [.., high, low] = content.len().to_be_bytes();
    let length = match (high, low) {
        (0, 0..=0x7f) => vec![low],
        (0, _) => vec![0x81, low],
        _ => vec![0x82, high, low],
    };
    [&[tag], length.as_slice(), content].concat()
}
