//! What the node says of itself: one document, on a unix socket, to whoever may open it.
//!
//! A request is one JSON object on a line, `{"command":"status"}`, `{"command":"ping","name":NAME,"count":N,"until_direct":BOOL}`,
//! `{"command":"netcheck"}`, `{"command":"metrics"}` or `{"command":"offer","authkey":KEY}`, a new pre-auth key; the answer is one
//! JSON object on a line, or several for `ping`, whose last has `"end": true`. `metrics` answers in the text format of Prometheus
//! and closes. No answer holds a private key or a pre-auth key.

mod metrics;
mod serve;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::key::{Machine, Node, Public};
use crate::netmap::{NodeId, RegionId};

pub use metrics::metrics;
pub use serve::{Ask, Asked, serve};

/// A request on the status socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// The whole document.
    Status {},
    /// Pings a peer by disco over every path, as `tailscale ping` does.
    Ping {
        /// A peer's name, the first label of it, or an address.
        name: String,
        /// How many, 1 to 1000.
        count: u32,
        /// Stop at the first answer over a direct path.
        #[serde(default)]
        until_direct: bool,
    },
    /// What the relays' STUN servers say of us.
    Netcheck {},
    /// Counters for Prometheus.
    Metrics {},
    /// A pre-auth key to join with from now on, where one is needed; answered by `{}`.
    Offer {
        /// The key.
        authkey: crate::parent::AuthKey,
    },
}

/// The document.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// `starting`, `joining`, `running`, `refused`, `key-needed`, `pin-mismatch` or `no-policy`
    /// ([`crate::parent::message::Standing::word`]).
    pub state: String,
    /// What the server said when it last refused us.
    pub refusal: Option<Refusal>,
    /// Ourselves; `null` before the first map.
    #[serde(rename = "self")]
    pub node: Option<SelfStatus>,
    /// The capability version that we send.
    pub capability_version: u16,
    /// The coordination server.
    pub control: ControlStatus,
    /// The relays.
    pub derp: DerpStatus,
    /// Where we believe to be reachable by UDP.
    pub endpoints: Vec<SocketAddr>,
    /// The peers, by name.
    pub peers: Vec<PeerStatus>,
    /// The packet filter.
    pub filter: FilterStatus,
    /// What went nowhere, by reason: packets, but for `relay-out` (batches), `disco-refused` (messages) and `map-…` (parts of the
    /// server's maps).
    pub drops: BTreeMap<String, u64>,
    /// The names' server.
    pub dns: BTreeMap<String, u64>,
}

/// What the server said when it refused us.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The kind of refusal, in our words.
    pub kind: String,
    /// The server's own text.
    pub text: String,
}

/// Ourselves.
#[derive(Clone, Debug, Serialize)]
pub struct SelfStatus {
    /// Our full name, from the map.
    pub name: String,
    /// Our number.
    pub id: NodeId,
    /// Our node key.
    pub key: Public<Node>,
    /// Our addresses, as the map says.
    pub addresses: Vec<IpNet>,
    /// Why they are not set on the interface, if they are not: then nobody reaches us at those that are new.
    pub addresses_refused: Option<String>,
    /// Our tags.
    pub tags: Vec<String>,
    /// When our key ends, RFC 3339; `null`: never.
    pub key_expiry: Option<String>,
}

/// The coordination server.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ControlStatus {
    /// Whether a map stream is open.
    pub connected: bool,
    /// The server's key.
    pub server_key: Option<Public<Machine>>,
    /// How long ago the last message of it came, in seconds.
    pub last_map_seconds: Option<u64>,
}

/// The relays.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DerpStatus {
    /// Our home region.
    pub home: Option<RegionId>,
    /// The regions that we are connected to.
    pub connected: Vec<RegionId>,
}

/// How a peer is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PathStatus {
    /// Straight.
    Direct {
        /// Its address.
        address: SocketAddr,
        /// The round trip of the last ping, in microseconds.
        latency_us: Option<u64>,
    },
    /// Through a relay.
    Relayed {
        /// The relay's region.
        region: RegionId,
        /// The round trip of the last ping through it, in microseconds; while there is traffic it is measured now and then.
        latency_us: Option<u64>,
    },
    /// Not at all, so far.
    None {},
}

/// One peer.
#[derive(Clone, Debug, Serialize)]
pub struct PeerStatus {
    /// Its full name.
    pub name: String,
    /// Its node key.
    pub key: Public<Node>,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
    /// How it is reached.
    pub path: PathStatus,
    /// How long ago its last handshake was, in seconds.
    pub last_handshake_seconds: Option<u64>,
    /// Bytes from it, without WireGuard's own.
    pub rx_bytes: u64,
    /// Bytes to it, without WireGuard's own.
    pub tx_bytes: u64,
    /// Whether the coordinator sees it.
    pub online: Option<bool>,
}

/// The packet filter.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FilterStatus {
    /// Whether it lets everything in.
    pub allow_all: bool,
    /// How many rules it has.
    pub rules: usize,
    /// What it dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
}

#[cfg(test)]
mod tests;
