//! What a node knows of its network: the coordination server's map, read, checked and held together.
//!
//! [`crate::control`] makes it from the map stream; everything else only reads it. Nothing in it is trusted further than its
//! type says: names are names, addresses are addresses, and a filter that did not parse denies.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;

use crate::filter::Filter;
use crate::key::{Disco, Node, Public};

/// A node's number. The coordinator may give it to another node later: peers are known by their key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u64);

/// A DERP region's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RegionId(pub u32);

/// The whole map.
#[derive(Clone, Debug)]
pub struct Netmap {
    /// Ourselves.
    pub node: Arc<TailnetNode>,
    /// The others that we may talk to, in the order of their numbers. Expired peers are here, without addresses.
    pub peers: Arc<BTreeMap<NodeId, Arc<TailnetNode>>>,
    /// The relays.
    pub derp: Arc<DerpMap>,
    /// What the coordinator says about names.
    pub dns: Arc<DnsConfig>,
    /// What peers may send us.
    pub filter: Arc<Filter>,
    /// The texts that the filter was compiled from, by name: what a restart compiles it from again.
    pub filters: Arc<NamedFilters>,
}

/// Packet filters as the coordinator sent them, by name; they hold together, in the order of their names.
pub type NamedFilters = BTreeMap<String, Box<RawValue>>;

/// One node: ourselves or a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TailnetNode {
    /// Its number.
    pub id: NodeId,
    /// Its WireGuard key.
    pub key: Public<Node>,
    /// Its disco key; `None` while the coordinator knows none.
    pub disco: Option<Public<Disco>>,
    /// Its full name in lower case, without the last dot.
    pub name: String,
    /// Its own addresses.
    pub addresses: Vec<IpNet>,
    /// What it may send from: those of its addresses that the coordinator names for it. Never a route beyond them.
    pub allowed: Vec<IpNet>,
    /// Where it may be reached by UDP, as it said itself.
    pub endpoints: Vec<SocketAddr>,
    /// The relay that it listens at.
    pub home: Option<RegionId>,
    /// Whether the coordinator sees it; never a reason not to send.
    pub online: Option<bool>,
    /// Its tags.
    pub tags: Vec<String>,
    /// When its key ends; `None`: never.
    #[serde(with = "time::serde::timestamp::option")]
    pub key_expiry: Option<OffsetDateTime>,
    /// Whether its key has ended, by the coordinator's word or by the clock.
    pub expired: bool,
}

/// The relays, by region.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DerpMap {
    /// The regions.
    pub regions: BTreeMap<RegionId, DerpRegion>,
}

/// One region: its servers are meshed, any of them will do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DerpRegion {
    /// Its number.
    pub id: RegionId,
    /// Its short name.
    pub code: String,
    /// Not to be taken as home (`NoMeasureNoHome`, or `Avoid`).
    pub not_home: bool,
    /// What its latency is multiplied with in the choice of home, in thousandths (`HomeParams.RegionScore`).
    pub score_milli: u32,
    /// Its servers, in the order to try.
    pub nodes: Vec<DerpNode>,
}

/// One relay server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DerpNode {
    /// Its name in the map.
    pub name: String,
    /// Its host name, for TLS and for looking it up.
    pub host: String,
    /// Its IPv4 address, if given; `None`: look the host up.
    pub ipv4: Option<IpAddr>,
    /// Its IPv6 address, if given.
    pub ipv6: Option<IpAddr>,
    /// It has no IPv4 address, also none by its name (`IPv4` is `none`, or no address).
    #[serde(default)]
    pub without_ipv4: bool,
    /// It has no IPv6 address, also none by its name.
    #[serde(default)]
    pub without_ipv6: bool,
    /// Its HTTPS port (`DERPPort`, 443 if absent).
    pub derp_port: u16,
    /// Its STUN port (`STUNPort`, 3478 if absent); `None`: it has none (-1).
    pub stun_port: Option<u16>,
    /// It answers STUN only.
    pub stun_only: bool,
    /// SHA-256 of its certificate (`CertName: "sha256-raw:…"`).
    pub pin: Option<[u8; 32]>,
    /// A name that its certificate must carry instead of `host` (`CertName`).
    pub cert_name: Option<String>,
    /// `InsecureForTests`: its certificate is not checked; honoured only under the test option.
    pub insecure_for_tests: bool,
}

/// What the coordinator says about names. Hostile input: [`crate::dns`] decides what of it is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsConfig {
    /// Whether the node answers names itself (`Proxied`).
    pub magic: bool,
    /// Search domains; the first is the tailnet's base domain.
    pub domains: Vec<String>,
    /// Resolvers for everything, as texts.
    pub resolvers: Vec<String>,
    /// Resolvers by suffix; an empty list: answered here.
    pub routes: BTreeMap<String, Vec<String>>,
    /// Further records: name, type (empty: by the value), value.
    pub extra_records: Vec<ExtraRecord>,
}

/// One further record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraRecord {
    /// The name, without the last dot.
    pub name: String,
    /// `A`, `AAAA` or empty.
    pub kind: String,
    /// The value.
    pub value: String,
}
