//! A server's certificate, when the time is not known yet.
//!
//! The clock that a certificate's dates would be compared with is the host's, and the answer is what sets it right (RFC 8915
//! section 8.5). So the host's clock is not asked at all. Until a first answer, a chain is good in the handshake if it is
//! valid at *some* time that can be: at or after the floor, before the horizon. Then it must also be valid at the very time
//! that the server says ([`Certificates::valid_at`]). Later handshakes are judged at the time that is known by then. So a
//! stolen key of a certificate that ran out before the image was made is worth nothing, whatever the host's clock says.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// Which certificates are good.
#[derive(Clone, Debug)]
pub(super) struct Certificates {
    inner: Arc<WebPkiServerVerifier>,
    floor: Duration,
    horizon: Duration,
}

impl Certificates {
    pub(super) fn new(
        roots: RootCertStore,
        provider: Arc<CryptoProvider>,
        floor: Duration,
        horizon: Duration,
    ) -> Result<Self, Error> {
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        Ok(Self { inner, floor, horizon })
    }

    /// For a handshake at a time that may be known.
    pub(super) fn verifier(&self, known: Option<Duration>) -> Arc<dyn ServerCertVerifier> {
        Arc::new(Verifier { certificates: self.clone(), known })
    }

    /// Whether a chain is good for a name at a time.
    pub(super) fn valid_at(
        &self,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        time: Duration,
    ) -> Result<ServerCertVerified, Error> {
        let (leaf, issuers) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        self.inner.verify_server_cert(leaf, issuers, name, &[], UnixTime::since_unix_epoch(time))
    }

    /// Whether there is a time at which it is, from the floor to the horizon.
    fn valid_at_some_time(
        &self,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
    ) -> Result<ServerCertVerified, Error> {
        let mut time = self.floor;
        loop {
            match self.valid_at(chain, name, time) {
                // Time only grows here, so that this ends.
                Err(Error::InvalidCertificate(CertificateError::NotValidYetContext {
                    not_before, ..
                })) if (time.as_secs()..=self.horizon.as_secs())
                    .contains(&not_before.as_secs().saturating_sub(1)) =>
                {
                    time = Duration::from_secs(not_before.as_secs());
                }
                judged => return judged,
            }
        }
    }
}

#[derive(Debug)]
struct Verifier {
    certificates: Certificates,
    known: Option<Duration>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        _hosts_clock: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain: Vec<CertificateDer<'_>> = std::iter::once(leaf).chain(issuers).cloned().collect();
        match self.known {
            Some(time) => self.certificates.valid_at(&chain, name, time),
            None => self.certificates.valid_at_some_time(&chain, name),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.certificates.inner.verify_tls12_signature(message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.certificates.inner.verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.certificates.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    use super::*;

    const FLOOR: i64 = 1_793_491_200;
    const DAY: i64 = 86_400;

    fn at(seconds: i64) -> Duration {
        Duration::from_secs(seconds.try_into().unwrap())
    }

    struct Ca {
        issuer: Issuer<'static, KeyPair>,
        roots: RootCertStore,
    }

    fn ca() -> Ca {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let mut roots = RootCertStore::empty();
        roots.add(params.self_signed(&key).unwrap().der().clone()).unwrap();
        Ca { issuer: Issuer::new(params, key), roots }
    }

    impl Ca {
        fn certificates(&self) -> Certificates {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            Certificates::new(self.roots.clone(), provider, at(FLOOR), at(FLOOR + 3650 * DAY)).unwrap()
        }

        fn leaf(&self, from: i64, to: i64) -> Vec<CertificateDer<'static>> {
            let mut params = CertificateParams::new(vec!["nts.example".to_owned()]).unwrap();
            params.not_before = time::OffsetDateTime::from_unix_timestamp(from).unwrap();
            params.not_after = time::OffsetDateTime::from_unix_timestamp(to).unwrap();
            vec![params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap().der().clone()]
        }
    }

    fn judge(of: &Certificates, chain: &[CertificateDer<'static>], known: Option<i64>, name: &str) -> bool {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        // The host's clock is not asked.
        let hosts = UnixTime::since_unix_epoch(at(4_000_000_000));
        let (leaf, issuers) = chain.split_first().unwrap();
        of.verifier(known.map(at)).verify_server_cert(leaf, issuers, &name, &[], hosts).is_ok()
    }

    #[test]
    fn a_chain_must_be_valid_at_some_possible_time_and_later_at_the_known_one() {
        let ca = ca();
        let of = ca.certificates();
        let name = "nts.example";
        for (from, to, known, good) in [
            // Before anything is known: now, later, much later; not before the floor, not beyond the horizon.
            (FLOOR - DAY, FLOOR + 89 * DAY, None, true),
            (FLOOR + 200 * DAY, FLOOR + 290 * DAY, None, true),
            (FLOOR + 3649 * DAY, FLOOR + 3700 * DAY, None, true),
            (FLOOR + 3651 * DAY, FLOOR + 3700 * DAY, None, false),
            (FLOOR - 90 * DAY, FLOOR - 1, None, false),
            // Once it is known.
            (FLOOR - DAY, FLOOR + 89 * DAY, Some(FLOOR + 88 * DAY), true),
            (FLOOR - DAY, FLOOR + 89 * DAY, Some(FLOOR + 90 * DAY), false),
            (FLOOR + 200 * DAY, FLOOR + 290 * DAY, Some(FLOOR + 199 * DAY), false),
        ] {
            let chain = ca.leaf(from, to);
            assert_eq!(judge(&of, &chain, known, name), good, "{from} {to} {known:?}");
            assert!(!judge(&of, &chain, known, "other.example"));
        }
        // Valid at some time is not valid at what the server says.
        let chain = ca.leaf(FLOOR + 200 * DAY, FLOOR + 290 * DAY);
        let name = ServerName::try_from(name).unwrap();
        assert!(of.valid_at(&chain, &name, at(FLOOR + 250 * DAY)).is_ok());
        assert!(of.valid_at(&chain, &name, at(FLOOR)).is_err());
        assert!(of.valid_at(&[], &name, at(FLOOR)).is_err());
    }

    #[test]
    fn anothers_root_is_no_root() {
        let (ca, other) = (ca(), ca());
        let chain = other.leaf(FLOOR - DAY, FLOOR + DAY);
        assert!(!judge(&ca.certificates(), &chain, None, "nts.example"));
        assert!(judge(&other.certificates(), &chain, None, "nts.example"));
    }
}
