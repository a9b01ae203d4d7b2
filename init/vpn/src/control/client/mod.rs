//! The I/O to the coordination server: `/key`, the ts2021 upgrade, and HTTP/2 inside the Noise tunnel.
//!
//! Everything that is read has a bound, everything that is waited for a time; the errors are typed, so that the joining state
//! machine need not look at a text.

mod connection;
mod stream;
mod tls;
mod upgrade;
mod url;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

pub use connection::{Connection, RequestError};
pub use stream::{MAX_FRAME, MapFrames, MapStream, StreamError, WATCHDOG};
pub use upgrade::ConnectError;
pub use url::{ServerUrl, UrlError};

use self::tls::Tls;
use super::CAPABILITY_VERSION;
use super::harmless;
use super::wire::{PingRequest, ServerKeys};
use crate::dial::Dial;
use crate::key::{Machine, Public, Secret};

/// How long a connection may take until it can be used.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long an answer may take. A registration takes Headscale up to a second, and more under load.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest answer that is read, but for the map stream.
pub const MAX_BODY: usize = 64 * 1024;

/// A byte stream of either kind.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}
pub(crate) type Wire = Box<dyn Io>;

/// Where the server is and how it is known.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// Where it is.
    pub url: ServerUrl,
    /// Its Noise key, if the document or the registration says it.
    pub pin: Option<Public<Machine>>,
    /// Whether plain HTTP may go further than loopback.
    pub plain_http: bool,
    /// Which certificates are believed.
    pub roots: Arc<RootCertStore>,
}

/// The client: it opens connections.
pub struct Client {
    settings: ClientSettings,
    dial: Arc<dyn Dial>,
    tls: Tls,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Why a byte stream to the server did not come about.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It could not be reached.
    #[error("connecting to {host}:{port}: {source}")]
    Dial {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// TLS failed; a certificate that is not believed is one reason.
    #[error("TLS with {host}: {source}")]
    Tls {
        /// The host.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// The server is reached by plain HTTP, is not on loopback, and the document does not say so.
    #[error("plain HTTP to {0}, which is not loopback: the document must say `plain_http`")]
    PlainHttp(String),
    /// It took too long.
    #[error("no connection within {} seconds", CONNECT_TIMEOUT.as_secs())]
    Timeout,
}

/// Why the server's key is not known.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// No connection.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// HTTP failed.
    #[error("asking for the server's key: {0}")]
    Http(#[from] hyper::Error),
    /// Another status than 200.
    #[error("asking for the server's key: status {0}")]
    Status(StatusCode),
    /// 429, with its `Retry-After`.
    #[error("asking for the server's key: status 429")]
    RateLimited(Option<Duration>),
    /// An empty answer: our version is too old to be told a key (Headscale `hscontrol/handlers.go`, `KeyHandler`).
    #[error("the server has no key for our version")]
    Empty,
    /// No key in the answer.
    #[error("the server's answer has no key")]
    NoKey,
    /// The answer does not end.
    #[error("the server's answer is longer than {MAX_BODY} bytes, or broken off")]
    Body,
    /// It took too long.
    #[error("the server's key did not come within {} seconds", REQUEST_TIMEOUT.as_secs())]
    Timeout,
}

/// How certificates are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Certificates {
    /// They must be believed.
    Verified,
    /// An error is logged: what is inside is authenticated by a key that we know, or is only for a log.
    Logged,
}

impl Client {
    /// A client of this server.
    ///
    /// # Errors
    /// If TLS cannot be set up with these roots.
    pub fn new(settings: ClientSettings, dial: Arc<dyn Dial>) -> Result<Self, rustls::Error> {
        let tls = Tls::new(&settings.roots)?;
        Ok(Self { settings, dial, tls })
    }

    /// What it was made with.
    pub const fn settings(&self) -> &ClientSettings {
        &self.settings
    }

    /// The server's key, from `/key`, which must be believed: a verified certificate, or plain HTTP where that is allowed.
    ///
    /// # Errors
    /// If there is none, or no reason to believe it.
    pub async fn server_key(&self) -> Result<Public<Machine>, KeyError> {
        self.key_with(Certificates::Verified).await
    }

    /// The key that the server shows now, believed or not: to tell a server with another key than the pinned one from one that
    /// refuses our version.
    ///
    /// # Errors
    /// If it shows none.
    pub async fn shown_key(&self) -> Result<Public<Machine>, KeyError> {
        self.key_with(self.certificates()).await
    }

    async fn key_with(&self, certificates: Certificates) -> Result<Public<Machine>, KeyError> {
        let path = format!("/key?v={CAPABILITY_VERSION}");
        let get = async {
            let (wire, _) = self.open(certificates).await?;
            let answer = http1(wire, Method::GET, &path, &self.settings.url.authority()).await?;
            match answer.status {
                StatusCode::OK => {}
                StatusCode::TOO_MANY_REQUESTS => return Err(KeyError::RateLimited(answer.retry_after)),
                status => return Err(KeyError::Status(status)),
            }
            let body = answer.body?;
            if body.trim_ascii().is_empty() {
                return Err(KeyError::Empty);
            }
            serde_json::from_slice::<ServerKeys>(&body)
                .ok()
                .map(|keys| keys.public_key)
                .filter(|key| !key.is_zero())
                .ok_or(KeyError::NoKey)
        };
        timeout(REQUEST_TIMEOUT, get).await.map_err(|_| KeyError::Timeout)?
    }

    /// A connection as this machine to the server with this key.
    ///
    /// # Errors
    /// If it does not come about; a close after the upgrade without a byte is an error of its own.
    pub async fn connect(
        &self,
        machine: &Secret<Machine>,
        server: &Public<Machine>,
    ) -> Result<Connection, ConnectError> {
        let connect = async {
            let (wire, local) = self.open(self.certificates()).await?;
            let noise = upgrade::upgrade(wire, &self.settings.url.authority(), machine, server).await?;
            Connection::start(noise, self.settings.url.authority(), local).await
        };
        timeout(CONNECT_TIMEOUT, connect).await.map_err(|_| OpenError::Timeout)?
    }

    /// What a sign of life that the server asks for is a HEAD of; `None`: it is not answered. Only the server's own URLs are asked for.
    pub fn ping_path(&self, ping: &PingRequest) -> Option<String> {
        self.settings.url.own_path(&ping.url).filter(|_| ping.types.is_empty() && !ping.url_is_noise)
    }

    /// Answers a sign of life, at the path of [`Self::ping_path`].
    pub async fn answer_ping(&self, path: &str) {
        let head = async {
            let (wire, _) = self.open(self.certificates()).await?;
            let answer = http1(wire, Method::HEAD, path, &self.settings.url.authority()).await?;
            Ok::<_, KeyError>(answer.status)
        };
        match timeout(REQUEST_TIMEOUT, head).await {
            Ok(Ok(status)) => tracing::debug!(%status, "answered a ping"),
            Ok(Err(error)) => {
                tracing::debug!(error = harmless(&error.to_string()), "a ping was not answered")
            }
            Err(_) => tracing::debug!("a ping was not answered in time"),
        }
    }

    /// A byte stream to a server that is known by a verified certificate, or spoken to in plain HTTP where that is allowed.
    pub(crate) async fn verified(&self) -> Result<Wire, OpenError> {
        self.open(Certificates::Verified).await.map(|(stream, _)| stream)
    }

    const fn certificates(&self) -> Certificates {
        if self.settings.pin.is_some() { Certificates::Logged } else { Certificates::Verified }
    }

    /// A byte stream, and from which address of ours, if that is known.
    async fn open(&self, certificates: Certificates) -> Result<(Wire, Option<SocketAddr>), OpenError> {
        let url = &self.settings.url;
        if !url.https && !self.settings.plain_http && !url.is_loopback() {
            return Err(OpenError::PlainHttp(url.host.clone()));
        }
        let open = async {
            let tcp = self.dial.dial(&url.host, None, url.port).await.map_err(|source| OpenError::Dial {
                host: url.host.clone(),
                port: url.port,
                source,
            })?;
            let local = tcp.local_addr().ok();
            if !url.https {
                // A name that says loopback must mean it.
                let loopback = tcp.peer_addr().is_ok_and(|peer| peer.ip().to_canonical().is_loopback());
                if !self.settings.plain_http && !loopback {
                    return Err(OpenError::PlainHttp(url.host.clone()));
                }
                return Ok((Box::new(tcp) as Wire, local));
            }
            let error = |source| OpenError::Tls { host: url.host.clone(), source };
            let name = ServerName::try_from(url.host.clone()).map_err(|bad| error(io::Error::other(bad)))?;
            let config = match certificates {
                Certificates::Verified => &self.tls.verified,
                Certificates::Logged => &self.tls.logged,
            };
            let stream = TlsConnector::from(Arc::clone(config)).connect(name, tcp).await.map_err(error)?;
            Ok((Box::new(stream) as Wire, local))
        };
        timeout(CONNECT_TIMEOUT, open).await.map_err(|_| OpenError::Timeout)?
    }
}

/// An answer over HTTP/1.1.
struct Http1 {
    status: StatusCode,
    retry_after: Option<Duration>,
    body: Result<Bytes, KeyError>,
}

/// `Retry-After`, where it is a number of seconds.
pub(crate) fn retry_after(value: &[u8]) -> Option<Duration> {
    std::str::from_utf8(value).ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// One HTTP/1.1 request without a body.
async fn http1(wire: Wire, method: Method, path: &str, authority: &str) -> Result<Http1, KeyError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(wire)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(hyper::header::HOST, authority)
        .body(Empty::<Bytes>::new())
        .map_err(|_| KeyError::Body)?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let retry_after = response
            .headers()
            .get(hyper::header::RETRY_AFTER)
            .and_then(|value| retry_after(value.as_bytes()));
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        let body = body.map(http_body_util::Collected::to_bytes).map_err(|_| KeyError::Body);
        Ok(Http1 { status, retry_after, body })
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        done = &mut exchange => done,
        // A server may close without a word, TLS's or HTTP's: what counts is whether the answer is whole.
        _ = connection => exchange.await,
    }
}
