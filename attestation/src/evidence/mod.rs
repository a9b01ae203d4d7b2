//! Evidence in whatever form it comes: one detector ([`detect`]), one type ([`Evidence`]).

mod json;

use casemate_measure::log::Log;
use x509_parser::pem::Pem;

use crate::error::EvidenceError;
use crate::quote;
use crate::ratls::{self, Attestation, CertificateEvidence, event_log};

/// The longest evidence that is read, bytes: above everything that any of the forms may have.
pub const MAX_EVIDENCE: usize = 24 << 20;

/// What somebody shows of himself. Nothing in it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Evidence {
    /// A TDX quote alone. It can be authentic, but no app: only an event log says which one.
    Quote(Vec<u8>),
    /// A quote with its event log: a versioned attestation, or an answer of dstack's agent.
    Attestation(Attestation),
    /// An RA-TLS certificate, with its chain if there is one.
    Certificate(Box<CertificateEvidence>),
    /// A report of AMD SEV-SNP, which no code judges yet.
    SevSnp(Vec<u8>),
}

/// Evidence, and what was shown or asked for beside it.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    /// The evidence.
    pub evidence: &'a Evidence,
    /// The firmware's event log, which must lead to RTMR0 to RTMR2.
    pub firmware_log: Option<&'a Log>,
    /// The report data that the verifier asked for; evidence without a certificate speaks for nothing else.
    pub report_data: Option<&'a [u8; 64]>,
}

impl<'a> From<&'a Evidence> for Presented<'a> {
    fn from(evidence: &'a Evidence) -> Self {
        Self { evidence, firmware_log: None, report_data: None }
    }
}

/// What some bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detected {
    /// Evidence, and the firmware's event log if that came with it.
    Evidence(Evidence, Option<Log>),
    /// An event log alone: a CCEL, or dstack's.
    Log(Log),
}

/// Tells what some bytes are, and reads them: a quote, an attestation, an answer of `GetQuote` or `Attest`, a certificate or
/// chain (DER, PEM), an event log; binary ones also as hex digits.
///
/// # Errors
/// If they are nothing of the kind, or wrong in one of them.
pub fn detect(bytes: &[u8]) -> Result<Detected, EvidenceError> {
    if bytes.len() > MAX_EVIDENCE {
        return Err(EvidenceError::TooLarge { what: "evidence", limit: MAX_EVIDENCE, found: bytes.len() });
    }
    match bytes.trim_ascii() {
        [b'{' | b'[', ..] => json::detect(bytes),
        text if text.starts_with(b"-----BEGIN ") => pem(text),
        text if text.len() >= SHORTEST && text.iter().all(u8::is_ascii_hexdigit) => {
            // Digits are checked, only their number can be odd.
            let binary = hex::decode(text)
                .map_err(|error| EvidenceError::malformed("evidence", "hex digits", error))?;
            binary_form(&binary)
        }
        _ => binary_form(bytes),
    }
}

/// Fewer hex digits than this are no binary form.
const SHORTEST: usize = 256;

fn binary_form(bytes: &[u8]) -> Result<Detected, EvidenceError> {
    let evidence = match bytes {
        _ if quote::is_one(bytes) => {
            // The frame is checked now: what is no quote should not be called one.
            quote::certificate_chain(bytes)?;
            Evidence::Quote(bytes.to_vec())
        }
        [0x30, 0x80..=0x84, ..] => Evidence::Certificate(Box::new(ratls::from_certificate(bytes)?)),
        _ if is_ccel(bytes) => return event_log::read(bytes).map(Detected::Log),
        [0, SEV_SNP, ..] => Evidence::SevSnp(bytes.to_vec()),
        [0 | 0x80..=0x8f | 0xde | 0xdf, ..] => Evidence::Attestation(Attestation::decode(bytes)?),
        _ => return Err(EvidenceError::Unknown),
    };
    Ok(Detected::Evidence(evidence, None))
}

/// The discriminant of `DstackAmdSevSnp` in a version 0 attestation.
const SEV_SNP: u8 = 3;

/// The signature of the first event of a crypto-agile log (TCG PC Client Platform Firmware Profile 1.05, section 10.4.5.1).
fn is_ccel(bytes: &[u8]) -> bool {
    bytes.get(32..).is_some_and(|data| data.starts_with(b"Spec ID Event03\0"))
}

/// Every certificate of a PEM file, leaf first.
fn pem(text: &[u8]) -> Result<Detected, EvidenceError> {
    let chain = Pem::iter_from_buffer(text)
        .take(MAX_PEM)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| EvidenceError::malformed("certificate", "PEM", error))?;
    let other = chain.iter().find(|pem| pem.label != "CERTIFICATE");
    if let Some(other) = other {
        return Err(EvidenceError::malformed("PEM", "CERTIFICATE", &other.label));
    }
    let chain: Vec<_> = chain.into_iter().map(|pem| pem.contents).collect();
    let evidence = Evidence::Certificate(Box::new(ratls::from_chain(&chain)?));
    Ok(Detected::Evidence(evidence, None))
}

/// PEM blocks that are looked at: more than a chain may have.
const MAX_PEM: usize = 16;
