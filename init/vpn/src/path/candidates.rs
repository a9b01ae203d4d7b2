//! The addresses that a peer may have.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::SESSION_ACTIVE;
use crate::disco::MAX_ENDPOINTS;

/// An address that a peer may have, and who says so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) address: SocketAddr,
    /// The map.
    in_map: bool,
    /// Its last call-me-maybe.
    called: bool,
    /// A ping, a pong or an authentic packet came from there.
    heard: Option<Instant>,
    /// When it was last pinged.
    pub(super) pinged: Option<Instant>,
    /// The shortest round trip of late, and when it was: what traffic adds to it says nothing of the path.
    floor: Option<(Duration, Instant)>,
}

/// At most [`MAX_ENDPOINTS`] of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Candidates(Vec<Candidate>);

impl Candidates {
    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter_mut(&mut self) -> std::slice::IterMut<'_, Candidate> {
        self.0.iter_mut()
    }

    pub(super) fn find(&mut self, address: SocketAddr) -> Option<&mut Candidate> {
        self.0.iter_mut().find(|candidate| candidate.address == address)
    }

    /// The round trip that a path of this address is judged by; `None`: it was never measured.
    pub(super) fn floor(&self, address: SocketAddr) -> Option<Duration> {
        let candidate = self.0.iter().find(|candidate| candidate.address == address)?;
        candidate.floor.map(|(latency, _)| latency)
    }

    /// The one whose turn it is.
    pub(super) fn nth(&self, turn: usize) -> Option<SocketAddr> {
        self.0.get(turn.checked_rem(self.0.len())?).map(|candidate| candidate.address)
    }

    /// What the map says now.
    pub(super) fn set_map(&mut self, addresses: &[SocketAddr]) {
        for candidate in &mut self.0 {
            candidate.in_map = false;
        }
        for address in addresses {
            if let Some(candidate) = self.enter(*address) {
                candidate.in_map = true;
            }
        }
    }

    /// What the peer says now.
    pub(super) fn set_called(&mut self, addresses: &[SocketAddr]) {
        for candidate in &mut self.0 {
            candidate.called = false;
        }
        for address in addresses {
            if let Some(candidate) = self.enter(*address) {
                candidate.called = true;
            }
        }
    }

    /// Something of the peer came from there.
    pub(super) fn heard(&mut self, now: Instant, address: SocketAddr) -> Option<&mut Candidate> {
        let candidate = self.enter(address)?;
        candidate.heard = Some(now);
        Some(candidate)
    }

    /// Drops what nobody says any more, but not `keep`.
    pub(super) fn prune(&mut self, now: Instant, keep: Option<SocketAddr>) {
        self.0.retain(|candidate| {
            let heard = candidate.heard.is_some_and(|at| now.duration_since(at) < SESSION_ACTIVE);
            candidate.in_map || candidate.called || heard || keep == Some(candidate.address)
        });
    }

    /// Forgets what is not from the map, and everything that was measured.
    pub(super) fn forget(&mut self) {
        self.0.retain(|candidate| candidate.in_map);
        for candidate in &mut self.0 {
            *candidate = Candidate { in_map: true, ..Candidate::new(candidate.address) };
        }
    }

    fn enter(&mut self, address: SocketAddr) -> Option<&mut Candidate> {
        let at = self.0.iter().position(|candidate| candidate.address == address);
        if let Some(at) = at {
            return self.0.get_mut(at);
        }
        if self.0.len() >= MAX_ENDPOINTS {
            // What only pings speak for makes room, the oldest first; of what answered ours none, while there is another: a ping can
            // be kept and sent again from anywhere.
            let loose = |candidate: &(usize, &Candidate)| !candidate.1.in_map && !candidate.1.called;
            let worth = |(_, candidate): &(usize, &Candidate)| (candidate.floor.is_some(), candidate.heard);
            let (at, _) = self.0.iter().enumerate().filter(loose).min_by_key(worth)?;
            self.0.swap_remove(at);
        }
        self.0.push(Candidate::new(address));
        self.0.last_mut()
    }
}

impl Candidate {
    const fn new(address: SocketAddr) -> Self {
        Self { address, in_map: false, called: false, heard: None, pinged: None, floor: None }
    }

    /// A pong came after this long.
    pub(super) fn measured(&mut self, now: Instant, latency: Duration) {
        self.heard = Some(now);
        let holds =
            self.floor.is_some_and(|(floor, at)| floor < latency && now.duration_since(at) < FLOOR_AGE);
        if !holds {
            self.floor = Some((latency, now));
        }
    }

    /// In another network nothing of it holds.
    pub(super) const fn forget_measures(&mut self) {
        self.pinged = None;
        self.floor = None;
    }
}

/// For how long the shortest round trip stands for an address: longer than most transfers, shorter than a detour is bearable.
const FLOOR_AGE: Duration = Duration::from_secs(300);

/// An address as our sockets say it: an IPv4 address that is written as IPv6 is that IPv4 address.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}

/// Whether a peer can be at an address: not inside the tailnet itself (that would be a tunnel in a tunnel), and one that a datagram
/// can be sent to without knowing an interface.
pub(super) fn is_usable(address: SocketAddr, excluded: &[IpNet]) -> bool {
    let ip = address.ip();
    let odd = match ip {
        IpAddr::V4(ip) => ip.is_broadcast() || ip.is_multicast() || ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_multicast() || ip.is_unspecified() || ip.is_unicast_link_local(),
    };
    address.port() != 0 && !odd && !excluded.iter().any(|net| net.contains(&ip))
}
