//! Listening sockets.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener as StdListener};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen as start, setsockopt, socket,
    sockopt,
};
use tokio::net::{TcpListener, TcpStream};

use crate::{MeshError, limits};

/// Listens on all addresses: one socket for IPv6 and IPv4, whatever `net.ipv6.bindv6only` says; IPv4 alone where the
/// kernel has no IPv6.
pub(crate) fn listen(port: u16) -> Result<StdListener, MeshError> {
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    match open(both) {
        Ok(listener) => Ok(listener),
        Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) => {
            open(v4).map_err(|errno| MeshError::Listen { address: v4, source: errno.into() })
        }
        Err(errno) => Err(MeshError::Listen { address: both, source: errno.into() }),
    }
}

fn open(address: SocketAddr) -> Result<StdListener, Errno> {
    let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Stream, flags, None)?;
    // A restarted mesh must not wait for the connections of its predecessor.
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &false)?;
    }
    bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &SockaddrStorage::from(address))?;
    start(&fd, Backlog::new(limits::BACKLOG)?)?;
    Ok(StdListener::from(fd))
}

/// The next connection, its peer's address with IPv4 written as IPv4. Errors of a single connection, and a want of
/// descriptors or memory, do not end the listener.
pub(crate) async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%peer, %error, "the connection ended before it was accepted");
                    continue;
                }
                return (stream, plain(peer));
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "accepting connections pauses");
                tokio::time::sleep(limits::ACCEPT_RETRY).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

fn plain(peer: SocketAddr) -> SocketAddr {
    match peer {
        SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some() => {
            SocketAddr::new(SocketAddrV6::ip(&v6).to_canonical(), v6.port())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ipv4_reaches_the_listener_and_looks_like_ipv4() {
        let listener = listen(0).unwrap();
        let port = listener.local_addr().unwrap().port();
        let listener = TcpListener::from_std(listener).unwrap();
        let (client, accepted) =
            tokio::join!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)), accept(&listener));
        assert_eq!(accepted.1, client.unwrap().local_addr().unwrap());
    }

    #[test]
    fn a_port_in_use_is_named() {
        let first = listen(0).unwrap();
        let port = first.local_addr().unwrap().port();
        let error = listen(port).unwrap_err();
        assert!(error.to_string().contains(&format!(":{port}")), "{error}");
    }
}
