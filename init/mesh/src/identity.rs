//! Our own certificate: where it comes from, and how a new one takes the place of the old.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SignatureScheme, client::ResolvesClientCert};

use crate::limits;

/// Gives the appliance's RA-TLS certificate, for server and client. In the guest: `GetTlsKey` of the guest agent.
pub trait IdentitySource: Send + Sync + 'static {
    /// Issues a certificate with a fresh key.
    ///
    /// # Errors
    /// Anything; it is logged and tried again.
    fn certificate(&self) -> impl Future<Output = Result<CertificateKey, SourceError>> + Send;
}

/// Why there is no certificate.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// A certificate chain, leaf first, and the leaf's key.
#[derive(Debug)]
pub struct CertificateKey {
    /// The chain, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's private key.
    pub key: PrivateKeyDer<'static>,
}

impl CertificateKey {
    /// From PEM, as `GetTlsKey` answers: each element of the chain is one or more certificates.
    ///
    /// # Errors
    /// What is not PEM, or an empty chain.
    pub fn from_pem<C: AsRef<[u8]>>(
        chain: impl IntoIterator<Item = C>,
        key: &[u8],
    ) -> Result<Self, SourceError> {
        let mut certificates = Vec::new();
        for element in chain {
            for certificate in CertificateDer::pem_slice_iter(element.as_ref()) {
                certificates.push(certificate?);
            }
        }
        if certificates.is_empty() {
            return Err("certificate chain: expected at least one certificate, found none".into());
        }
        Ok(Self { chain: certificates, key: PrivateKeyDer::from_pem_slice(key)? })
    }
}

/// The certificate that new handshakes show; established connections keep theirs.
#[derive(Debug)]
pub(crate) struct CurrentCertificate(RwLock<Arc<CertifiedKey>>);

impl CurrentCertificate {
    pub(crate) fn new(certificate: CertificateKey) -> Result<Arc<Self>, rustls::Error> {
        Ok(Arc::new(Self(RwLock::new(Arc::new(certified(certificate)?)))))
    }

    pub(crate) fn replace(&self, certificate: CertificateKey) -> Result<(), rustls::Error> {
        let certified = Arc::new(certified(certificate)?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = certified;
        Ok(())
    }

    fn current(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Also checks that the key is the leaf's.
fn certified(certificate: CertificateKey) -> Result<CertifiedKey, rustls::Error> {
    CertifiedKey::from_der(certificate.chain, certificate.key, &rustls::crypto::ring::default_provider())
}

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for CurrentCertificate {
    /// Issuer hints are not looked at: an RA-TLS peer judges the quote, not the issuer.
    fn resolve(&self, _hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let current = self.current();
        current.key.choose_scheme(schemes).is_some().then_some(current)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Asks until there is a certificate that TLS takes.
pub(crate) async fn first<S: IdentitySource>(source: &S) -> Arc<CurrentCertificate> {
    retry(|| async { Ok(CurrentCertificate::new(source.certificate().await?)?) }).await
}

/// Issues a new certificate each [`limits::RENEW`], for ever.
pub(crate) async fn renew<S: IdentitySource>(source: S, current: Arc<CurrentCertificate>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        retry(|| async { Ok(current.replace(source.certificate().await?)?) }).await;
        tracing::info!("our certificate was issued anew");
    }
}

async fn retry<T, F: Future<Output = Result<T, SourceError>>>(mut attempt: impl FnMut() -> F) -> T {
    let (mut pause, longest) = limits::RENEW_RETRY;
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => tracing::warn!(%error, ?pause, "no certificate yet"),
        }
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2).min(longest);
    }
}
