//! A node of the tailnet, whoever made it: a test says what both kinds must do.

use std::net::SocketAddr;
use std::time::Duration;

use crate::headscale::{Headscale, KeyFor};
use crate::net::Host;
use crate::ours::Ours;
use crate::process::Process;
use crate::tailscaled::Tailscaled;
use crate::wait::{never, s, until};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Go,
    Ours,
}

/// A node that has joined.
#[derive(Debug)]
pub(crate) enum Peer {
    Go(Tailscaled),
    Ours(Ours),
}

/// How packets go to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    Direct(SocketAddr),
    Relayed,
}

impl Peer {
    /// Starts a node and joins it with a key of its own.
    pub(crate) fn join(kind: Kind, host: &Host, server: &Headscale) -> Self {
        Self::join_with(kind, host, server, &server.key(KeyFor::default()))
    }

    pub(crate) fn join_with(kind: Kind, host: &Host, server: &Headscale, key: &str) -> Self {
        match kind {
            Kind::Go => {
                let node = Tailscaled::start(host, server);
                node.up(server, key).unwrap();
                Self::Go(node)
            }
            Kind::Ours => Self::Ours(Ours::join(host, server, key)),
        }
    }

    pub(crate) const fn host(&self) -> &Host {
        match self {
            Self::Go(node) => &node.host,
            Self::Ours(node) => &node.host,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.host().name
    }

    /// IPv4 and IPv6, in this order.
    pub(crate) fn addresses(&self) -> [String; 2] {
        match self {
            Self::Go(node) => node.addresses(),
            Self::Ours(node) => node.addresses(),
        }
    }

    /// The region of its relay.
    pub(crate) fn home(&self) -> Option<u16> {
        match self {
            Self::Go(node) => node.home(),
            Self::Ours(node) => node.home(),
        }
    }

    pub(crate) fn path_to(&self, address: &str) -> Option<Path> {
        match self {
            Self::Go(node) => node.path_to(address),
            Self::Ours(node) => node.path_to(address),
        }
    }
}

/// That a pair reach each other, and get to send directly both ways.
pub(crate) fn become_direct(a: &Peer, b: &Peer, limit: Duration) {
    let [to_a, to_b] = [&a.addresses()[0], &b.addresses()[0]].map(String::clone);
    let _pinging = pinging(a, &to_b);
    until(limit, &format!("a direct path from {} to {}", a.name(), b.name()), || direct(a, &to_b));
    until(limit, &format!("a direct path from {} to {}", b.name(), a.name()), || direct(b, &to_a));
    // A path is known before there is a session: a first handshake that met none is sent again after 5 s.
    a.host().pings_soon(s(15), &to_b);
    b.host().pings_soon(s(15), &to_a);
}

/// That a pair reach each other, and never but by a relay as long as they are looked at.
pub(crate) fn stay_relayed(a: &Peer, b: &Peer, time: Duration) {
    let [to_a, to_b] = [&a.addresses()[0], &b.addresses()[0]].map(String::clone);
    let _pinging = pinging(a, &to_b);
    until(s(30), "a relayed path", || (a.path_to(&to_b)? == Path::Relayed).then_some(()));
    never(time, "a direct path", || direct(a, &to_b).or_else(|| direct(b, &to_a)));
    assert_eq!((a.path_to(&to_b), b.path_to(&to_a)), (Some(Path::Relayed), Some(Path::Relayed)));
    assert!(a.host().pings(&to_b) && b.host().pings(&to_a), "the relay does not relay");
}

/// Where it sends to directly.
pub(crate) fn direct(from: &Peer, address: &str) -> Option<SocketAddr> {
    match from.path_to(address)? {
        Path::Direct(direct) => Some(direct),
        Path::Relayed => None,
    }
}

/// Traffic, without which nobody looks for a path. There may be no route before the peer is known.
fn pinging(from: &Peer, address: &str) -> Process {
    let script = "until ping -q -c 1 -W 1 \"$1\"; do sleep 0.2; done; exec ping -q -i 0.5 \"$1\"";
    from.host().start("ping", std::path::Path::new("sh"), |sh| {
        sh.args(["-c", script, "sh", address]);
    })
}
