//! Whoever calls a mesh: an app, a stranger, a thief.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use casemate_measure::AppId;
use casemate_mesh::CertificateKey;
use casemate_verify::acceptable::Image;
use casemate_verify::tls::{PeerVerifier, Rules};
use casemate_verify::{TrustAnchor, Verifier};
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::machine::{image, now};

/// No test waits longer for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a call ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The caller's address, by which the mesh's log names it.
    pub(crate) from: SocketAddr,
    /// Everything that was answered before the connection's end; or why nothing was.
    pub(crate) answer: io::Result<String>,
}

impl Outcome {
    /// The status code of the first answer.
    pub(crate) fn status(&self) -> u16 {
        let text = self.answer.as_ref().unwrap();
        text.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn body(&self) -> &str {
        self.answer.as_ref().unwrap().split_once("\r\n\r\n").unwrap().1
    }

    /// How the connection was refused: no answer, but a TLS alert (RFC 8446, 6.2), in rustls' words; or a reset that
    /// overtook it, since the request was already on its way.
    pub(crate) fn refusal(&self) -> String {
        let error = match &self.answer {
            Ok(text) => panic!("answered: {text}"),
            Err(error) => error,
        };
        let reset = matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
        assert!(reset || error.to_string().contains("alert"), "expected an alert or a reset, found: {error}");
        error.to_string()
    }
}

/// Verifies who is called, as any relying party does: the good image, under the simulator's root, perhaps one app.
pub(crate) fn verifier(expected: Option<AppId>) -> Arc<PeerVerifier> {
    let anchors = Verifier::new([TrustAnchor::Simulator], Default::default());
    let rules = Rules { images: vec![Image::Same(image())], ..Rules::default() };
    Arc::new(PeerVerifier::new(Arc::new(anchors), Arc::new(now), rules, expected, false))
}

/// Calls over TLS, with or without a certificate: sends the whole request at once, without waiting for a verdict, and reads
/// until the other side closes.
pub(crate) async fn call(address: SocketAddr, own: Option<CertificateKey>, request: &str) -> Outcome {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier(None));
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            // Not `with_client_auth_cert`, which checks that the key is the certificate's: a thief would not ask.
            let key = provider.key_provider.load_private_key(own.key).unwrap();
            let certified = CertifiedKey::new(own.chain, key);
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
        }
    };
    let stream = TcpStream::connect(address).await.unwrap();
    let from = stream.local_addr().unwrap();
    let exchange = async {
        let name = ServerName::IpAddress(address.ip().into());
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        // Whoever was refused may find the connection closed already; the reason is there to be read.
        let sent = stream.write_all(request.as_bytes()).await;
        rest(&mut stream).await.or_else(|error| sent.and(Err(error)))
    };
    let answer = timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err(io::Error::other("still open")));
    Outcome { from, answer }
}

/// Calls without TLS, as a service calls its mesh.
pub(crate) async fn plain(address: SocketAddr, request: &str) -> Outcome {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let from = stream.local_addr().unwrap();
    let exchange = async {
        stream.write_all(request.as_bytes()).await?;
        rest(&mut stream).await
    };
    let answer = timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err(io::Error::other("still open")));
    Outcome { from, answer }
}

/// A missing TLS close is an end as well, if there was an answer.
async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut all = Vec::new();
    match stream.read_to_end(&mut all).await {
        Err(error) if all.is_empty() => Err(error),
        _ => Ok(String::from_utf8_lossy(&all).into_owned()),
    }
}

/// The certificate that the server at that address shows, once it has proved to run the good image.
pub(crate) async fn certificate_of(address: SocketAddr) -> CertificateDer<'static> {
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier(None))
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::IpAddress(address.ip().into());
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}
