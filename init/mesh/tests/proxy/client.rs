//! Clients: bytes over TLS, and hyper over TLS.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::world::{App, Known};

pub(crate) type Body = BoxBody<Bytes, std::convert::Infallible>;

pub(crate) fn empty() -> Body {
    Empty::new().boxed()
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed()
}

/// A TLS connection to `server`, with or without a certificate. TLS 1.3 says on the first read, not in the handshake,
/// that a client's certificate was refused.
pub(crate) async fn tls(
    address: SocketAddr,
    server: &App,
    own: Option<&App>,
    protocol: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    tls_from(Ipv4Addr::LOCALHOST, address, server, own, protocol).await
}

/// The same, from one of this machine's addresses.
pub(crate) async fn tls_from(
    from: Ipv4Addr,
    address: SocketAddr,
    server: &App,
    own: Option<&App>,
    protocol: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Known::new(&[server])));
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(app) => {
            let key = PrivateKeyDer::try_from(app.key.clone()).unwrap();
            builder.with_client_auth_cert(vec![app.certificate.clone()], key).unwrap()
        }
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::IpAddress(address.ip().into());
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// Sends bytes and reads until the other side closes, which it must within a few seconds.
pub(crate) async fn talk(
    address: SocketAddr,
    server: &App,
    own: Option<&App>,
    bytes: &str,
) -> std::io::Result<String> {
    let mut stream = tls(address, server, own, b"http/1.1").await?;
    stream.write_all(bytes.as_bytes()).await?;
    Ok(String::from_utf8_lossy(&rest(&mut stream).await?).into_owned())
}

/// How long a test waits for what must come: a bound on hanging, not a promise of speed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Reads until the end; a missing TLS close is an end as well.
pub(crate) async fn rest(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await;
    match read.map_err(|_| std::io::Error::other("still open"))? {
        Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof && all.is_empty() => Err(error),
        _ => Ok(all),
    }
}

/// Reads until the text has come.
pub(crate) async fn until(stream: &mut (impl tokio::io::AsyncRead + Unpin), text: &str) -> String {
    let mut all = Vec::new();
    while !String::from_utf8_lossy(&all).contains(text) {
        let byte = tokio::time::timeout(PATIENCE, stream.read_u8()).await;
        all.push(byte.expect("in time").expect("before the end"));
    }
    String::from_utf8_lossy(&all).into_owned()
}

pub(crate) async fn http1(address: SocketAddr, server: &App, own: Option<&App>) -> http1::SendRequest<Body> {
    let stream = tls(address, server, own, b"http/1.1").await.unwrap();
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub(crate) async fn http2(address: SocketAddr, server: &App, own: Option<&App>) -> http2::SendRequest<Body> {
    let stream = tls(address, server, own, b"h2").await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Plain HTTP/1.1, as a service speaks to the outbound proxy.
pub(crate) async fn plain(address: SocketAddr) -> http1::SendRequest<Body> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub(crate) async fn text(response: hyper::Response<hyper::body::Incoming>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8_lossy(&bytes).into_owned()
}
