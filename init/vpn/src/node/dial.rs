//! TCP to the coordination server and the relays. Names are asked of the configured resolvers, never of the C library.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::dial::{BoxFuture, Dial, first_of, in_turn};
use crate::dns::lookup;

/// How long one address may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a look-up may take. Its own limit: what connects afterwards has its own.
const LOOK_UP: Duration = Duration::from_secs(6);

/// Dials, with its resolvers.
#[derive(Clone, Debug)]
pub(super) struct Dialer {
    resolvers: Vec<SocketAddr>,
}

impl Dialer {
    pub(super) const fn new(resolvers: Vec<SocketAddr>) -> Self {
        Self { resolvers }
    }

    /// The addresses of a host: itself, if it is one in text.
    ///
    /// # Errors
    /// If nobody can be asked, or nobody knows it.
    pub(super) async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse() {
            return Ok(vec![address]);
        }
        if host == "localhost" {
            return Ok(vec![IpAddr::from([127, 0, 0, 1])]);
        }
        if self.resolvers.is_empty() {
            return Err(io::Error::other(format!(
                "{host}: expected an address, since there is no resolver to ask"
            )));
        }
        let found = timeout(LOOK_UP, lookup(&self.resolvers, host)).await.unwrap_or_default();
        if found.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("{host}: no resolver knows an address"),
            ));
        }
        Ok(found)
    }
}

impl Dial for Dialer {
    fn dial<'a>(
        &'a self,
        host: &'a str,
        ip: Option<IpAddr>,
        port: u16,
    ) -> BoxFuture<'a, io::Result<TcpStream>> {
        Box::pin(async move {
            let addresses = match ip {
                Some(ip) => vec![ip],
                None => self.addresses(host).await?,
            };
            let stream = first_of(in_turn(addresses), |address| async move {
                timeout(CONNECT, TcpStream::connect((address, port)))
                    .await
                    .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            })
            .await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        })
    }

    fn addresses<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(Self::addresses(self, host))
    }
}
