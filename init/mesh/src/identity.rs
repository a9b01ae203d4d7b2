//! Our own certificate: where it comes from, and how a new one takes the place of the old.

use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SignatureScheme, client::ResolvesClientCert};

use crate::io::unix_seconds;
use crate::limits;

/// Speaks for the appliance. In the guest: `GetTlsKey` and `GetQuote` of the guest agent.
pub trait IdentitySource: Send + Sync + 'static {
    /// Issues an RA-TLS certificate with a fresh key, for server and client.
    ///
    /// # Errors
    /// Anything; it is logged and tried again.
    fn certificate(&self) -> impl Future<Output = Result<CertificateKey, SourceError>> + Send;

    /// A versioned attestation over these report data, made now.
    ///
    /// # Errors
    /// Anything; it is logged, and whoever asked is told that there is none.
    fn attest(&self, report_data: [u8; 64]) -> impl Future<Output = Result<Vec<u8>, SourceError>> + Send;

    /// Takes in that it is at least that time, Unix seconds: verified collateral was signed then. In the guest: PID 1 is told.
    fn it_is_at_least(&self, _time: u64) {}
}

/// [`IdentitySource::attest`] of whichever source.
pub(crate) trait Attest: Send + Sync {
    fn attest(&self, report_data: [u8; 64]) -> Attesting<'_>;
}

/// What it gives.
pub(crate) type Attesting<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>, SourceError>> + Send + 'a>>;

impl<S: IdentitySource> Attest for S {
    fn attest(&self, report_data: [u8; 64]) -> Attesting<'_> {
        Box::pin(IdentitySource::attest(self, report_data))
    }
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
pub(crate) struct CurrentCertificate(RwLock<Arc<Certificate>>);

/// One of our certificates. Whoever resolves a handshake by it knows which one was shown.
#[derive(Debug)]
pub(crate) struct Certificate {
    certified: Arc<CertifiedKey>,
    spki_der: Vec<u8>,
}

impl Certificate {
    /// Also checks that the key is the leaf's.
    fn new(certificate: CertificateKey) -> Result<Self, rustls::Error> {
        let provider = rustls::crypto::ring::default_provider();
        let certified = CertifiedKey::from_der(certificate.chain, certificate.key, &provider)?;
        // Equal to the leaf's, byte for byte: that is how the key was compared with it.
        let spki = certified.key.public_key();
        let spki =
            spki.ok_or_else(|| rustls::Error::General("a key that does not say which it is".into()))?;
        Ok(Self { spki_der: spki.to_vec(), certified: Arc::new(certified) })
    }

    /// The leaf's SubjectPublicKeyInfo, DER.
    pub(crate) fn spki_der(&self) -> &[u8] {
        &self.spki_der
    }

    /// The leaf, DER.
    pub(crate) fn leaf(&self) -> Option<&CertificateDer<'static>> {
        self.certified.cert.first()
    }
}

impl CurrentCertificate {
    pub(crate) fn new(certificate: CertificateKey) -> Result<Arc<Self>, rustls::Error> {
        Ok(Arc::new(Self(RwLock::new(Arc::new(Certificate::new(certificate)?)))))
    }

    pub(crate) fn replace(&self, certificate: CertificateKey) -> Result<(), rustls::Error> {
        let new = Arc::new(Certificate::new(certificate)?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    pub(crate) fn current(&self) -> Arc<Certificate> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.certified))
    }
}

impl ResolvesClientCert for CurrentCertificate {
    /// Issuer hints are not looked at: an RA-TLS peer judges the quote, not the issuer.
    fn resolve(&self, _hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let current = Arc::clone(&self.current().certified);
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

/// How often it is looked whether the clock was set meanwhile.
const LOOK: Duration = Duration::from_secs(60);

/// Issues a new certificate each [`limits::RENEW`], for ever: by the time that passes, and by the clock, which is set forward
/// when collateral proves that it is behind. A certificate of before would have expired for everybody.
pub(crate) async fn renew<S: IdentitySource>(
    source: Arc<S>,
    current: Arc<CurrentCertificate>,
    every: Duration,
) {
    loop {
        let (issued, by_clock) = (tokio::time::Instant::now(), unix_seconds());
        while issued.elapsed() < every && unix_seconds().saturating_sub(by_clock) < every.as_secs().max(1) {
            tokio::time::sleep(every.saturating_sub(issued.elapsed()).min(LOOK)).await;
        }
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Fails every other time.
    #[derive(Default)]
    struct Moody(Arc<AtomicUsize>);

    impl IdentitySource for Moody {
        async fn certificate(&self) -> Result<CertificateKey, SourceError> {
            if self.0.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
                return Err("not now".into());
            }
            let made = rcgen::generate_simple_self_signed(vec!["app".to_owned()])?;
            CertificateKey::from_pem([made.cert.pem()], made.signing_key.serialize_pem().as_bytes())
        }

        async fn attest(&self, _report_data: [u8; 64]) -> Result<Vec<u8>, SourceError> {
            Err("never".into())
        }
    }

    #[tokio::test]
    async fn a_certificate_is_asked_for_until_it_comes_and_then_again() {
        let source = Moody::default();
        let asked = Arc::clone(&source.0);
        let current = first(&source).await;
        let before = current.current();
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        let renewal = tokio::spawn(renew(Arc::new(source), Arc::clone(&current), Duration::from_millis(20)));
        while asked.load(Ordering::SeqCst) < 6 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_ne!(current.current().leaf(), before.leaf());
        assert!(!renewal.is_finished());
        renewal.abort();
    }

    #[test]
    fn a_key_of_another_certificate_is_refused_and_the_old_one_stays() {
        let made = || rcgen::generate_simple_self_signed(vec!["app".to_owned()]).unwrap();
        let (one, other) = (made(), made());
        let pair = |certificate: String, key: String| {
            CertificateKey::from_pem([certificate], key.as_bytes()).unwrap()
        };
        let good = pair(one.cert.pem(), one.signing_key.serialize_pem());
        let current = CurrentCertificate::new(good).unwrap();
        let mixed = pair(other.cert.pem(), one.signing_key.serialize_pem());
        assert!(current.replace(mixed).is_err());
        assert_eq!(current.current().leaf(), Some(one.cert.der()));
        let spki = rcgen::PublicKeyData::subject_public_key_info(&one.signing_key);
        assert_eq!(current.current().spki_der(), spki);
    }

    #[test]
    fn a_chain_may_come_in_one_piece_or_in_several() {
        let made = || rcgen::generate_simple_self_signed(vec!["app".to_owned()]).unwrap();
        let (leaf, authority) = (made(), made());
        let key = leaf.signing_key.serialize_pem();
        let pieces = [leaf.cert.pem(), authority.cert.pem()];
        let several = CertificateKey::from_pem(&pieces, key.as_bytes()).unwrap();
        let one = CertificateKey::from_pem([pieces.concat()], key.as_bytes()).unwrap();
        assert_eq!(several.chain, one.chain);
        assert_eq!(one.chain.len(), 2);
        assert!(CertificateKey::from_pem([""], key.as_bytes()).is_err());
        assert!(CertificateKey::from_pem(&pieces, b"no key").is_err());
    }
}
