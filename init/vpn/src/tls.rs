//! TLS to servers. Inside is HTTP/1.1: HTTP/2 has no upgrade. A server must always hold the key of the certificate that it shows;
//! what that certificate must be, [`Certificate`] says.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{VerifierBuilderError, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use sha2::{Digest as _, Sha256};

/// What a server's certificate must be.
#[derive(Debug)]
pub(crate) enum Certificate {
    /// Of this name, whatever was dialled: an authority says so.
    Named(Arc<WebPkiServerVerifier>, ServerName<'static>),
    /// The one with this SHA-256.
    Pinned([u8; 32]),
    /// Anything: something inside proves who the server is. What authorities have against it is logged.
    Logged(Option<Arc<WebPkiServerVerifier>>),
    /// Anything.
    Any,
}

/// What these authorities say.
pub(crate) fn authorities(
    roots: &Arc<RootCertStore>,
) -> Result<Arc<WebPkiServerVerifier>, VerifierBuilderError> {
    WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::new(ring::default_provider())).build()
}

/// TLS to servers of which these authorities say that they have the name that was dialled.
pub(crate) fn to_named(roots: &Arc<RootCertStore>) -> Result<Arc<ClientConfig>, Error> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(Arc::clone(roots))
        .with_no_client_auth();
    Ok(finished(config))
}

/// TLS to a server with this certificate.
pub(crate) fn to(certificate: Certificate) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Verifier { certificate, provider: Arc::clone(&provider) };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(finished(config))
}

fn finished(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// The certificate as [`Certificate`] has it; that the server holds its key, always.
#[derive(Debug)]
struct Verifier {
    certificate: Certificate,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.certificate {
            Certificate::Named(authorities, name) => {
                authorities.verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
            }
            Certificate::Pinned(pin) if <[u8; 32]>::from(Sha256::digest(end_entity)) == *pin => {
                Ok(ServerCertVerified::assertion())
            }
            Certificate::Pinned(_) => Err(rustls::CertificateError::ApplicationVerificationFailure.into()),
            Certificate::Logged(authorities) => {
                let verdict = authorities.as_ref().map(|authorities| {
                    authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
                });
                if let Some(Err(error)) = verdict {
                    tracing::warn!(%error, "the server's certificate is not believed; its Noise key is pinned");
                }
                Ok(ServerCertVerified::assertion())
            }
            Certificate::Any => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
