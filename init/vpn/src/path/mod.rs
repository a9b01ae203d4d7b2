//! Where each peer is reached: directly, by a relay, or both while we do not know (tailscale `wgengine/magicsock`).
//!
//! Everything here is pure: events and the time go in, [`Action`]s come out. [`PeerPath`] is the machine of one peer,
//! [`Paths`] holds all of them and looks only at those with something to do.
//!
//! A path is a claim until a pong has come back on it, and a pong is believed for [`TRUST`] only. Until then everything is sent both
//! ways, so that finding a path, losing it and moving to another never interrupts a tunnel.

use std::net::SocketAddr;
use std::time::Duration;

use crate::disco::Message;
use crate::key::{Node, Public};
use crate::netmap::RegionId;

mod candidates;
mod paths;
mod peer;
mod quality;

#[cfg(test)]
mod tests;

pub use paths::{Outcome, PathConfig, Paths, Source};
pub use peer::{Env, PeerConfig, PeerPath};

/// One way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Via {
    /// From the UDP socket to this address.
    Udp(SocketAddr),
    /// Through this region's relay.
    Relay(RegionId),
}

/// Where to send a peer's packets. With both: to both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Its address.
    pub direct: Option<SocketAddr>,
    /// The region that it is reached in.
    pub relay: Option<RegionId>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Seal this for the peer's disco key and send it.
    Disco {
        /// For whom.
        peer: Public<Node>,
        /// Which way.
        to: Via,
        /// What.
        message: Message,
    },
    /// A peer is to be told where we are, and what we know is old: ask the STUN servers, then call [`Paths::set_endpoints`],
    /// also if nothing changed and if none answered.
    NeedEndpoints,
    /// [`Paths::route`] of this peer is another now.
    RouteChanged {
        /// Whose.
        peer: Public<Node>,
    },
}

/// How a peer is reached, for the status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathStatus {
    /// The best direct path that is known, and the last round trip on it.
    pub best: Option<(SocketAddr, Duration)>,
    /// Whether it is believed now: then it is used alone.
    pub trusted: bool,
    /// The region that the peer is reached in.
    pub relay: Option<RegionId>,
    /// The round trip through the relay, if it was ever measured.
    pub relay_latency: Option<Duration>,
    /// Addresses that it may have.
    pub candidates: usize,
    /// Pings of ours that it answered.
    pub pongs: u64,
}

/// For how long a pong is believed (`trustUDPAddrDuration`).
pub const TRUST: Duration = Duration::from_millis(6500);
/// For how long after the last pong what comes out of the tunnel by the same path stands for one (ours): a loaded path loses pongs; one
/// that is dead outwards only is left after this time.
pub const DATA_TRUST: Duration = Duration::from_secs(20);
/// Between two pings through the relay while it carries traffic, for the status (ours).
pub const RELAY_PING: Duration = Duration::from_secs(30);
/// Between two pings on the path in use (`heartbeatInterval`).
pub const HEARTBEAT: Duration = Duration::from_secs(3);
/// A peer without traffic for this long gets no pings (`sessionActiveTimeout`).
pub const SESSION_ACTIVE: Duration = Duration::from_secs(45);
/// Between looks for a better path than a good one (`upgradeUDPDirectInterval`).
pub const UPGRADE: Duration = Duration::from_secs(60);
/// A path so quick that nothing better is looked for (`goodEnoughLatency`).
pub const GOOD_ENOUGH: Duration = Duration::from_millis(5);
/// Between two pings to one address (`discoPingInterval`).
pub const PING_INTERVAL: Duration = Duration::from_secs(5);
/// When a ping is lost (`pingTimeoutDuration`).
pub const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// How old what we tell of our own addresses may be (`endpointsFreshEnoughDuration`).
pub const ENDPOINTS_FRESH: Duration = Duration::from_secs(27);
/// Between two call-me-maybes of a peer that are followed: each may cost a hundred pings (ours).
pub const CALL_INTERVAL: Duration = Duration::from_secs(1);
/// Between two pings that answer a peer's pings (ours).
pub const PING_BACK_INTERVAL: Duration = Duration::from_secs(1);
/// For how long a region that a peer reached us through, and that is not its home, is one to reach it in: peers close such
/// connections when they have sent nothing for this long (`derpInactiveCleanupTime`).
pub const REPLY_ROUTE: Duration = Duration::from_secs(60);
