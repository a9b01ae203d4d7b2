//! TCP to the coordination server and the relays. Names are asked of the configured resolvers, never of the C library.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::dial::{BoxFuture, Dial, first_of, in_turn};
use crate::dns::{Authenticated, lookup};
use crate::parent::Requests;

/// How long one address may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a look-up may take. Its own limit: what connects afterwards has its own.
const LOOK_UP: Duration = Duration::from_secs(6);

/// Dials, with its resolvers.
#[derive(Clone, Debug)]
pub(super) struct Dialer {
    resolvers: Vec<SocketAddr>,
    authenticated: Option<Authenticated>,
    locked: Option<Locked>,
}

/// The host that the parent must hear the addresses of before they are connected to.
#[derive(Clone, Debug)]
pub(super) struct Locked {
    /// The coordination server's name.
    pub(super) host: String,
    /// Who holds the lock.
    pub(super) parent: Arc<Requests>,
}

impl Dialer {
    /// With authenticated resolvers, nobody else is asked.
    pub(super) const fn new(
        resolvers: Vec<SocketAddr>,
        authenticated: Option<Authenticated>,
        locked: Option<Locked>,
    ) -> Self {
        Self { resolvers, authenticated, locked }
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
        if let Some(authenticated) = &self.authenticated {
            return timeout(LOOK_UP, authenticated.lookup(host)).await.unwrap_or_else(|_| {
                Err(io::Error::new(io::ErrorKind::TimedOut, format!("{host}: no resolver answers")))
            });
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

    /// Where a host may be connected to: of the locked one, where the parent lets us. Asked anew for each connection, so that no answer
    /// is older than that.
    async fn reachable(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let found = self.addresses(host).await?;
        let Some(locked) = self.locked.as_ref().filter(|locked| locked.host.eq_ignore_ascii_case(host))
        else {
            return Ok(found);
        };
        let v4 = |address: &IpAddr| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        };
        let open: Vec<Ipv4Addr> = found.iter().filter_map(v4).collect();
        if open.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("{host}: expected an IPv4 address, found only IPv6"),
            ));
        }
        let (parent, told) = (Arc::clone(&locked.parent), open.clone());
        // It waits for the answer.
        tokio::task::spawn_blocking(move || parent.set_server(&told))
            .await
            .map_err(io::Error::other)?
            .map_err(|error| io::Error::other(format!("{host}: {error}")))?;
        Ok(open.into_iter().map(IpAddr::V4).collect())
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
                None => self.reachable(host).await?,
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]
    use std::os::unix::net::UnixDatagram;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use tokio::net::TcpListener;

    use super::*;
    use crate::parent::message::{Answer, LONGEST, Message};
    use crate::parent::network::Refusal;

    fn dialer() -> (Dialer, UnixDatagram) {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::empty()).unwrap();
        let parent = Arc::new(Requests::new(ours));
        let locked = Locked { host: "localhost".to_owned(), parent };
        (Dialer::new(Vec::new(), None, Some(locked)), UnixDatagram::from(theirs))
    }

    /// The parent's part: answers one request so, and gives what was asked for.
    fn answer(parent: &UnixDatagram, outcome: Result<(), Refusal>) -> Vec<Ipv4Addr> {
        let mut bytes = [0; LONGEST];
        let length = parent.recv(&mut bytes).unwrap();
        let Message::SetServer(asked) = Message::decode(&bytes[..length]).unwrap() else {
            panic!("another message")
        };
        parent.send(&Answer { sequence: asked.sequence, outcome }.encode()).unwrap();
        asked.addresses
    }

    #[tokio::test]
    async fn the_lock_is_opened_before_the_server_is_connected_to() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for outcome in [Ok(()), Err(Refusal::Nowhere)] {
            let (dialer, parent) = dialer();
            let told = tokio::task::spawn_blocking(move || answer(&parent, outcome));
            let dialled = dialer.dial("localhost", None, port).await;
            assert_eq!(told.await.unwrap(), [Ipv4Addr::LOCALHOST]);
            match outcome {
                Ok(()) => drop((dialled.unwrap(), listener.accept().await.unwrap())),
                Err(_) => {
                    let error = dialled.unwrap_err().to_string();
                    assert!(error.contains("no place outside"), "{error}");
                    let nobody = timeout(Duration::from_millis(200), listener.accept()).await;
                    assert!(nobody.is_err(), "connected all the same");
                }
            }
        }
    }

    #[tokio::test]
    async fn other_hosts_are_no_business_of_the_parents() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (dialer, parent) = dialer();
        parent.set_nonblocking(true).unwrap();
        dialer.dial("127.0.0.1", None, port).await.unwrap();
        dialer.dial("localhost", Some(Ipv4Addr::LOCALHOST.into()), port).await.unwrap();
        assert!(parent.recv(&mut [0; LONGEST]).is_err());
    }
}
