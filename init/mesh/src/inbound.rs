//! From other apps to one backend: accept, handshake, verdict, requests.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::body::ResponseBody;
use crate::config::Caller;
use crate::exchange::Exchange;
use crate::failure::Failure;
use crate::io::{Idle, accept};
use crate::logs::{self, Logs, Permitted};
use crate::peer::PeerPolicy;
use crate::standing::{Admitted, Known, Standing};
use crate::upstream::Upstream;
use crate::{answer, limits, message, serve, standing, tls};

/// One inbound listener.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) service: String,
    pub(crate) allow: Vec<Caller>,
    pub(crate) tls: Arc<rustls::ServerConfig>,
    pub(crate) policy: Arc<dyn PeerPolicy>,
    pub(crate) logs: Arc<Logs>,
    pub(crate) backend: Arc<Upstream>,
    pub(crate) strangers: Arc<Semaphore>,
    pub(crate) callers: Arc<Semaphore>,
}

type Stream = TlsStream<Idle<TcpStream>>;

impl Inbound {
    /// Accepts for ever. A connection is a stranger's until its handshake says otherwise.
    pub(crate) async fn run(self: Arc<Self>, listener: TcpListener) {
        while let Ok(place) = Arc::clone(&self.strangers).acquire_owned().await {
            let (stream, peer) = accept(&listener).await;
            let inbound = Arc::clone(&self);
            tokio::spawn(async move { inbound.connection(stream, peer, place).await });
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, place: OwnedSemaphorePermit) {
        let service = self.service.as_str();
        let (stream, standing) = match timeout(limits::HANDSHAKE, self.handshake(stream)).await {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => {
                let why = tls::reason(&error);
                return tracing::info!(%peer, service, why, "handshake refused");
            }
            Err(_) => return tracing::info!(%peer, service, "handshake not completed in time"),
        };
        match standing {
            Standing::Stranger(why) => self.stranger(stream, why).await,
            Standing::Known(known) => {
                let callers = Arc::clone(&self.callers).acquire_owned();
                let Ok(Ok(caller)) = timeout(limits::HANDSHAKE, callers).await else {
                    return tracing::warn!(%peer, service, "too many callers: connection closed");
                };
                drop(place);
                self.caller(stream, known, Arc::new(caller)).await;
            }
        }
    }

    async fn handshake(&self, stream: TcpStream) -> std::io::Result<(Stream, Standing)> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.tls));
        let stream = acceptor.accept(Idle::new(stream, limits::IDLE)).await?;
        let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let peer =
            leaf.map(|leaf| self.policy.identify(leaf, None)).transpose().map_err(std::io::Error::other)?;
        let standing = Standing::of(peer.as_ref(), &self.allow, &self.logs);
        Ok((stream, standing))
    }

    async fn stranger(&self, stream: Stream, why: Arc<str>) {
        let answer = move |request: Request<Incoming>| {
            std::future::ready(standing::porch(request.method(), request.uri(), &why))
        };
        if timeout(limits::STRANGER, serve::once(is_h2(&stream), stream, answer)).await.is_err() {
            tracing::debug!(service = self.service, "a stranger was cut");
        }
    }

    async fn caller(self: Arc<Self>, stream: Stream, known: Known, keep: Arc<OwnedSemaphorePermit>) {
        let h2 = is_h2(&stream);
        let answer = move |request| {
            let (inbound, known, keep) = (Arc::clone(&self), known.clone(), Arc::clone(&keep));
            async move { inbound.answer(request, &known, keep).await }
        };
        serve::many(h2, stream, answer).await;
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        known: &Known,
        keep: Arc<OwnedSemaphorePermit>,
    ) -> Response<ResponseBody> {
        if message::is_own_path(request.uri()) {
            return self.own_path(&request, known.logs);
        }
        let admitted = match &known.backend {
            Ok(admitted) => admitted,
            Err(why) => return standing::porch(request.method(), request.uri(), why),
        };
        match self.relay(request, admitted, keep).await {
            Ok(response) => response,
            Err(failure) => {
                let why = serve::chain(&failure);
                tracing::info!(
                    service = self.service,
                    status = failure.status().as_u16(),
                    why,
                    "not relayed"
                );
                answer::text(failure.status(), failure.outside())
            }
        }
    }

    /// What is the mesh's own never reaches a backend, whoever asks.
    fn own_path(&self, request: &Request<Incoming>, permitted: Option<Permitted>) -> Response<ResponseBody> {
        match (logs::asked(request.uri()), permitted) {
            (Some(asked), Some(permitted)) => {
                self.logs.answer(permitted, request.method(), asked, request.uri())
            }
            _ => standing::own_path(request.uri()),
        }
    }

    async fn relay(
        &self,
        mut request: Request<Incoming>,
        admitted: &Admitted,
        keep: Arc<OwnedSemaphorePermit>,
    ) -> Result<Response<ResponseBody>, Failure> {
        let upgrade = hyper::upgrade::on(&mut request);
        let (mut head, body) = request.into_parts();
        let wishes = message::forwardable(&mut head)?;
        admitted.introduce(&mut head.headers);
        let upgrade = wishes.websocket.then_some(upgrade);
        Exchange { head, body, wishes, upgrade, instance: None, keep }.run(&self.backend).await
    }
}

fn is_h2(stream: &Stream) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(tls::H2)
}
