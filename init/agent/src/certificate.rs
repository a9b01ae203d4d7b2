//! The local CA and the certificates that it signs: dstack's profile for key providers other than a KMS
//! (dstack `ra-tls/src/cert.rs`, `cert-client/src/lib.rs`).

use std::fmt;
use std::net::IpAddr;

use casemate_verify::ratls::{ATTESTATION_OID, USAGE_OID, extension_value};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType,
};
use time::{Duration, OffsetDateTime};

use crate::arguments::quoted;
use crate::error::AgentError;
use crate::evidence::Evidence;
use crate::messages::{TlsKey, TlsKeyRequest};
use crate::tee::TeeError;

/// dstack's name of the local CA (`dstack-util`, `subject("App Root Cert")`).
const CA_NAME: &str = "App Root Cert";
/// dstack's `ca_level` of the local CA.
const CA_PATH_LENGTH: u8 = 1;
/// What a leaf is for, dstack's `cert-client`.
const LEAF_USAGE: &str = "app:custom";
/// A verifier's clock may be behind ours by this much (design section 5).
const BACKDATED: Duration = Duration::hours(1);
/// dstack's default (`ra-tls/src/cert.rs`).
const VALID: Duration = Duration::days(3650);
/// The longest name, bytes: a DNS name has at most 253 characters (RFC 1035 2.3.4, less its length octets), and dstack
/// users put DNS names into the subject, too.
const NAME_MAX: usize = 253;

/// Signs certificates. Its key lives as long as this process.
pub(crate) struct LocalCa {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
}

impl fmt::Debug for LocalCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalCa").field("certificate_pem", &self.certificate_pem).finish_non_exhaustive()
    }
}

/// Why a certificate was not made. The text goes to the caller.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsKeyError {
    /// dstack's words.
    #[error("not_before must be earlier than not_after: found {not_before} and {not_after}")]
    Period { not_before: i64, not_after: i64 },
    #[error("field `{field}`: expected seconds since 1970 up to the year 9999, found {found}")]
    Time { field: &'static str, found: u64 },
    #[error("field `{field}`: expected at most {NAME_MAX} bytes, found {found}")]
    TooLong { field: &'static str, found: usize },
    #[error("field `alt_names`: expected an IP address or an ASCII name, found {}", quoted(.0))]
    AltName(String),
    #[error(transparent)]
    Tee(#[from] TeeError),
    #[error("the certificate could not be made: {0}")]
    Certificate(#[from] rcgen::Error),
}

impl LocalCa {
    /// A CA with a fresh key, self-signed, with evidence for that key.
    pub(crate) fn new(evidence: &Evidence, now: OffsetDateTime) -> Result<Self, AgentError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.not_before = now - BACKDATED;
        params.not_after = now + VALID;
        params.distinguished_name = common_name(CA_NAME);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(CA_PATH_LENGTH));
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.custom_extensions =
            vec![extension(ATTESTATION_OID, &evidence.for_key(&key.subject_public_key_info())?)];
        let certificate_pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate_pem })
    }

    /// A fresh P-256 key and the chain [leaf, this CA]. With key provider `none` there is no app id extension: nobody
    /// but the evidence says who the app is.
    pub(crate) fn issue(
        &self,
        request: &TlsKeyRequest,
        evidence: &Evidence,
        now: OffsetDateTime,
    ) -> Result<TlsKey, TlsKeyError> {
        let mut params = leaf_params(request, now)?;
        let key = KeyPair::generate()?;
        params.custom_extensions.push(extension(USAGE_OID, LEAF_USAGE.as_bytes()));
        if request.usage_ra_tls {
            let attestation = evidence.for_key(&key.subject_public_key_info())?;
            params.custom_extensions.push(extension(ATTESTATION_OID, &attestation));
        }
        let leaf = params.signed_by(&key, &self.issuer)?;
        Ok(TlsKey {
            key_pem: key.serialize_pem(),
            certificate_chain: vec![leaf.pem(), self.certificate_pem.clone()],
        })
    }
}

fn leaf_params(request: &TlsKeyRequest, now: OffsetDateTime) -> Result<CertificateParams, TlsKeyError> {
    let mut params = CertificateParams::default();
    params.not_before = seconds("not_before", request.not_before)?.unwrap_or(now - BACKDATED);
    params.not_after = seconds("not_after", request.not_after)?.unwrap_or(now + VALID);
    if params.not_before >= params.not_after {
        let (from, to) = (params.not_before.unix_timestamp(), params.not_after.unix_timestamp());
        return Err(TlsKeyError::Period { not_before: from, not_after: to });
    }
    bounded("subject", &request.subject)?;
    params.distinguished_name =
        if request.subject.is_empty() { DistinguishedName::new() } else { common_name(&request.subject) };
    params.subject_alt_names =
        request.alt_names.iter().map(|name| alt_name(name)).collect::<Result<_, _>>()?;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = [
        (request.usage_server_auth, ExtendedKeyUsagePurpose::ServerAuth),
        (request.usage_client_auth, ExtendedKeyUsagePurpose::ClientAuth),
    ]
    .into_iter()
    .filter_map(|(wanted, usage)| wanted.then_some(usage))
    .collect();
    Ok(params)
}

fn seconds(field: &'static str, given: Option<u64>) -> Result<Option<OffsetDateTime>, TlsKeyError> {
    let date = |found: u64| {
        let known = i64::try_from(found).ok().and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
        known.ok_or(TlsKeyError::Time { field, found })
    };
    given.map(date).transpose()
}

fn bounded(field: &'static str, name: &str) -> Result<(), TlsKeyError> {
    if name.len() > NAME_MAX {
        return Err(TlsKeyError::TooLong { field, found: name.len() });
    }
    Ok(())
}

/// As dstack reads them: what parses as an IP address is one, everything else is a DNS name.
fn alt_name(name: &str) -> Result<SanType, TlsKeyError> {
    bounded("alt_names", name)?;
    match name.parse::<IpAddr>() {
        Ok(address) => Ok(SanType::IpAddress(address)),
        Err(_) if name.is_empty() => Err(TlsKeyError::AltName(name.to_owned())),
        Err(_) => match name.try_into() {
            Ok(name) => Ok(SanType::DnsName(name)),
            Err(_) => Err(TlsKeyError::AltName(name.to_owned())),
        },
    }
}

fn common_name(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn extension(oid: &[u64], content: &[u8]) -> CustomExtension {
    CustomExtension::from_oid_content(oid, extension_value(content))
}
