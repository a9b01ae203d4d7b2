//! One connection to one relay server: TCP, TLS, the HTTP upgrade, the greeting.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::frame::{Decoder, Frame, FrameError, encode};
use super::handshake::{self, HandshakeError, ServerInfo};
use super::reach::{self, Limits};
use super::trust::{Proof, Trust, TrustError};
use crate::dial::Dial;
use crate::key::{Node, Public, Secret};
use crate::netmap::DerpNode;

/// A byte stream to a server.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// A connection on which the server has accepted us.
pub struct Connection {
    /// The bytes.
    pub stream: Box<dyn Stream>,
    /// What was read beyond the greeting.
    pub decoder: Decoder,
    /// The server's key.
    pub server: Public<Node>,
    /// What it says about itself.
    pub info: ServerInfo,
    /// From which address of ours it was made; `None`: not known.
    pub local: Option<SocketAddr>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a connection to the relay {}", self.server)
    }
}

/// No connection.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// TCP or TLS.
    #[error("cannot connect to {host}: {source}")]
    Io {
        /// To whom.
        host: String,
        /// Why not.
        source: io::Error,
    },
    /// It took longer than [`CONNECT_TIMEOUT`].
    #[error("{0} does not answer")]
    Timeout(String),
    /// The server must not be talked to.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// It does not speak DERP at `/derp`.
    #[error("the server does not upgrade to DERP: HTTP status {0}")]
    NoUpgrade(u16),
    /// Its answer is no HTTP.
    #[error("the server's answer is not HTTP")]
    NotHttp,
    /// What came after the upgrade is not DERP.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Its greeting does not open.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// Another frame than the greeting's.
    #[error("the server does not greet")]
    NoGreeting,
    /// It closed after it learnt who we are: it does not know our key.
    #[error("the relay does not accept our key")]
    NotAccepted,
    /// The region has no server that relays.
    #[error("the region has no relay")]
    NoServer,
}

/// Connects to a server, at the first of its addresses that answers.
///
/// # Errors
/// If none answers, it does not prove what it must, or does not accept us.
pub async fn connect(
    node: &DerpNode,
    trust: &Trust,
    dial: &dyn Dial,
    ours: &Secret<Node>,
) -> Result<Connection, ConnectError> {
    let proof = trust.proof(node)?;
    let tls = match proof {
        Proof::Plain => None,
        _ => Some(trust.tls(&proof)?),
    };
    let tcp = reach::dial(node, dial, Limits::REAL)
        .await
        .map_err(|source| ConnectError::Io { host: node.host.clone(), source })?;
    match timeout(CONNECT_TIMEOUT, speak(node, tls, tcp, ours)).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::Timeout(node.host.clone())),
    }
}

/// TLS, if there is to be any, and the greeting.
async fn speak(
    node: &DerpNode,
    tls: Option<Arc<ClientConfig>>,
    tcp: TcpStream,
    ours: &Secret<Node>,
) -> Result<Connection, ConnectError> {
    let local = tcp.local_addr().ok();
    let stream: Box<dyn Stream> = match tls {
        None => Box::new(tcp),
        Some(config) => {
            let name =
                ServerName::try_from(node.host.clone()).map_err(|_| TrustError::Name(node.host.clone()))?;
            let connected = TlsConnector::from(config).connect(name, tcp).await;
            let failed = |source| ConnectError::Io { host: node.host.clone(), source };
            Box::new(connected.map_err(failed)?)
        }
    };
    let connection = greet(stream, &node.host, ours).await?;
    Ok(Connection { local, ..connection })
}

/// The HTTP upgrade and the greeting on a stream to a server.
///
/// # Errors
/// As [`connect`].
pub async fn greet(
    mut stream: Box<dyn Stream>,
    host: &str,
    ours: &Secret<Node>,
) -> Result<Connection, ConnectError> {
    let failed = |source| ConnectError::Io { host: host.to_owned(), source };
    let host_header = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let request =
        format!("GET /derp HTTP/1.1\r\nHost: {host_header}\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    stream.flush().await.map_err(failed)?;
    let mut decoder = Decoder::default();
    read_upgrade(&mut stream, decoder.buffer(), host).await?;

    let Frame::ServerKey(server) =
        next_frame(&mut stream, &mut decoder).await.map_err(|error| match error {
            ReadError::Io(source) => failed(source),
            ReadError::Frame(error) => error.into(),
        })?
    else {
        return Err(ConnectError::NoGreeting);
    };
    let mut out = BytesMut::new();
    encode(&handshake::client_info(ours, &server)?, &mut out);
    stream.write_all(&out).await.map_err(failed)?;
    stream.flush().await.map_err(failed)?;
    loop {
        match next_frame(&mut stream, &mut decoder).await {
            Ok(Frame::ServerInfo(sealed)) => {
                let info = handshake::read_server_info(ours, &server, &sealed)?;
                decoder.greeted();
                return Ok(Connection { stream, decoder, server, info, local: None });
            }
            Ok(Frame::KeepAlive | Frame::Health(_) | Frame::Unknown(_)) => {}
            Ok(_) => return Err(ConnectError::NoGreeting),
            // With `verify_clients` a key that is not registered is answered by nothing but a close.
            Err(ReadError::Io(_)) => return Err(ConnectError::NotAccepted),
            Err(ReadError::Frame(error)) => return Err(error.into()),
        }
    }
}

async fn read_upgrade(
    stream: &mut Box<dyn Stream>,
    buffer: &mut BytesMut,
    host: &str,
) -> Result<(), ConnectError> {
    loop {
        let read = stream.read_buf(buffer).await;
        let read = read.map_err(|source| ConnectError::Io { host: host.to_owned(), source })?;
        if read == 0 {
            return Err(ConnectError::NotHttp);
        }
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(buffer) {
            Ok(httparse::Status::Complete(len)) => {
                let status = response.code.unwrap_or(0);
                let upgraded = response.headers.iter().any(|header| {
                    header.name.eq_ignore_ascii_case("upgrade")
                        && header.value.trim_ascii().eq_ignore_ascii_case(b"derp")
                });
                if status != 101 || !upgraded {
                    return Err(ConnectError::NoUpgrade(status));
                }
                buffer.advance(len);
                return Ok(());
            }
            Ok(httparse::Status::Partial) if buffer.len() < MAX_HEAD => {}
            Ok(httparse::Status::Partial) | Err(_) => return Err(ConnectError::NotHttp),
        }
    }
}

/// A stream that ends or is no DERP.
#[derive(Debug, Error)]
pub enum ReadError {
    /// It ended or broke.
    #[error("the relay's stream broke: {0}")]
    Io(io::Error),
    /// It is no DERP.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// The next frame. Dropping the future loses nothing.
///
/// # Errors
/// If the stream ends or is no DERP.
pub async fn next_frame<R: AsyncRead + Unpin>(
    stream: &mut R,
    decoder: &mut Decoder,
) -> Result<Frame, ReadError> {
    loop {
        if let Some(frame) = decoder.next_frame()? {
            return Ok(frame);
        }
        let buffer = decoder.buffer();
        buffer.reserve(READ_CHUNK);
        if stream.read_buf(buffer).await.map_err(ReadError::Io)? == 0 {
            return Err(ReadError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

/// From the TCP connection to the server's info (ours; Go allows 10 s with the dialling).
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_HEADERS: usize = 64;
const MAX_HEAD: usize = 16 << 10;
const READ_CHUNK: usize = 16 << 10;
