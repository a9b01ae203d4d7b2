//! The peer's identity, decided inside the TLS handshake: before a byte of a request leaves, and before one is read.

mod any;
mod cache;
mod rules;

use std::fmt;
use std::sync::Arc;

use casemate_measure::AppId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};

use self::cache::Cache;
use crate::error::{Class, NotTrusted, Reason, VerifyError};
use crate::peer::{AuthenticPeer, VerifiedPeer};
use crate::policy::Policy;
use crate::verifier::Verifier;

pub use self::any::AnyCertificate;
pub use self::rules::Rules;

/// Seconds since 1970, by whatever clock the process trusts.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Who says what is acceptable.
#[derive(Clone, Debug)]
pub enum Judge {
    /// A relying party's policy file.
    Policy(Box<Policy>),
    /// The rules of the mesh.
    Rules(Rules),
}

impl Judge {
    fn judge(&self, peer: AuthenticPeer, now: u64) -> Result<VerifiedPeer, NotTrusted> {
        match self {
            Self::Policy(policy) => policy.judge(peer, now),
            Self::Rules(rules) => rules.judge(peer, now),
        }
    }
}

impl From<Policy> for Judge {
    fn from(policy: Policy) -> Self {
        Self::Policy(Box::new(policy))
    }
}

impl From<Rules> for Judge {
    fn from(rules: Rules) -> Self {
        Self::Rules(rules)
    }
}

/// The rustls verifier of both sides: a peer is accepted for the evidence in its leaf certificate.
///
/// Names and issuers are not looked at: whoever holds the leaf's key is who the evidence says. rustls asks
/// [`ServerCertVerifier`] (or [`ClientCertVerifier`]) about the certificate and, by the same leaf, checks the signature that
/// proves the key.
///
/// A handshake cannot wait: collateral comes from the verifier's store alone. Where it has none for such a platform, the
/// handshake fails with [`VerifyError::NoCollateral`], which names the platform: fetch, store, try again.
pub struct PeerVerifier {
    verifier: Arc<Verifier>,
    clock: Clock,
    judge: Judge,
    expected_app: Option<AppId>,
    client_mandatory: bool,
    algorithms: WebPkiSupportedAlgorithms,
    cache: Cache,
}

impl PeerVerifier {
    /// A verifier that accepts peers that the judge accepts, and of that app only if one is given. `client_mandatory`: whether
    /// a client must send a certificate; one that is sent must verify in any case.
    pub fn new(
        verifier: Arc<Verifier>,
        clock: Clock,
        judge: impl Into<Judge>,
        expected_app: Option<AppId>,
        client_mandatory: bool,
    ) -> Self {
        Self {
            verifier,
            clock,
            judge: judge.into(),
            expected_app,
            client_mandatory,
            algorithms: rustls::crypto::ring::default_provider().signature_verification_algorithms,
            cache: Cache::default(),
        }
    }

    /// Who that leaf certificate is. After a handshake, ask with the connection's first peer certificate: the answer
    /// comes from a cache, unless the entry has expired (with the certificate, with the collateral, or after an hour), and
    /// then it is verified again. Ask after a resumed handshake, too: its ticket holds the certificate, and says nothing about
    /// whether that still counts.
    ///
    /// # Errors
    /// As [`Verifier::verify_certificate`]; an image or app that is not acceptable.
    pub fn identify(&self, leaf_der: &[u8]) -> Result<Arc<VerifiedPeer>, VerifyError> {
        let now = (self.clock)();
        if let Some(peer) = self.cache.find(leaf_der, now) {
            return Ok(peer);
        }
        let peer = self.verifier.verify_certificate(leaf_der, now)?;
        let peer = self.judge.judge(peer, now)?;
        if let Some(expected) = self.expected_app.filter(|expected| *expected != peer.app_id()) {
            return Err(NotTrusted(vec![Reason::new(Class::App, "app_id", expected, peer.app_id())]).into());
        }
        let peer = Arc::new(peer);
        self.cache.keep(leaf_der, Arc::clone(&peer), now);
        Ok(peer)
    }

    fn accept(&self, leaf: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let refuse = |error: VerifyError| {
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
        };
        self.identify(leaf).map(drop).map_err(refuse)
    }
}

impl fmt::Debug for PeerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerVerifier")
            .field("judge", &self.judge)
            .field("expected_app", &self.expected_app)
            .field("client_mandatory", &self.client_mandatory)
            .finish_non_exhaustive()
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.accept(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        self.client_mandatory
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.accept(end_entity).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
