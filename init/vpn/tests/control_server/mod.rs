//! A coordination server of the tests' own: it speaks ts2021 as the responder, and says what a test scripts.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on may panic"
)]

pub(crate) mod node;
pub(crate) mod peers;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use casemate_vpn::key::{Machine, Public, Secret};
use casemate_vpn::noise::{NoiseStream, respond};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio_rustls::TlsAcceptor;

/// What the server does at the upgrade.
#[derive(Clone, Debug)]
pub(crate) enum Upgrade {
    /// A 101, and the tunnel.
    Tunnel,
    /// A 101, then it closes: as Headscale does for a version or a key that it refuses.
    CloseWithoutAByte,
    /// A 101, and an error frame.
    ErrorFrame(&'static str),
    /// Another status.
    Status(u16),
    /// 429, and after how many seconds.
    Limited(u64),
    /// Nothing, ever.
    Silent,
    /// The tunnel, in which it asks without end and takes no answer.
    TakesNothing,
}

/// No status: there is no answer.
const NEVER: u16 = 0;

/// An answer of the protocol's.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<u64>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn json(value: &Value) -> Self {
        Self { status: 200, retry_after: None, body: value.to_string().into_bytes() }
    }
    pub(crate) fn status(status: u16) -> Self {
        Self { status, retry_after: None, body: b"as scripted".to_vec() }
    }
    /// No answer, ever.
    pub(crate) fn never() -> Self {
        Self { status: NEVER, retry_after: None, body: Vec::new() }
    }
    pub(crate) fn empty() -> Self {
        Self { status: 200, retry_after: None, body: Vec::new() }
    }
    pub(crate) fn authorized() -> Self {
        Self::json(&json!({ "MachineAuthorized": true, "AuthURL": "", "Error": "", "Unknown": null }))
    }
}

type Answerer = Box<dyn FnMut(&Value) -> Reply + Send>;
type MaybeAnswerer = Box<dyn FnMut(&Value) -> Option<Reply> + Send>;

/// What the server says. Everything may be changed while it runs.
pub(crate) struct Script {
    pub(crate) upgrade: Upgrade,
    /// The key that `/key` shows, where it is not the server's own.
    pub(crate) shown_key: Option<Public<Machine>>,
    /// What `/key` answers, head and all, where it is no key.
    pub(crate) key_reply: Option<&'static str>,
    /// The early payload is sent in records of so many bytes; 0: there is none.
    pub(crate) early_pieces: usize,
    /// What is sent at the handshake is written in pieces of so many bytes; 0: at once.
    pub(crate) wire_pieces: usize,
    pub(crate) register: Answerer,
    /// Updates without a stream.
    pub(crate) update: Answerer,
    /// Whether a stream is given; else the reply.
    pub(crate) stream: MaybeAnswerer,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) body: Value,
}

/// A stream of maps that a client has asked for. Dropping it ends the stream.
pub(crate) struct Maps {
    send: mpsc::UnboundedSender<Bytes>,
    pub(crate) request: Value,
}

impl Maps {
    /// Sends bytes as they are, as one HTTP/2 write.
    pub(crate) fn raw(&self, bytes: impl Into<Bytes>) -> bool {
        self.send.send(bytes.into()).is_ok()
    }
    /// Sends a message.
    pub(crate) fn map(&self, message: &Value) {
        self.raw(frame(message));
    }
    /// Until the client has closed it.
    pub(crate) async fn closed(&self) {
        self.send.closed().await;
    }
}

/// A message as it is framed.
pub(crate) fn frame(message: &Value) -> Vec<u8> {
    let body = message.to_string().into_bytes();
    let mut bytes = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
    bytes.extend_from_slice(&body);
    bytes
}

pub(crate) struct ControlServer {
    pub(crate) address: SocketAddr,
    pub(crate) key: Secret<Machine>,
    pub(crate) tls: bool,
    state: Arc<State>,
    streams: AsyncMutex<mpsc::UnboundedReceiver<Maps>>,
    accept: tokio::task::JoinHandle<()>,
}

struct State {
    key: Secret<Machine>,
    script: Mutex<Script>,
    seen: Mutex<Vec<Seen>>,
    machines: Mutex<Vec<Public<Machine>>>,
    tunnels: AtomicUsize,
    pings: AtomicUsize,
    streams: mpsc::UnboundedSender<Maps>,
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

impl ControlServer {
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    pub(crate) async fn start_with(tls: Option<TlsAcceptor>) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), tls)
    }

    /// Starts one on a socket of the test's.
    pub(crate) fn on(listener: TcpListener, tls: Option<TlsAcceptor>) -> Self {
        Self::start_on(listener, Secret::generate().unwrap(), tls)
    }

    /// Where a test listens, with a key of its own.
    pub(crate) fn start_on(listener: TcpListener, key: Secret<Machine>, tls: Option<TlsAcceptor>) -> Self {
        let address = listener.local_addr().unwrap();
        let (sender, streams) = mpsc::unbounded_channel();
        let state = Arc::new(State {
            key: key.clone(),
            script: Mutex::new(Script {
                upgrade: Upgrade::Tunnel,
                shown_key: None,
                key_reply: None,
                early_pieces: 9,
                wire_pieces: 0,
                register: Box::new(|_| Reply::authorized()),
                update: Box::new(|_| Reply::empty()),
                stream: Box::new(|_| None),
            }),
            seen: Mutex::default(),
            machines: Mutex::default(),
            tunnels: AtomicUsize::default(),
            pings: AtomicUsize::default(),
            streams: sender,
        });
        let shared = Arc::clone(&state);
        let has_tls = tls.is_some();
        let accept = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (state, tls) = (Arc::clone(&shared), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => state.serve(tcp).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(tcp).await {
                                assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
                                state.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, key, tls: has_tls, state, streams: AsyncMutex::new(streams), accept }
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }

    pub(crate) fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.state.script.lock().unwrap());
    }

    /// The next stream that a client asks for.
    pub(crate) async fn next_stream(&self) -> Maps {
        let mut streams = self.streams.lock().await;
        tokio::time::timeout(std::time::Duration::from_secs(30), streams.recv()).await.unwrap().unwrap()
    }

    /// The requests so far with this path's end.
    pub(crate) fn seen(&self, path: &str) -> Vec<Value> {
        let seen = self.state.seen.lock().unwrap();
        seen.iter().filter(|seen| seen.path.ends_with(path)).map(|seen| seen.body.clone()).collect()
    }

    /// The updates so far: map requests without a stream.
    pub(crate) fn updates(&self) -> Vec<Value> {
        self.seen("/machine/map").into_iter().filter(|body| body["Stream"] == false).collect()
    }

    /// The tunnels that stand.
    pub(crate) fn tunnels(&self) -> usize {
        self.state.tunnels.load(Ordering::Relaxed)
    }

    /// The HTTP/2 pings that were sent and not taken.
    pub(crate) fn pings(&self) -> usize {
        self.state.pings.load(Ordering::Relaxed)
    }

    pub(crate) fn machines(&self) -> Vec<Public<Machine>> {
        self.state.machines.lock().unwrap().clone()
    }
}

impl State {
    fn note(&self, path: &str, body: Value) {
        self.seen.lock().unwrap().push(Seen { path: path.to_owned(), body });
    }

    async fn serve<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(self: Arc<Self>, mut io: S) {
        let mut received = BytesMut::new();
        while !received.windows(4).any(|end| end == b"\r\n\r\n") {
            if io.read_buf(&mut received).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let head = String::from_utf8(received.to_vec()).unwrap();
        let mut words = head.split_whitespace();
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        self.note(&format!("{method} {path}"), Value::Null);
        if path.starts_with("/key?v=130") {
            let reply = self.script.lock().unwrap().key_reply;
            if let Some(reply) = reply {
                drop(io.write_all(reply.as_bytes()).await);
                drop(io.shutdown().await);
                return;
            }
            let shown = self.script.lock().unwrap().shown_key.unwrap_or_else(|| self.key.public());
            let body =
                json!({ "legacyPublicKey": Public::<Machine>::zero(), "publicKey": shown }).to_string();
            let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            drop(io.write_all(text.as_bytes()).await);
            drop(io.shutdown().await);
            return;
        }
        if path != "/ts2021" {
            drop(io.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await);
            return;
        }
        let value = |name: &str| {
            head.lines()
                .find_map(|line| line.split_once(": ").filter(|(n, _)| *n == name))
                .map(|(_, v)| v.trim())
        };
        assert_eq!(value("Upgrade"), Some("tailscale-control-protocol"));
        assert_eq!(value("Content-Length"), Some("0"));
        let initiation = STANDARD.decode(value("X-Tailscale-Handshake").unwrap()).unwrap();
        let (upgrade, early, wire) = {
            let script = self.script.lock().unwrap();
            (script.upgrade.clone(), script.early_pieces, script.wire_pieces)
        };
        if let Upgrade::Limited(seconds) = upgrade {
            let answer = format!(
                "HTTP/1.1 429 Too Many Requests\r\nretry-after: {seconds}\r\nContent-Length: 0\r\n\r\n"
            );
            drop(io.write_all(answer.as_bytes()).await);
            return;
        }
        if matches!(upgrade, Upgrade::Silent) {
            return std::future::pending().await;
        }
        if let Upgrade::Status(status) = upgrade {
            let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n");
            drop(io.write_all(answer.as_bytes()).await);
            return;
        }
        let mut out = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: tailscale-control-protocol\r\n\r\n".to_vec();
        let takes_nothing = matches!(upgrade, Upgrade::TakesNothing);
        let accepted = match (upgrade, respond(&self.key, &initiation.try_into().unwrap())) {
            (Upgrade::Tunnel | Upgrade::TakesNothing, Ok(accepted)) => accepted,
            (Upgrade::ErrorFrame(text), _) => {
                out.push(3);
                out.extend_from_slice(&u16::try_from(text.len()).unwrap().to_be_bytes());
                out.extend_from_slice(text.as_bytes());
                drop(io.write_all(&out).await);
                return;
            }
            // Also for an initiation that was meant for another key.
            _ => {
                drop(io.write_all(&out).await);
                drop(io.shutdown().await);
                return;
            }
        };
        self.machines.lock().unwrap().push(accepted.machine);
        out.extend_from_slice(&accepted.response);
        // The handshake and the early payload leave together, so that the client reads ahead.
        let (mut tunnel, mut sealed) = (accepted.tunnel, BytesMut::new());
        if early > 0 {
            let payload = json!({ "nodeKeyChallenge": format!("chalpub:{}", "07".repeat(32)) }).to_string();
            let mut plain = b"\xff\xff\xffTS".to_vec();
            plain.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
            plain.extend_from_slice(payload.as_bytes());
            for piece in plain.chunks(early) {
                tunnel.sealer.seal(piece, &mut sealed).unwrap();
                tunnel.sealer.seal(&[], &mut sealed).unwrap();
            }
        }
        out.extend_from_slice(&sealed);
        for piece in out.chunks(if wire == 0 { out.len() } else { wire }) {
            if io.write_all(piece).await.is_err() || io.flush().await.is_err() {
                return;
            }
            if wire > 0 {
                tokio::task::yield_now().await;
            }
        }
        let mut noise = NoiseStream::new(io, tunnel, BytesMut::new());
        if takes_nothing {
            self.tunnels.fetch_add(1, Ordering::Relaxed);
            // SETTINGS, then PING after PING (RFC 9113, sections 6.5 and 6.7).
            let mut frames = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
            while noise.write_all(&frames).await.is_ok() && noise.flush().await.is_ok() {
                frames = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8].repeat(100);
                self.pings.fetch_add(100, Ordering::Relaxed);
            }
            self.tunnels.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let state = Arc::clone(&self);
        let service = hyper::service::service_fn(move |request| Arc::clone(&state).answer(request));
        let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        self.tunnels.fetch_add(1, Ordering::Relaxed);
        drop(http2.serve_connection(TokioIo::new(noise), service).await);
        self.tunnels.fetch_sub(1, Ordering::Relaxed);
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
        let path = request.uri().path().to_owned();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        self.note(&path, body.clone());
        let reply = {
            let mut script = self.script.lock().unwrap();
            match path.as_str() {
                "/machine/register" => Some((script.register)(&body)),
                "/machine/map" if body["Stream"] == true => (script.stream)(&body),
                "/machine/map" => Some((script.update)(&body)),
                _ => Some(Reply::status(404)),
            }
        };
        Ok(match reply {
            Some(reply) if reply.status == NEVER => std::future::pending().await,
            Some(reply) => {
                let mut response = Response::builder().status(StatusCode::from_u16(reply.status).unwrap());
                if let Some(after) = reply.retry_after {
                    response = response.header("retry-after", after);
                }
                response.body(Full::new(Bytes::from(reply.body)).boxed()).unwrap()
            }
            None => {
                let (send, receive) = mpsc::unbounded_channel();
                drop(self.streams.send(Maps { send, request: body }));
                let stream = futures_util::stream::unfold(receive, |mut receive| async {
                    receive.recv().await.map(|bytes: Bytes| (Ok(Frame::data(bytes)), receive))
                });
                Response::new(StreamBody::new(stream).boxed())
            }
        })
    }
}
