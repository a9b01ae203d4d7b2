//! The sockets that the node stands on.

use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;

use tracing::info;

use super::NodeError;
use crate::dns;
use crate::sys::{Udp, UdpOptions};

/// The UDP sockets: those that were handed over, or our own. IPv6 may be missing.
pub(super) fn sockets(given: Vec<UdpSocket>, port: u16) -> Result<Vec<Arc<Udp>>, NodeError> {
    let options = UdpOptions { segment: true, gro: true, dont_fragment: false };
    if !given.is_empty() {
        let adopted = given.into_iter().map(|socket| Udp::adopt(socket.into(), options).map(Arc::new));
        return Ok(adopted.collect::<Result<_, _>>()?);
    }
    let v4 = Udp::bind(false, port, options)?;
    let port = v4.local_address()?.port();
    let mut sockets = vec![Arc::new(v4)];
    match Udp::bind(true, port, options) {
        Ok(v6) => sockets.push(Arc::new(v6)),
        Err(error) => info!(%error, "no IPv6"),
    }
    Ok(sockets)
}

/// Where names are asked for.
pub(super) fn listeners(given: Vec<(UdpSocket, TcpListener)>) -> Result<dns::Listeners, NodeError> {
    let mut listeners = dns::Listeners { udp: Vec::new(), tcp: Vec::new() };
    for (udp, tcp) in given {
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        listeners.udp.push(tokio::net::UdpSocket::from_std(udp)?);
        listeners.tcp.push(tokio::net::TcpListener::from_std(tcp)?);
    }
    Ok(listeners)
}
