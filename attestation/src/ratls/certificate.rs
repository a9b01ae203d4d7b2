//! From a certificate to the evidence in it.

use casemate_measure::AppId;
use rustls::pki_types::CertificateDer;
use rustls::server::ParsedCertificate;
use x509_parser::prelude::{FromDer as _, X509Certificate, X509Extension};

use super::{
    APP_ID_OID, APP_INFO_OID, ATTESTATION_OID, AppInfo, Attestation, EVENT_LOG_OID, IssuerClaims, QUOTE_OID,
    USAGE_OID, der, event_log,
};
use crate::error::EvidenceError;
use crate::quote;

/// What a certificate says, unverified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateEvidence {
    /// The evidence.
    pub attestation: Attestation,
    /// The certificate's SubjectPublicKeyInfo, DER.
    pub spki_der: Vec<u8>,
    /// First valid second, Unix; 0 for anything before 1970.
    pub not_before: u64,
    /// Last valid second, Unix; 0 for anything before 1970.
    pub not_after: u64,
    /// What the issuer says.
    pub claims: IssuerClaims,
    /// The certificate and those that were shown with it, DER, leaf first.
    pub chain: Vec<Vec<u8>>,
}

/// The most certificates of a chain that are kept. dstack's have three.
const MAX_CHAIN: usize = 8;

/// Reads a chain, leaf first: the leaf as [`from_certificate`] does, the others unread.
///
/// # Errors
/// As [`from_certificate`]; no certificate, or more than eight.
pub fn from_chain<C: AsRef<[u8]>>(chain: &[C]) -> Result<CertificateEvidence, EvidenceError> {
    let malformed = || EvidenceError::malformed("certificate chain", "1 to 8 certificates", chain.len());
    let leaf = chain.first().filter(|_| chain.len() <= MAX_CHAIN).ok_or_else(malformed)?;
    let mut evidence = from_certificate(leaf.as_ref())?;
    evidence.chain = chain.iter().map(|der| der.as_ref().to_vec()).collect();
    Ok(evidence)
}

/// Reads one DER certificate: the attestation extension if there is one, else the older pair of quote and event log.
///
/// # Errors
/// No certificate or trailing bytes; none of the extensions; one of them twice; content that cannot be read.
pub fn from_certificate(certificate_der: &[u8]) -> Result<CertificateEvidence, EvidenceError> {
    let (rest, certificate) = X509Certificate::from_der(certificate_der)
        .map_err(|error| EvidenceError::malformed("certificate", "X.509 v3, DER", error))?;
    if !rest.is_empty() {
        return Err(EvidenceError::malformed(
            "certificate",
            "nothing after it",
            format_args!("{} trailing bytes", rest.len()),
        ));
    }
    // Also those that are not read beside others: two instances are no certificate (RFC 5280, section 4.2).
    for oid in [QUOTE_OID, EVENT_LOG_OID, APP_ID_OID, USAGE_OID, ATTESTATION_OID, APP_INFO_OID] {
        check_unique(&certificate, oid)?;
    }
    let attestation = match content(&certificate, ATTESTATION_OID)? {
        Some(content) => Attestation::decode(content)?,
        None => older_form(&certificate)?,
    };
    let spki_der = certificate.public_key().raw.to_vec();
    check_same_key(certificate_der, &spki_der)?;
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
    Ok(CertificateEvidence {
        attestation,
        spki_der,
        not_before: seconds(certificate.validity().not_before),
        not_after: seconds(certificate.validity().not_after),
        claims: claims(&certificate)?,
        chain: vec![certificate_der.to_vec()],
    })
}

/// The handshake's signature is checked with the key that rustls reads. Two parsers must not see two keys: evidence for the
/// one would then speak for the other.
fn check_same_key(certificate_der: &[u8], spki_der: &[u8]) -> Result<(), EvidenceError> {
    let certificate = CertificateDer::from(certificate_der);
    let parsed = ParsedCertificate::try_from(&certificate)
        .map_err(|error| EvidenceError::malformed("certificate", "one that TLS accepts", error))?;
    if parsed.subject_public_key_info().as_ref() != spki_der {
        return Err(EvidenceError::malformed("certificate: public key", "one encoding", "two readings"));
    }
    Ok(())
}

/// The pair that dstack wrote up to 0.5.8. It says nothing about the report data but what the quote itself says.
fn older_form(certificate: &X509Certificate<'_>) -> Result<Attestation, EvidenceError> {
    let raw = content(certificate, QUOTE_OID)?.ok_or(EvidenceError::NoExtension)?;
    let log = content(certificate, EVENT_LOG_OID)?.ok_or(EvidenceError::NoEventLog)?;
    Ok(Attestation {
        quote: raw.to_vec(),
        events: event_log::runtime(&event_log::read(log)?)?,
        report_data: quote::TdReport::of_quote(raw)?.report_data,
        config: String::new(),
    })
}

fn claims(certificate: &X509Certificate<'_>) -> Result<IssuerClaims, EvidenceError> {
    let app_id = content(certificate, APP_ID_OID)?.map(|bytes| {
        let found = format!("{} bytes", bytes.len());
        bytes
            .try_into()
            .map(AppId)
            .map_err(|_| EvidenceError::malformed("certificate: app id (.3)", "20 bytes", found))
    });
    let usage = content(certificate, USAGE_OID)?.map(|bytes| {
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|error| EvidenceError::malformed("certificate: usage (.4)", "UTF-8", error))
    });
    let app_info = content(certificate, APP_INFO_OID)?.map(AppInfo::decode);
    Ok(IssuerClaims {
        app_id: app_id.transpose()?,
        usage: usage.transpose()?,
        app_info: app_info.transpose()?,
    })
}

/// The extensions with that identifier.
fn with_oid<'a, 'c>(
    certificate: &'a X509Certificate<'c>,
    oid: &'a [u64],
) -> impl Iterator<Item = &'a X509Extension<'c>> {
    let is_it = move |extension: &&X509Extension<'_>| {
        extension.oid.iter().is_some_and(|arcs| arcs.eq(oid.iter().copied()))
    };
    certificate.extensions().iter().filter(is_it)
}

fn check_unique(certificate: &X509Certificate<'_>, oid: &[u64]) -> Result<(), EvidenceError> {
    match with_oid(certificate, oid).nth(1) {
        Some(_) => Err(EvidenceError::DuplicateExtension { oid: dotted(oid) }),
        None => Ok(()),
    }
}

/// The content of the extension with that identifier.
fn content<'a>(
    certificate: &'a X509Certificate<'_>,
    oid: &'a [u64],
) -> Result<Option<&'a [u8]>, EvidenceError> {
    let Some(extension) = with_oid(certificate, oid).next() else { return Ok(None) };
    let content = der::read_octet_string(extension.value).ok_or_else(|| {
        let place = format!("certificate: extension {}", dotted(oid));
        EvidenceError::malformed(place, "a DER OCTET STRING", "something else")
    })?;
    Ok(Some(content))
}

fn dotted(oid: &[u64]) -> String {
    oid.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
}
