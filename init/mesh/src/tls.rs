//! rustls settings of both directions.

use std::sync::Arc;

use casemate_verify::tls::AnyCertificate;
use casemate_verify::{Class, VerifyError};
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, ClientConfig, OtherError, ServerConfig, SupportedProtocolVersion};

use crate::config::TlsMin;
use crate::identity::{Certificate, CurrentCertificate};

/// Application protocols (RFC 7301).
pub(crate) const H2: &[u8] = b"h2";
pub(crate) const HTTP_1_1: &[u8] = b"http/1.1";

/// Of one certificate; [`showing`] replaces it. Sessions are never resumed: a resumed handshake carries no certificate, so it would have to carry an earlier verdict.
pub(crate) fn server(
    min: TlsMin,
    callers: Arc<dyn ClientCertVerifier>,
    own: Arc<Certificate>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions(min))?
        .with_client_cert_verifier(callers)
        .with_cert_resolver(own);
    config.alpn_protocols = vec![H2.to_vec(), HTTP_1_1.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The same with the certificate that is current now, so that whoever serves the connection knows which one it showed.
pub(crate) fn showing(server: &ServerConfig, own: Arc<Certificate>) -> Arc<ServerConfig> {
    let mut config = server.clone();
    config.cert_resolver = own;
    Arc::new(config)
}

/// HTTP/1.1 only: one connection per exchange keeps upgrades possible and flow control simple.
pub(crate) fn client(
    min: TlsMin,
    target: Arc<dyn ServerCertVerifier>,
    own: Arc<CurrentCertificate>,
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions(min))?
        .dangerous()
        .with_custom_certificate_verifier(target)
        .with_client_cert_resolver(own);
    config.alpn_protocols = vec![HTTP_1_1.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// To ask somebody for what is signed by others, before anything of ours may go there: whoever it is, our own certificate is not
/// shown. That the other side holds its certificate's key is proved all the same.
pub(crate) fn asking() -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = provider();
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(FROM_1_2)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate::default()))
        .with_no_client_auth();
    config.alpn_protocols = vec![HTTP_1_1.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Why a handshake failed. rustls shows a verifier's own error in its debug form; this is its text.
pub(crate) fn reason(error: &std::io::Error) -> String {
    match verdict(error) {
        Some(why) => format!("the peer's certificate is not accepted: {why}"),
        None => error.to_string(),
    }
}

/// Whether a handshake failed because what is known of the peer's platform is nothing, expired or too old: it may be a good one.
pub(crate) fn lacks_collateral(error: &std::io::Error) -> bool {
    let why = verdict(error).and_then(|why| why.downcast_ref()).map(VerifyError::class);
    matches!(why, Some(Class::Collateral | Class::Freshness))
}

/// What our own verifier said of the peer's certificate.
fn verdict(error: &std::io::Error) -> Option<&(dyn std::error::Error + Send + Sync + 'static)> {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(why)))) => Some(&**why),
        _ => None,
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn versions(min: TlsMin) -> &'static [&'static SupportedProtocolVersion] {
    match min {
        TlsMin::V1_2 => FROM_1_2,
        TlsMin::V1_3 => FROM_1_3,
    }
}

static FROM_1_2: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];
static FROM_1_3: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifiers_reason_is_told_in_its_own_words() {
        let why: Arc<dyn std::error::Error + Send + Sync> = Arc::new(std::fmt::Error);
        let refused = rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(why)));
        let text = reason(&std::io::Error::other(refused));
        assert_eq!(text, format!("the peer's certificate is not accepted: {}", std::fmt::Error));
        assert_eq!(reason(&std::io::Error::other("plain")), "plain");
    }
}
