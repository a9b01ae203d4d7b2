//! From other apps to one backend: accept, handshake, verdict, requests.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use casemate_measure::AppId;
use hyper::body::Incoming;
use hyper::http::StatusCode;
use hyper::{Request, Response};
use rustls::server::Acceptor;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::body::ResponseBody;
use crate::challenge::Binding;
use crate::config::Caller;
use crate::exchange::Exchange;
use crate::failure::Failure;
use crate::identity::CurrentCertificate;
use crate::io::{Idle, accept};
use crate::own_paths::{Asker, OwnPaths, Session};
use crate::patience::Patience;
use crate::peer::PeerPolicy;
use crate::shares::{Share, Shares};
use crate::standing::{Admitted, Known, Standing};
use crate::tunnel::Keep;
use crate::upstream::Upstream;
use crate::{answer, limits, message, serve, standing, tls};

/// One inbound listener.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) service: String,
    pub(crate) allow: Vec<Caller>,
    pub(crate) tls: Arc<rustls::ServerConfig>,
    pub(crate) policy: Arc<dyn PeerPolicy>,
    /// Our certificate, which `tls` shows.
    pub(crate) own: Arc<CurrentCertificate>,
    pub(crate) own_paths: Arc<OwnPaths>,
    pub(crate) backend: Arc<Upstream>,
    pub(crate) places: Places,
}

/// Of all listeners together.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// By where they come from.
    strangers: Arc<Shares<IpAddr>>,
    waiting: Arc<Semaphore>,
    callers: Arc<Shares<AppId>>,
    requests: Arc<Shares<AppId>>,
}

impl Places {
    pub(crate) fn new() -> Self {
        Self {
            strangers: Shares::new(limits::STRANGERS),
            waiting: Arc::new(Semaphore::new(limits::STRANGERS_WAITING)),
            callers: Shares::new(limits::CALLERS),
            requests: Shares::new(limits::REQUESTS),
        }
    }

    /// A stranger's place for a connection from there; the wait for one has its own places and its limit.
    async fn stranger(&self, from: IpAddr) -> Option<Share<IpAddr>> {
        let from = network(from);
        match self.strangers.try_take(&from) {
            Some(place) => Some(place),
            None => {
                let _waits = self.waiting.try_acquire().ok()?;
                timeout(limits::HELLO, self.strangers.take(&from)).await.ok()
            }
        }
    }
}

/// Whose addresses these are: a host has as many as it likes of one IPv6 network.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(six) => Ipv6Addr::from_bits(six.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// A caller's connection.
#[derive(Clone, Debug)]
struct Call {
    app: AppId,
    backend: Result<Admitted, Arc<str>>,
    session: Arc<Session>,
    place: Arc<Share<AppId>>,
}

type Stream = TlsStream<Idle<TcpStream>>;

/// A connection after its handshake.
struct Accepted {
    stream: Stream,
    standing: Standing,
    /// Who it is, if it is somebody.
    app: Option<AppId>,
    binding: Binding,
}

impl Inbound {
    /// Accepts for ever. A connection is a stranger's until its handshake says otherwise.
    pub(crate) async fn run(self: Arc<Self>, listener: TcpListener) {
        loop {
            let (stream, from) = accept(&listener).await;
            let inbound = Arc::clone(&self);
            tokio::spawn(async move { inbound.connection(stream, from).await });
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, from: SocketAddr) {
        let Some(place) = self.places.stranger(from.ip()).await else {
            return tracing::debug!(peer = %from, "too many connections without an identity: closed");
        };
        let service = self.service.as_str();
        let accepted = match timeout(limits::HANDSHAKE, self.handshake(stream)).await {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(error)) if tls::lacks_collateral(&error) => {
                let why = tls::reason(&error);
                return tracing::warn!(peer = %from, service, why, "handshake refused for want of collateral");
            }
            Ok(Err(error)) => {
                let why = tls::reason(&error);
                return tracing::info!(peer = %from, service, why, "handshake refused");
            }
            Err(_) => return tracing::info!(peer = %from, service, "handshake not completed in time"),
        };
        let Accepted { stream, standing, app, binding } = accepted;
        match (standing, app) {
            (Standing::Known(Known { backend, logs }), Some(app)) => {
                let Some(caller) = self.places.callers.try_take(&app) else {
                    return tracing::warn!(peer = %from, service, %app, "too many connections of this app: closed");
                };
                drop(place);
                let session = Session { asker: Asker::App(app), logs, binding, patience: None };
                let call = Call { app, backend, session: Arc::new(session), place: Arc::new(caller) };
                self.caller(stream, call).await;
            }
            (Standing::Stranger(why), _) => {
                let session = Session {
                    asker: Asker::Stranger(network(from.ip())),
                    logs: None,
                    binding,
                    patience: Some(Patience::new(limits::STRANGER)),
                };
                self.stranger(stream, why, Arc::new(session)).await;
                drop(place);
            }
            (Standing::Known(_), None) => {}
        }
    }

    async fn handshake(&self, stream: TcpStream) -> std::io::Result<Accepted> {
        let hello = LazyConfigAcceptor::new(Acceptor::default(), Idle::new(stream, limits::IDLE));
        let hello = timeout(limits::HELLO, hello).await.map_err(|_| {
            std::io::Error::new(std::io::ErrorKind::TimedOut, "no whole ClientHello in time")
        })??;
        let own = self.own.current();
        let mut stream = hello.into_stream(tls::showing(&self.tls, Arc::clone(&own))).await?;
        stream.get_mut().1.set_buffer_limit(Some(limits::WRITE_BUFFER));
        let connection = stream.get_ref().1;
        let leaf = connection.peer_certificates().and_then(<[_]>::first);
        let peer =
            leaf.map(|leaf| self.policy.identify(leaf, None)).transpose().map_err(std::io::Error::other)?;
        let standing = Standing::of(peer.as_ref(), &self.allow, &self.own_paths.logs);
        let binding = Binding::of(connection, own).map_err(std::io::Error::other)?;
        Ok(Accepted { standing, app: peer.map(|peer| peer.app()), binding, stream })
    }

    async fn stranger(self: Arc<Self>, stream: Stream, why: Arc<str>, session: Arc<Session>) {
        let (inbound, asking) = (Arc::clone(&self), Arc::clone(&session));
        let answer = move |request: Request<Incoming>| {
            let (inbound, session, why) = (Arc::clone(&inbound), Arc::clone(&asking), Arc::clone(&why));
            async move {
                if message::is_own_path(request.uri()) {
                    return inbound.own_paths.answer(request, &session).await;
                }
                standing::porch(request.method(), request.uri(), &why)
            }
        };
        let ended = async {
            match &session.patience {
                Some(patience) => patience.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = serve::once(is_h2(&stream), stream, answer) => {}
            () = ended => tracing::debug!(service = self.service, "a stranger was cut"),
        }
    }

    async fn caller(self: Arc<Self>, stream: Stream, call: Call) {
        let h2 = is_h2(&stream);
        let answer = move |request| {
            let (inbound, call) = (Arc::clone(&self), call.clone());
            async move { inbound.answer(request, call).await }
        };
        serve::many(h2, stream, answer).await;
    }

    async fn answer(&self, request: Request<Incoming>, call: Call) -> Response<ResponseBody> {
        if request.headers().len() > limits::HEADER_FIELDS {
            return answer::text(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too many fields");
        }
        if message::is_own_path(request.uri()) {
            return self.own_paths.answer(request, &call.session).await;
        }
        let admitted = match &call.backend {
            Ok(admitted) => admitted,
            Err(why) => return standing::porch(request.method(), request.uri(), why),
        };
        let relayed = match self.places.requests.try_take(&call.app) {
            Some(place) => self.relay(request, admitted, Arc::new((place, call.place))).await,
            None => Err(Failure::Busy),
        };
        match relayed {
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

    async fn relay(
        &self,
        mut request: Request<Incoming>,
        admitted: &Admitted,
        keep: Keep,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_network_counts_as_one() {
        let network = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(network("2001:db8:1:3::1"), "2001:db8:1:3::");
        assert_eq!(network("192.0.2.7"), "192.0.2.7");
    }
}
