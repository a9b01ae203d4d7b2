//! TLS to the server. ts2021 wants HTTP/1.1: HTTP/2 outside has no upgrade.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

pub(super) struct Tls {
    /// Certificates must be believed.
    pub(super) verified: Arc<ClientConfig>,
    /// Certificates are logged: Noise inside authenticates the server by its pinned key.
    pub(super) logged: Arc<ClientConfig>,
}

impl Tls {
    pub(super) fn new(roots: &Arc<RootCertStore>) -> Result<Self, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = || {
            ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()
        };
        let alpn = || vec![b"http/1.1".to_vec()];
        let mut verified = builder()?.with_root_certificates(Arc::clone(roots)).with_no_client_auth();
        verified.alpn_protocols = alpn();
        // No roots at all are no reason to fail: then nothing is believed.
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&provider))
            .build()
            .ok();
        let verifier = Arc::new(Logging { inner, provider: Arc::clone(&provider) });
        let mut logged =
            builder()?.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        logged.alpn_protocols = alpn();
        Ok(Self { verified: Arc::new(verified), logged: Arc::new(logged) })
    }
}

/// Says what is wrong with a certificate, and takes it.
#[derive(Debug)]
struct Logging {
    inner: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Logging {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(inner) = &self.inner {
            let verdict =
                inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
            if let Err(error) = verdict {
                tracing::warn!(%error, "the server's certificate is not believed; its Noise key is pinned");
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
