//! How a relay's server proves that it is the one of the map.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::netmap::DerpNode;

/// What we know of relays beforehand.
#[derive(Clone, Debug)]
pub struct Trust {
    /// The authorities for servers without a pin.
    pub roots: Arc<RootCertStore>,
    /// SHA-256 of certificates by host name, from our own configuration. They win over what the map says.
    pub pins: BTreeMap<String, [u8; 32]>,
    /// Tests only: plain HTTP to servers without a pin, and `InsecureForTests` is honoured.
    pub debug_use_derp_http: bool,
}

/// What a server must prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Nothing: plain HTTP, in tests.
    Plain,
    /// Nothing, but by TLS, in tests.
    Insecure,
    /// That it holds the key of the certificate with this digest.
    Pin([u8; 32]),
    /// That an authority says that it has this name.
    Name(String),
}

/// A server that must not be talked to.
#[derive(Debug, Error)]
pub enum TrustError {
    /// The map's pin is not the configuration's.
    #[error("the map's pin for {0} contradicts the configured one")]
    PinContradicts(String),
    /// A name that no certificate can have.
    #[error("{0} is no name of a server")]
    Name(String),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

impl Trust {
    /// With the authorities that browsers know, and nothing else.
    pub fn web() -> Self {
        let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        Self { roots: Arc::new(roots), pins: BTreeMap::new(), debug_use_derp_http: false }
    }

    /// What a server of the map must prove.
    ///
    /// # Errors
    /// If the map contradicts the configuration.
    pub fn proof(&self, node: &DerpNode) -> Result<Proof, TrustError> {
        let configured = self.pins.get(&node.host).copied();
        match (configured, node.pin) {
            (Some(ours), Some(theirs)) if ours != theirs => {
                Err(TrustError::PinContradicts(node.host.clone()))
            }
            (Some(pin), _) | (None, Some(pin)) => Ok(Proof::Pin(pin)),
            (None, None) if self.debug_use_derp_http && node.insecure_for_tests => Ok(Proof::Insecure),
            (None, None) if self.debug_use_derp_http => Ok(Proof::Plain),
            (None, None) => Ok(Proof::Name(node.cert_name.clone().unwrap_or_else(|| node.host.clone()))),
        }
    }

    /// TLS that asks for the proof; the caller takes care of [`Proof::Plain`].
    ///
    /// # Errors
    /// If TLS cannot be set up with it.
    pub(super) fn tls(&self, proof: &Proof) -> Result<Arc<ClientConfig>, TrustError> {
        let provider = Arc::new(ring::default_provider());
        let check = match proof {
            Proof::Name(name) => {
                let name = ServerName::try_from(name.clone()).map_err(|_| TrustError::Name(name.clone()))?;
                let roots = WebPkiServerVerifier::builder_with_provider(
                    Arc::clone(&self.roots),
                    Arc::clone(&provider),
                )
                .build()
                .map_err(|error| TrustError::Setup(error.to_string()))?;
                Check::Name(roots, name)
            }
            Proof::Pin(pin) => Check::Pin(*pin),
            Proof::Insecure | Proof::Plain => Check::Nothing,
        };
        let verifier = Verifier { check, provider: Arc::clone(&provider) };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| TrustError::Setup(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

#[derive(Debug)]
enum Check {
    Name(Arc<WebPkiServerVerifier>, ServerName<'static>),
    Pin([u8; 32]),
    Nothing,
}

/// The certificate by [`Check`]; that the server holds its key, always.
#[derive(Debug)]
struct Verifier {
    check: Check,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.check {
            Check::Name(roots, name) => {
                roots.verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
            }
            Check::Pin(pin) if <[u8; 32]>::from(Sha256::digest(end_entity)) == *pin => {
                Ok(ServerCertVerified::assertion())
            }
            Check::Pin(_) => Err(rustls::CertificateError::ApplicationVerificationFailure.into()),
            Check::Nothing => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
