//! The JSON of `/key`, `/machine/register` and `/machine/map` (tailscale `tailcfg/tailcfg.go`).
//!
//! What we send is exactly what these types say. What we read is hostile and of many versions: unknown fields are skipped, `null`
//! is absence, texts are owned and judged where they are used ([`super::map`]). Lists have bounds here already ([`List`]): a message
//! is at most [`super::client::MAX_FRAME`] bytes, and must not become many times that.

mod bad;
mod list;

use std::net::SocketAddr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

pub use bad::BadJson;
pub use list::{List, Table};

use super::CAPABILITY_VERSION;
use crate::key::{Disco, Machine, Node, Public};
use crate::netmap::RegionId;

/// More peers than a tailnet has: what a hostile map can make us look at.
pub const MAX_PEERS: usize = 50_000;
/// Endpoints of one node: many times what any has.
pub const MAX_ENDPOINTS: usize = 64;
/// Addresses of one node; it has one of each family.
pub const MAX_ADDRESSES: usize = 16;
/// Addresses and routes of one node.
pub const MAX_ALLOWED: usize = 256;
/// Tags of one node.
pub const MAX_TAGS: usize = 16;
/// Relay regions: the public Tailscale has some thirty, of a few servers each.
pub const MAX_REGIONS: usize = 256;
/// Relays of one region.
pub const MAX_RELAYS: usize = 32;
/// Domains, resolvers, routes, records.
pub const MAX_DNS: usize = 4096;
/// Resolvers of one suffix.
pub const MAX_RESOLVERS: usize = 64;

/// Go's zero time: never.
pub const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// The answer of `/key` (`OverTLSPublicKeyResponse`).
#[derive(Clone, Debug, Deserialize)]
pub struct ServerKeys {
    /// The server's Noise key.
    #[serde(rename = "publicKey")]
    pub public_key: Public<Machine>,
}

/// How an endpoint became known (`EndpointType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointType {
    /// An address of our own.
    Local = 1,
    /// What a STUN server sees.
    Stun = 2,
    /// What a router gave.
    PortMapped = 3,
    /// What a STUN server sees, with our local port.
    StunLocalPort = 4,
    /// Configured.
    Explicit = 5,
}

impl Serialize for EndpointType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(*self as u8)
    }
}

/// What we say of our network (`NetInfo`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NetInfo {
    /// Our home relay; 0: none.
    #[serde(rename = "PreferredDERP")]
    pub preferred_derp: u32,
    /// Whether UDP gets out.
    #[serde(rename = "WorkingUDP")]
    pub working_udp: bool,
}

/// What we say of ourselves (`Hostinfo`). It is complete in each request: later versions overwrite what they had. There are no
/// request tags in it, ever: Headscale from 0.28 on refuses them beside a pre-auth key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Hostinfo {
    /// Go's log id; Headscale wants some text.
    #[serde(rename = "BackendLogID")]
    pub backend_log_id: &'static str,
    /// The program's version.
    #[serde(rename = "IPNVersion")]
    pub ipn_version: &'static str,
    /// The system.
    #[serde(rename = "OS")]
    pub os: &'static str,
    /// Our name, a DNS label.
    pub hostname: String,
    /// The machine, in Go's word.
    pub go_arch: &'static str,
    /// Our network.
    pub net_info: NetInfo,
}

impl Hostinfo {
    /// What we say of ourselves under this name, with this home relay; `working_udp`: whether UDP gets out.
    pub fn new(hostname: &str, home: Option<RegionId>, working_udp: bool) -> Self {
        Self {
            backend_log_id: "casemate",
            ipn_version: concat!("casemate-", env!("CARGO_PKG_VERSION")),
            os: "linux",
            hostname: hostname.to_owned(),
            go_arch: match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            },
            net_info: NetInfo { preferred_derp: home.map_or(0, |region| region.0), working_udp },
        }
    }
}

/// A request to join (`RegisterRequest`).
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RegisterRequest<'a> {
    version: u16,
    node_key: Public<Node>,
    old_node_key: Public<Node>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth: Option<Auth<'a>>,
    expiry: &'static str,
    followup: &'static str,
    ephemeral: bool,
    hostinfo: &'a Hostinfo,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Auth<'a> {
    auth_key: &'a str,
}

impl<'a> RegisterRequest<'a> {
    /// Asks to join, or whether we belong already. It never has an expiry: that would log us out, and a tagged node that logged
    /// out stays locked out.
    pub fn new(
        node_key: Public<Node>,
        old_node_key: Option<Public<Node>>,
        auth_key: Option<&'a str>,
        hostinfo: &'a Hostinfo,
    ) -> Self {
        Self {
            version: CAPABILITY_VERSION,
            node_key,
            old_node_key: old_node_key.unwrap_or(Public::zero()),
            auth: auth_key.map(|auth_key| Auth { auth_key }),
            expiry: ZERO_TIME,
            followup: "",
            ephemeral: false,
            hostinfo,
        }
    }
}

/// The answer (`RegisterResponse`). `200` also when it refuses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RegisterResponse {
    /// The node key has ended; a new one is needed.
    #[serde(deserialize_with = "null_is_default")]
    pub node_key_expired: bool,
    /// We belong to the network.
    #[serde(deserialize_with = "null_is_default")]
    pub machine_authorized: bool,
    /// Where a person would have to log in: we are not known.
    #[serde(rename = "AuthURL", deserialize_with = "null_is_default")]
    pub auth_url: String,
    /// Why not.
    #[serde(deserialize_with = "null_is_default")]
    pub error: String,
}

/// A request for the map, or an update of what the server knows of us (`MapRequest`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct MapRequest<'a> {
    version: u16,
    compress: &'static str,
    keep_alive: bool,
    node_key: Public<Node>,
    disco_key: Public<Disco>,
    endpoints: Vec<SocketAddr>,
    endpoint_types: Vec<EndpointType>,
    stream: bool,
    omit_peers: bool,
    hostinfo: &'a Hostinfo,
}

impl<'a> MapRequest<'a> {
    /// What the server should know of us, without asking for anything (a "lite update").
    pub fn update(
        node_key: Public<Node>,
        disco_key: Public<Disco>,
        endpoints: &[(SocketAddr, EndpointType)],
        hostinfo: &'a Hostinfo,
    ) -> Self {
        Self {
            version: CAPABILITY_VERSION,
            compress: "",
            keep_alive: true,
            node_key,
            disco_key,
            endpoints: endpoints.iter().map(|(address, _)| *address).collect(),
            endpoint_types: endpoints.iter().map(|(_, kind)| *kind).collect(),
            stream: false,
            omit_peers: true,
            hostinfo,
        }
    }

    /// The same, asking for the stream of maps.
    #[must_use]
    pub fn streaming(self) -> Self {
        Self { stream: true, omit_peers: false, ..self }
    }
}

/// One message of the map stream (`MapResponse`). What is absent is unchanged.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct MapResponse {
    /// Nothing but a sign of life.
    #[serde(deserialize_with = "null_is_default")]
    pub keep_alive: bool,
    /// Ourselves.
    pub node: Option<Box<WireNode>>,
    /// All peers, if not empty.
    pub peers: Option<List<WirePeer, MAX_PEERS>>,
    /// Peers that are new or changed.
    pub peers_changed: Option<List<WirePeer, MAX_PEERS>>,
    /// Peers that are gone.
    pub peers_removed: Option<List<u64, MAX_PEERS>>,
    /// Parts of peers that changed.
    pub peers_changed_patch: Option<List<PeerPatch, MAX_PEERS>>,
    /// Peers that came or went.
    pub online_change: Option<Table<u64, bool, MAX_PEERS>>,
    /// The relays.
    #[serde(rename = "DERPMap")]
    pub derp_map: Option<WireDerpMap>,
    /// Names.
    #[serde(rename = "DNSConfig")]
    pub dns_config: Option<WireDns>,
    /// The packet filter "base", as it was written before there were several.
    pub packet_filter: Option<Box<RawValue>>,
    /// Packet filters by name; `null` deletes. Read apart, so that what is no object denies and does not end the stream.
    pub packet_filters: Option<Box<RawValue>>,
    /// A sign of life asked of us.
    pub ping_request: Option<PingRequest>,
    /// The server's clock.
    pub control_time: Option<String>,
}

/// A peer of a list, which may not read as one.
#[derive(Clone, Debug)]
pub enum WirePeer {
    /// It reads.
    Node(Box<WireNode>),
    /// It does not, but its number does: whoever had that number is not what it was.
    Unreadable(u64),
}

impl<'de> Deserialize<'de> for WirePeer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Number {
            #[serde(rename = "ID")]
            id: u64,
        }
        let text = <&RawValue>::deserialize(deserializer)?.get();
        serde_json::from_str(text)
            .map(Self::Node)
            .or_else(|_| serde_json::from_str(text).map(|Number { id }| Self::Unreadable(id)))
            .map_err(serde::de::Error::custom)
    }
}

/// A node, ourselves or a peer (`Node`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct WireNode {
    /// Its number.
    #[serde(rename = "ID", deserialize_with = "null_is_default")]
    pub id: u64,
    /// Its name, with a dot at its end.
    #[serde(deserialize_with = "null_is_default")]
    pub name: String,
    /// Its key.
    #[serde(deserialize_with = "null_is_default")]
    pub key: String,
    /// When the key ends.
    pub key_expiry: Option<String>,
    /// Its disco key.
    pub disco_key: Option<String>,
    /// Its addresses.
    #[serde(deserialize_with = "null_is_default")]
    pub addresses: List<String, MAX_ADDRESSES>,
    /// What it may send from; absent: its addresses.
    #[serde(rename = "AllowedIPs")]
    pub allowed_ips: Option<List<String, MAX_ALLOWED>>,
    /// Where it may be reached.
    #[serde(deserialize_with = "null_is_default")]
    pub endpoints: List<String, MAX_ENDPOINTS>,
    /// Its home relay.
    #[serde(rename = "HomeDERP")]
    pub home_derp: Option<i64>,
    /// Its home relay as it was written before capability 111.
    #[serde(rename = "DERP")]
    pub derp: Option<String>,
    /// Its tags.
    #[serde(deserialize_with = "null_is_default")]
    pub tags: List<String, MAX_TAGS>,
    /// Whether the server sees it.
    pub online: Option<bool>,
    /// Whether its key has ended.
    #[serde(deserialize_with = "null_is_default")]
    pub expired: bool,
}

/// What changed of a peer (`PeerChange`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PeerPatch {
    /// Which.
    #[serde(rename = "NodeID", deserialize_with = "null_is_default")]
    pub node_id: u64,
    /// Its home relay; 0 or absent: as it was.
    #[serde(rename = "DERPRegion")]
    pub derp_region: Option<i64>,
    /// Where it may be reached; empty or absent: as it was.
    pub endpoints: Option<List<String, MAX_ENDPOINTS>>,
    /// Its new key.
    pub key: Option<String>,
    /// Its new disco key.
    pub disco_key: Option<String>,
    /// Whether the server sees it.
    pub online: Option<bool>,
    /// When its key ends.
    pub key_expiry: Option<String>,
}

/// The relays (`DERPMap`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct WireDerpMap {
    /// By number; `null`: no such region.
    #[serde(deserialize_with = "null_is_default")]
    pub regions: Table<u32, Option<WireDerpRegion>, MAX_REGIONS>,
    /// What home is chosen by.
    pub home_params: Option<HomeParams>,
}

/// What home is chosen by (`DERPHomeParams`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HomeParams {
    /// What a region's latency is multiplied with.
    pub region_score: Option<Table<u32, f64, MAX_REGIONS>>,
}

/// A region (`DERPRegion`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct WireDerpRegion {
    /// Its short name.
    #[serde(deserialize_with = "null_is_default")]
    pub region_code: String,
    /// Not to be used as home.
    #[serde(deserialize_with = "null_is_default")]
    pub avoid: bool,
    /// Not to be measured and not to be used as home.
    #[serde(deserialize_with = "null_is_default")]
    pub no_measure_no_home: bool,
    /// Its servers.
    #[serde(deserialize_with = "null_is_default")]
    pub nodes: List<WireDerpNode, MAX_RELAYS>,
}

/// A relay server (`DERPNode`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct WireDerpNode {
    /// Its name.
    #[serde(deserialize_with = "null_is_default")]
    pub name: String,
    /// Its host name.
    #[serde(deserialize_with = "null_is_default")]
    pub host_name: String,
    /// What its certificate must be.
    #[serde(deserialize_with = "null_is_default")]
    pub cert_name: String,
    /// Its IPv4 address, or `none`.
    #[serde(rename = "IPv4", deserialize_with = "null_is_default")]
    pub ipv4: String,
    /// Its IPv6 address, or `none`.
    #[serde(rename = "IPv6", deserialize_with = "null_is_default")]
    pub ipv6: String,
    /// Its STUN port; 0: 3478, -1: none.
    #[serde(rename = "STUNPort", deserialize_with = "null_is_default")]
    pub stun_port: i64,
    /// Only STUN.
    #[serde(rename = "STUNOnly", deserialize_with = "null_is_default")]
    pub stun_only: bool,
    /// Its port; 0: 443.
    #[serde(rename = "DERPPort", deserialize_with = "null_is_default")]
    pub derp_port: i64,
    /// Its certificate is not checked, in tests.
    #[serde(deserialize_with = "null_is_default")]
    pub insecure_for_tests: bool,
}

/// Names (`DNSConfig`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct WireDns {
    /// Whether the node answers names itself.
    #[serde(deserialize_with = "null_is_default")]
    pub proxied: bool,
    /// Search domains.
    #[serde(deserialize_with = "null_is_default")]
    pub domains: List<String, MAX_DNS>,
    /// Resolvers for everything.
    #[serde(deserialize_with = "null_is_default")]
    pub resolvers: List<WireResolver, MAX_RESOLVERS>,
    /// Resolvers by suffix.
    #[serde(deserialize_with = "null_is_default")]
    pub routes: Table<String, Option<List<WireResolver, MAX_RESOLVERS>>, MAX_DNS>,
    /// Further records.
    #[serde(deserialize_with = "null_is_default")]
    pub extra_records: List<WireRecord, MAX_DNS>,
}

/// A resolver (`dnstype.Resolver`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct WireResolver {
    /// Its address, as a text.
    #[serde(deserialize_with = "null_is_default")]
    pub addr: String,
}

/// A further record (`DNSRecord`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct WireRecord {
    /// Its name.
    #[serde(deserialize_with = "null_is_default")]
    pub name: String,
    /// Its type.
    #[serde(rename = "Type", deserialize_with = "null_is_default")]
    pub kind: String,
    /// Its value.
    #[serde(deserialize_with = "null_is_default")]
    pub value: String,
}

/// A sign of life asked of us (`PingRequest`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PingRequest {
    /// Where to answer.
    #[serde(rename = "URL", deserialize_with = "null_is_default")]
    pub url: String,
    /// Whether the answer goes through the tunnel.
    #[serde(rename = "URLIsNoise", deserialize_with = "null_is_default")]
    pub url_is_noise: bool,
    /// What is asked; empty: a HEAD of the URL.
    #[serde(deserialize_with = "null_is_default")]
    pub types: String,
}

/// Reads `null` as what absence means.
fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}
