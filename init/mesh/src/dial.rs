//! Opening connections: plain ones to our own services, mutually verified ones to other apps.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use casemate_measure::AppId;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::body::RequestBody;
use crate::failure::Failure;
use crate::io::Idle;
use crate::peer::{PeerIdentity, PeerPolicy};
use crate::{limits, tls};

/// How to reach one place.
#[derive(Debug)]
pub(crate) enum Dial {
    /// A service of this appliance, on its veth.
    Service(SocketAddr),
    /// Another app: whoever answers at the address must prove to be it, inside the handshake.
    App { address: SocketAddr, app: AppId, tls: Arc<ClientConfig>, policy: Arc<dyn PeerPolicy> },
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
            Self::App { address, app, tls: config, policy } => {
                let stream = connect(*address).await?;
                let connector = TlsConnector::from(Arc::clone(config));
                // RA-TLS certificates name an app, not a host; the verifier does not look at this name.
                let name = ServerName::IpAddress(address.ip().into());
                let mut stream = timeout(limits::HANDSHAKE, connector.connect(name, stream))
                    .await
                    .map_err(|_| Failure::ConnectTimeout)?
                    .map_err(|error| Failure::Handshake(tls::reason(&error)))?;
                stream.get_mut().1.set_buffer_limit(Some(limits::WRITE_BUFFER));
                let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let peer = leaf
                    .ok_or_else(|| "no certificate".to_owned())
                    .and_then(|leaf| policy.identify(leaf, Some(app)));
                match peer {
                    Ok(peer) if peer.app == *app => http(stream, Some(peer)).await,
                    Ok(peer) => Err(Failure::Handshake(format!("it is app {}, not {app}", peer.app))),
                    Err(why) => Err(Failure::Handshake(why)),
                }
            }
        }
    }
}

async fn connect(address: SocketAddr) -> Result<Idle<TcpStream>, Failure> {
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
