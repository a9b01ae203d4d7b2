//! Opening connections: plain ones to our own services, mutually verified ones to other apps.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use casemate_measure::AppId;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use crate::body::RequestBody;
use crate::failure::Failure;
use crate::io::Idle;
use crate::peer::{PeerIdentity, PeerPolicy};
use crate::{limits, serve, tls};

/// How to reach one place.
#[derive(Debug)]
pub(crate) enum Dial {
    /// A service of this appliance, on its veth.
    Service(SocketAddr),
    /// Another app: whoever answers at the address must prove to be it, inside the handshake.
    App(App),
}

/// Another app, and how it proves to be it.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    pub(crate) app: AppId,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) policy: Arc<dyn PeerPolicy>,
    /// Of what it shows for its platform.
    pub(crate) fetched: Fetched,
    /// Of what it needs to know of ours.
    pub(crate) introduction: Introduction,
}

/// A connection that is ready for requests.
pub(crate) struct Opened {
    pub(crate) sender: SendRequest<RequestBody>,
    pub(crate) peer: Option<PeerIdentity>,
    /// Moves the bytes; ends with the connection.
    pub(crate) driver: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Dial {
    pub(crate) async fn open(&self) -> Result<Opened, Failure> {
        match self {
            Self::Service(address) => http(connect(*address).await?, None).await,
            Self::App(app) => app.open().await,
        }
    }

    /// A connection that was opened broke before it brought an answer.
    pub(crate) fn broke(&self) {
        if let Self::App(app) = self {
            app.introduction.in_vain();
        }
    }
}

impl App {
    /// The handshake's verifier cannot wait, and knows only what is at hand. What is missing is fetched beforehand on a connection
    /// that carries nothing else, once; then the peer is judged by it as any other.
    async fn open(&self) -> Result<Opened, Failure> {
        let collateral = self.policy.collateral();
        if let Some(collateral) = &collateral {
            self.introduction.make(|| collateral.introduce(self.address)).await;
        }
        let before = self.fetched.times();
        let why = match self.attempt().await {
            Err(Failure::NoCollateral(why)) => why,
            Err(Failure::Handshake(why)) => {
                self.introduction.in_vain();
                return Err(Failure::Handshake(why));
            }
            other => return other,
        };
        let Some(collateral) = collateral else { return Err(Failure::NoCollateral(why)) };
        let fetched = self.fetched.once(before, || collateral.fetch_from_peer(self.address)).await;
        fetched
            .map_err(|error| Failure::NoCollateral(format!("{why}; and there: {}", serve::chain(&error))))?;
        self.attempt().await
    }

    async fn attempt(&self) -> Result<Opened, Failure> {
        let Self { address, app, tls: config, policy, .. } = self;
        let stream = connect(*address).await?;
        let connector = TlsConnector::from(Arc::clone(config));
        // RA-TLS certificates name an app, not a host; the verifier does not look at this name.
        let name = ServerName::IpAddress(address.ip().into());
        let mut stream = timeout(limits::HANDSHAKE, connector.connect(name, stream))
            .await
            .map_err(|_| Failure::ConnectTimeout)?
            .map_err(|error| match (tls::lacks_collateral(&error), tls::reason(&error)) {
                (true, why) => Failure::NoCollateral(why),
                (false, why) => Failure::Handshake(why),
            })?;
        stream.get_mut().1.set_buffer_limit(Some(limits::WRITE_BUFFER));
        let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let peer =
            leaf.ok_or_else(|| "no certificate".to_owned()).and_then(|leaf| policy.identify(leaf, Some(app)));
        match peer {
            Ok(peer) if peer.app() == *app => http(stream, Some(peer)).await,
            Ok(peer) => Err(Failure::Handshake(format!("it is app {}, not {app}", peer.app()))),
            Err(why) => Err(Failure::Handshake(why)),
        }
    }
}

/// How often something was fetched. Of those who miss it at the same time one fetches it, and the others wait.
#[derive(Debug, Default)]
pub(crate) struct Fetched {
    times: AtomicU64,
    turn: Mutex<()>,
}

impl Fetched {
    fn times(&self) -> u64 {
        self.times.load(Ordering::Acquire)
    }

    /// Fetches it, unless somebody else did since it had been fetched so many times.
    async fn once<E, F: Future<Output = Result<(), E>>>(
        &self,
        before: u64,
        fetch: impl FnOnce() -> F,
    ) -> Result<(), E> {
        let _turn = self.turn.lock().await;
        if self.times() == before {
            fetch().await?;
            self.times.fetch_add(1, Ordering::Release);
        }
        Ok(())
    }
}

/// Our collateral is brought to a target before we first call it: its verifier cannot wait either, and who has never heard of our
/// platform refuses us. Whether it did shows only in that connections break. So after one that did it is brought again, if that
/// was not done lately: the target may have started anew.
#[derive(Debug, Default)]
pub(crate) struct Introduction {
    made: Mutex<Option<Instant>>,
    in_vain: AtomicBool,
}

impl Introduction {
    /// Makes it if it is due; `introduce` says whether there was something to bring. Who comes meanwhile waits.
    async fn make<F: Future<Output = bool>>(&self, introduce: impl FnOnce() -> F) {
        let mut made = self.made.lock().await;
        let due = match *made {
            None => true,
            Some(last) => {
                last.elapsed() >= limits::INTRODUCTION && self.in_vain.swap(false, Ordering::Relaxed)
            }
        };
        if due && introduce().await {
            *made = Some(Instant::now());
        }
    }

    fn in_vain(&self) {
        self.in_vain.store(true, Ordering::Relaxed);
    }
}

pub(crate) async fn connect(address: SocketAddr) -> Result<Idle<TcpStream>, Failure> {
    let stream = timeout(limits::CONNECT, TcpStream::connect(address))
        .await
        .map_err(|_| Failure::ConnectTimeout)?
        .map_err(Failure::Unreachable)?;
    stream.set_nodelay(true).map_err(Failure::Unreachable)?;
    Ok(Idle::new(stream, limits::IDLE))
}

async fn http<S>(stream: S, peer: Option<PeerIdentity>) -> Result<Opened, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(limits::READ_BUFFER)
        .max_header_size(limits::HEADER_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(Failure::Broken)?;
    let driver = Box::pin(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to a backend or target ended");
        }
    });
    Ok(Opened { sender, peer, driver })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_those_who_miss_it_one_fetches_it() {
        let fetched = Fetched::default();
        let asked = AtomicU64::new(0);
        let fetch = |fails: bool| {
            asked.fetch_add(1, Ordering::Relaxed);
            async move {
                tokio::task::yield_now().await;
                if fails { Err("no") } else { Ok(()) }
            }
        };
        let before = fetched.times();
        let all = tokio::join!(
            fetched.once(before, || fetch(true)),
            fetched.once(before, || fetch(false)),
            fetched.once(before, || fetch(false)),
        );
        assert_eq!(all, (Err("no"), Ok(()), Ok(())));
        assert_eq!(
            asked.load(Ordering::Relaxed),
            2,
            "the first one failed, the second fetched for the third"
        );
        fetched.once(fetched.times(), || fetch(false)).await.unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), 3, "it is missed again");
    }

    #[tokio::test]
    async fn an_introduction_is_made_once_there_is_something_to_bring_and_again_in_time() {
        let introduction = Introduction::default();
        let made = AtomicU64::new(0);
        let make = |there_is: bool| {
            made.fetch_add(1, Ordering::Relaxed);
            async move { there_is }
        };
        introduction.make(|| make(false)).await;
        tokio::join!(introduction.make(|| make(true)), introduction.make(|| make(true)));
        assert_eq!(made.load(Ordering::Relaxed), 2, "the other one waited, and found it made");
        introduction.in_vain();
        introduction.make(|| make(true)).await;
        assert_eq!(made.load(Ordering::Relaxed), 2, "it was made just now");
        *introduction.made.lock().await = Instant::now().checked_sub(limits::INTRODUCTION);
        introduction.make(|| make(true)).await;
        assert_eq!(made.load(Ordering::Relaxed), 3);
        *introduction.made.lock().await = Instant::now().checked_sub(limits::INTRODUCTION);
        introduction.make(|| make(true)).await;
        assert_eq!(made.load(Ordering::Relaxed), 3, "nothing has broken since");
    }
}
