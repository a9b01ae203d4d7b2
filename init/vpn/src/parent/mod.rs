//! The contract between the process and its parent: PID 1 in the guest, a small privileged process of `casemate-init vpn` elsewhere.
//!
//! The process has no privileges. Its parent makes the TUN, sets addresses and routes, keeps what must survive a restart and
//! binds what needs a privilege. It hands over a [`Config`] and descriptors ([`Handover`]); afterwards the two speak in messages of
//! fixed sizes ([`message`]), of which the parent trusts none.

pub mod message;
pub mod network;
mod requests;
pub mod slots;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::key::{Machine, Public};
use crate::registration::Registration;

pub use requests::{RequestError, Requests};

/// What the process is told: the JSON document of its handover.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Who coordinates the network.
    pub login_server: LoginServer,
    /// The name that the node asks for; a DNS label.
    pub hostname: String,
    /// Where addresses of the network may lie. What the server says outside of them is not believed.
    pub prefixes: Vec<IpNet>,
    /// SHA-256 of relays' certificates by host name, 64 hex digits each.
    pub derp_pins: BTreeMap<String, String>,
    /// Whether a network whose policy allows everything is refused.
    pub require_policy: bool,
    /// The tag that the map should show for this node.
    pub expected_tag: Option<String>,
    /// The TUN's name, for logs.
    pub interface: String,
    /// The UDP port that peers send to; 0: any.
    pub port: u16,
    /// The TUN's MTU.
    pub mtu: u16,
    /// Whether the TUN takes IPv6.
    pub ipv6: bool,
    /// Names.
    pub dns: Dns,
    /// Roots in PEM instead of the built-in ones.
    pub roots: Option<String>,
    /// Where the identity comes from.
    pub keys: Keys,
    /// Tests only: relays are spoken to in plain HTTP (Go: `TS_DEBUG_USE_DERP_HTTP`).
    pub debug_use_derp_http: bool,
    /// Which descriptors follow.
    pub descriptors: Descriptors,
}

/// The coordination server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoginServer {
    /// Its URL, `https://…` or `http://…`; empty: as the registration says.
    pub url: String,
    /// Its pinned Noise key; `None`: as the registration says, or `/key`.
    pub noise_key: Option<Public<Machine>>,
    /// What registers the node; `None`: only what is kept, or what the registration gives.
    pub authkey: Option<AuthKey>,
    /// Whether `http://` may go to another machine.
    pub plain_http: bool,
    /// Whether the parent locks the way to it: it must hear where the URL's name leads before we connect there.
    #[serde(default)]
    pub locked: bool,
}

/// A pre-auth key, which no log shows.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AuthKey(Zeroizing<String>);

impl AuthKey {
    /// The key of this text.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text, for the one request that it is for.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AuthKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthKey(…)")
    }
}

/// Where machine, node and disco key come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "snake_case", deny_unknown_fields)]
pub enum Keys {
    /// Made here, and kept in the slots.
    Random,
    /// Asked of the guest agent, so that they survive a new deployment: `GetKey("casemate/vpn/<instance_id>/machine")` and
    /// `…/node/<generation>`.
    Agent {
        /// The agent's socket.
        socket: PathBuf,
        /// Which instance.
        instance_id: String,
    },
}

/// How names are answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// Whether names are answered at all.
    pub listen: bool,
    /// Who is asked about names outside the network.
    pub resolvers: Vec<SocketAddr>,
    /// Whether nobody is.
    pub internal_only: bool,
    /// Names that the network may never claim.
    pub allowlist: Vec<String>,
    /// Who is asked, over TLS, where the coordination server and relays are, and then nobody else is; empty: `resolvers` are.
    #[serde(default)]
    pub authenticated: Vec<Resolver>,
}

/// A resolver that speaks DNS over TLS (RFC 7858).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resolver {
    /// Where it listens.
    pub address: SocketAddr,
    /// The name that its certificate carries.
    pub name: String,
}

/// What follows the report descriptor, in this order: the state, the status socket, for each DNS address a UDP socket and then a TCP
/// listener, the TUN's queues, the registration's document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Descriptors {
    /// A listener for status questions.
    pub status: bool,
    /// UDP sockets that peers send to, bound and with their buffers set; 0: the process opens its own.
    pub udp: usize,
    /// Addresses of names' sockets.
    pub dns: Vec<SocketAddr>,
    /// Queues of the TUN.
    pub queues: usize,
    /// A [`Registration`] in JSON.
    #[serde(default)]
    pub registration: bool,
}

/// Everything that is handed over.
#[derive(Debug)]
pub struct Handover {
    /// What to do.
    pub config: Config,
    /// What survives a restart: [`slots::Slots`].
    pub state: OwnedFd,
    /// The way to the parent. Shared with readiness and heartbeats; nobody else reads it.
    pub requests: Requests,
    /// Where status questions come in; bound by the parent, so that it outlives restarts.
    pub status: Option<UnixListener>,
    /// Where peers send to; empty: the process opens its own.
    pub udp: Vec<UdpSocket>,
    /// Where names are asked for; empty: the process opens its own, if it listens at all.
    pub dns: Vec<(UdpSocket, TcpListener)>,
    /// The TUN's queues, `IFF_VNET_HDR`, non-blocking.
    pub tun: Vec<OwnedFd>,
    /// Where the key to join with comes from, if the login server's configuration does not say it.
    pub registration: Option<Registration>,
}
