//! Resolvers that are peers. The coordinator names them, and they are no more believed than it is.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hickory_proto::op::Message;
use hickory_proto::rr::Name;

use super::zone::{plain_tail, suffixes};

/// The names of the egress allowlist: the coordinator speaks for none of them, nor do its resolvers.
#[derive(Clone, Debug, Default)]
pub(super) struct Allowlist(Arc<HashSet<String>>);

impl Allowlist {
    pub(super) fn new(names: impl Iterator<Item = String>) -> Self {
        Self(Arc::new(names.collect()))
    }

    /// Whether the name, or one above it, is on it.
    pub(super) fn has(&self, name: &str) -> bool {
        !self.0.is_empty() && suffixes(name).any(|suffix| self.0.contains(suffix))
    }
}

/// What holds of resolvers that are peers.
#[derive(Clone, Debug)]
pub(super) struct Peers {
    /// Our own addresses in the network: only from one of these is a peer asked.
    pub(super) own: Arc<[IpAddr]>,
    pub(super) allowlist: Allowlist,
}

impl Peers {
    /// Whether what is asked from here goes into the network. Else the kernel, without an address of ours or without IPv6 on the TUN,
    /// would take the way to everywhere: to a neighbour, who could answer.
    pub(super) fn asked_from(&self, local: SocketAddr) -> io::Result<()> {
        if self.own.contains(&local.ip()) { Ok(()) } else { Err(io::ErrorKind::NetworkUnreachable.into()) }
    }

    /// Whether they may say this: nothing of a name on the allowlist, which a cache on this machine would keep.
    pub(super) fn may_say(&self, reply: &[u8]) -> bool {
        let listed = |name: &Name| self.allowlist.has(&plain_tail(name).0);
        Message::from_vec(reply).is_ok_and(|reply| {
            let sections = [&reply.answers, &reply.authorities, &reply.additionals];
            !sections.into_iter().flatten().any(|record| listed(&record.name))
        })
    }
}
