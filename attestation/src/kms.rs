//! A dstack KMS that judged an image before it signed: the chain from a certificate to the KMS's root.

use std::sync::Arc;

use casemate_measure::AppId;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::peer::AuthenticPeer;
use crate::quote::TdReport;
use crate::ratls::{CertificateEvidence, report_data_for_key};

/// The usage (.4) of an app's certificate (dstack `ra-tls/src/cert.rs`).
const APP_USAGE: &str = "app:custom";

/// A KMS whose judgement of images is taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KmsRoot {
    /// What a person calls it.
    pub name: String,
    /// Its root certificate, PEM.
    pub certificate: String,
}

impl KmsRoot {
    /// Whether the certificate can be a root.
    pub(crate) fn check(&self) -> Result<(), String> {
        let der = self.der()?;
        anchor_from_trusted_cert(&der)
            .map(drop)
            .map_err(|error| format!("expected a CA certificate, found {error}"))
    }

    /// Whether it is the root with that SubjectPublicKeyInfo.
    pub(crate) fn is(&self, spki_der: &[u8]) -> bool {
        self.der().ok().and_then(|root| spki(&root)).is_some_and(|spki| spki == spki_der)
    }

    fn der(&self) -> Result<CertificateDer<'static>, String> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes())
            .map_err(|error| format!("expected one certificate in PEM, found {error}"))
    }
}

/// The same peer, with the KMS root noted that its certificate's chain leads to, if there is one among these, and that KMS is
/// also its key provider and says the same app id.
pub(crate) fn vouched(
    mut peer: AuthenticPeer,
    certificate: &CertificateEvidence,
    roots: &[KmsRoot],
    now: u64,
) -> AuthenticPeer {
    if !is_of(&peer, certificate) {
        return peer;
    }
    let found = roots.iter().find_map(|root| root_of(certificate, root, peer.app_id(), now));
    let provider = peer.key_provider();
    let same = |root: &Vec<u8>| provider.is_kms() && provider.id == hex::encode(root);
    peer.kms_root = found.filter(same).map(Arc::from);
    peer
}

/// Whether the KMS judged, when it signed the certificate, the very launch that the peer proves: a challenge is answered by
/// whoever holds the key, on whatever image.
fn is_of(peer: &AuthenticPeer, certificate: &CertificateEvidence) -> bool {
    let spki_sha256: [u8; 32] = Sha256::digest(&certificate.spki_der).into();
    let judged = TdReport::of_quote(&certificate.attestation.quote);
    peer.key().is_some_and(|key| key.spki_sha256 == spki_sha256)
        && judged.is_ok_and(|judged| {
            judged.report_data == report_data_for_key(&certificate.spki_der)
                && judged.launch() == peer.launch()
        })
}

/// The root's SubjectPublicKeyInfo, if the chain leads to it and the leaf is that app's.
fn root_of(certificate: &CertificateEvidence, root: &KmsRoot, app: AppId, now: u64) -> Option<Vec<u8>> {
    let claims = &certificate.claims;
    if claims.app_id != Some(app) || claims.usage.as_deref() != Some(APP_USAGE) {
        return None;
    }
    let root = root.der().ok()?;
    let anchors = [anchor_from_trusted_cert(&root).ok()?];
    let chain: Vec<_> = certificate.chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let (leaf, intermediates) = chain.split_first()?;
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
    let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now));
    let leaf = EndEntityCert::try_from(leaf).ok()?;
    let verify = |usage| {
        leaf.verify_for_usage(algorithms.all, &anchors, intermediates, time, usage, None, None).is_ok()
    };
    if !verify(KeyUsage::client_auth()) && !verify(KeyUsage::server_auth()) {
        return None;
    }
    spki(&root)
}

fn spki(root: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(root).ok()?;
    Some(parsed.public_key().raw.to_vec())
}
