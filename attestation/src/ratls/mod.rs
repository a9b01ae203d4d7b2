//! RA-TLS: evidence inside an X.509 certificate, as dstack writes it (dstack `ra-tls/src/{oids,cert,attestation}.rs`).

mod certificate;
mod claims;
mod der;
pub(crate) mod event_log;
mod msgpack;
mod scale;

use casemate_measure::EventLog;
use sha2::{Digest as _, Sha512};

use crate::error::EvidenceError;

pub use certificate::{CertificateEvidence, from_certificate, from_chain};
pub use claims::{AppInfo, IssuerClaims};

/// Raw TDX quote (certificates of dstack up to 0.5.8).
pub const QUOTE_OID: &[u64] = &[1, 3, 6, 1, 4, 1, 62397, 1, 1];
/// Event log, JSON array (certificates of dstack up to 0.5.8).
pub const EVENT_LOG_OID: &[u64] = &[1, 3, 6, 1, 4, 1, 62397, 1, 2];
/// App id, 20 bytes; an issuer's claim.
pub const APP_ID_OID: &[u64] = &[1, 3, 6, 1, 4, 1, 62397, 1, 3];
/// Certificate usage, UTF-8; an issuer's claim.
pub const USAGE_OID: &[u64] = &[1, 3, 6, 1, 4, 1, 62397, 1, 4];
/// Versioned attestation ([`Attestation`]).
pub const ATTESTATION_OID: &[u64] = &[1, 3, 6, 1, 4, 1, 62397, 1, 8];
/// App info, MessagePack; an issuer's claim.
pub const APP_INFO_OID: &[u64] = &[1, 3, 6, 1, 4, 1, 62397, 1, 9];

/// The largest attestation that is read, bytes (dstack `dstack-attest/src/attestation.rs`).
pub const MAX_ATTESTATION: usize = 10 * 1024 * 1024;

/// The most events of a log that are read, as of one in JSON. A boot has about ten.
const MAX_EVENTS: usize = 4096;

/// What a certificate, or the `Attest` call, carries. Nothing in it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attestation {
    /// Raw TDX quote.
    pub quote: Vec<u8>,
    /// RTMR3's events.
    pub events: EventLog,
    /// What the quote is said to carry.
    pub report_data: [u8; 64],
    /// The `vm_config` JSON.
    pub config: String,
}

impl Attestation {
    /// Version 0 (SCALE) with the stripped log: RTMR3's events without their digests, then the runtime events.
    pub fn encode_v0(&self) -> Vec<u8> {
        scale::encode(self)
    }

    /// Version 1 (MessagePack): what dstack writes where an event has a version 2 digest, which version 0 cannot say.
    ///
    /// # Errors
    /// Never with what [`Attestation::decode`] gave.
    pub fn encode_v1(&self) -> Result<Vec<u8>, EvidenceError> {
        msgpack::encode(self)
    }

    /// Reads a versioned attestation of a TDX guest: version 0 (SCALE) or 1 (MessagePack), told apart by the first byte.
    ///
    /// # Errors
    /// More than [`MAX_ATTESTATION`] bytes, trailing bytes, a malformed encoding; another TEE as not implemented.
    pub fn decode(bytes: &[u8]) -> Result<Self, EvidenceError> {
        if bytes.len() > MAX_ATTESTATION {
            return Err(EvidenceError::TooLarge {
                what: "attestation",
                limit: MAX_ATTESTATION,
                found: bytes.len(),
            });
        }
        match bytes {
            [0, ..] => scale::decode(bytes),
            [0x80..=0x8f | 0xde | 0xdf, ..] => msgpack::decode(bytes),
            [version, ..] => Err(EvidenceError::malformed(
                "attestation",
                "version 0 (SCALE) or 1 (MessagePack)",
                format_args!("byte {version:#04x}"),
            )),
            [] => Err(EvidenceError::malformed(
                "attestation",
                "version 0 (SCALE) or 1 (MessagePack)",
                "nothing",
            )),
        }
    }
}

/// The content of an extension as dstack writes it: a DER OCTET STRING inside the extension's own OCTET STRING.
pub fn extension_value(content: &[u8]) -> Vec<u8> {
    der::octet_string(content)
}

/// `SHA512("ratls-cert:" ‖ SubjectPublicKeyInfo)`: what a quote must carry to speak for that key.
pub fn report_data_for_key(spki_der: &[u8]) -> [u8; 64] {
    Sha512::new().chain_update(b"ratls-cert:").chain_update(spki_der).finalize().into()
}

/// `SHA512("app-data:" ‖ data)`: what a quote over an app's own data carries (dstack `QuoteContentType::AppData`).
pub fn report_data_for_app(data: &[u8]) -> [u8; 64] {
    Sha512::new().chain_update(b"app-data:").chain_update(data).finalize().into()
}
