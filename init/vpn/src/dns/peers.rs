//! Resolvers that are peers. The coordinator names them, and they are no more believed than it is.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What holds of resolvers that are peers.
#[derive(Clone, Debug)]
pub(super) struct Peers {
    /// Our own addresses in the network: only from one of these is a peer asked.
    pub(super) own: Arc<[IpAddr]>,
}

impl Peers {
    /// Whether what is asked from here goes into the network. Else the kernel, without an address of ours or without IPv6 on the TUN,
    /// would take the way to everywhere: to a neighbour, who could answer.
    pub(super) fn asked_from(&self, local: SocketAddr) -> io::Result<()> {
        if self.own.contains(&local.ip()) { Ok(()) } else { Err(io::ErrorKind::NetworkUnreachable.into()) }
    }
}
