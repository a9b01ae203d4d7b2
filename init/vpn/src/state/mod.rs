//! What must survive a restart of the process: who we are, and the last map, so that tunnels stand while the coordination server
//! is away (design section 7).
//!
//! PID 1 keeps the bytes, in memory only; what it gives back is read as hostile input. A record that does not read, or that names
//! addresses outside the tailnet's prefixes, counts as none: then the node joins anew.

mod node;
mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::control::map::is_names;
use crate::control::wire::BadJson;
use crate::filter::Filter;
use crate::key::{Disco, Machine, Node, Public, Secret};
use crate::netmap::{Netmap, RegionId};
use crate::registration::Login;
use record::Part;

/// The node key, and the how-manieth it is: where keys are derived, the number decides the key.
#[derive(Clone, Debug)]
pub struct NodeKey {
    /// 0 for the first.
    pub generation: u32,
    /// The key.
    pub secret: Secret<Node>,
}

/// A pre-auth key that the server refused. Not the key: its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// SHA-256 of the key.
    pub digest: [u8; 32],
    /// What the server said.
    pub text: String,
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Who the machine is.
    pub machine: Secret<Machine>,
    /// Who the node is: the key that a server admitted last, or the first one.
    pub node: NodeKey,
    /// The key that is to follow it. No answer says yet that a server has taken it, so that each of them may be the one it knows.
    pub next: Option<NodeKey>,
    /// What its paths are found by: peers would not know a new one while the server is away.
    pub disco: Secret<Disco>,
    /// The server's key, as it was when it admitted us.
    pub server: Option<Public<Machine>>,
    /// The login server that a registration named.
    pub login: Option<Login>,
    /// The keys that must not be sent again.
    pub refused: Vec<Refused>,
    /// The time of our last handshake, in nanoseconds since 1970: peers take none that is not later.
    pub stamp: u64,
    /// The home relay.
    pub home: Option<RegionId>,
    /// Where each peer was last reached.
    pub paths: BTreeMap<Public<Node>, SocketAddr>,
    /// The last map.
    pub map: Option<Netmap>,
}

/// The bytes of what is kept. They hold private keys: they are wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The record.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Whether the map is in it, if there is one.
    pub whole: bool,
}

impl std::fmt::Debug for Encoded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a record of {} bytes", self.bytes.len())
    }
}

impl Kept {
    /// The server has admitted this key of ours: it is who the node is now. A map of another key is no map of ours any more.
    pub fn promote(&mut self, key: NodeKey) {
        let public = key.secret.public();
        self.map = self.map.take().filter(|map| map.node.key == public);
        self.node = key;
        self.next = None;
    }

    /// Its bytes. They hold private keys: they are wiped when dropped.
    ///
    /// # Errors
    /// If it cannot be written as JSON; no value of these types cannot.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>, StateError> {
        match record::encode(self, Part::Whole, usize::MAX)? {
            Some(bytes) => Ok(bytes),
            None => Err(StateError::TooLarge),
        }
    }

    /// Its bytes, at most so many: what does not fit loses the map, and the ways to its peers with it.
    ///
    /// # Errors
    /// If not even the identity fits.
    pub fn encode_within(&self, most: usize) -> Result<Encoded, StateError> {
        if let Some(bytes) = record::encode(self, Part::Whole, most)? {
            return Ok(Encoded { bytes, whole: true });
        }
        let bytes = record::encode(self, Part::WithoutMap, most)?.ok_or(StateError::TooLarge)?;
        Ok(Encoded { bytes, whole: false })
    }

    /// From bytes that somebody else kept. A map that we would not have taken from the server is left out.
    ///
    /// # Errors
    /// If they are not a record.
    pub fn decode(bytes: &[u8], prefixes: &[IpNet]) -> Result<Self, StateError> {
        let mut kept = record::decode(bytes)?;
        if let Some(map) = &kept.map
            && let Err(error) = acceptable(map, &kept.node.secret.public(), prefixes)
        {
            // The identity is worth more than the map: a new one would have no key to join with.
            tracing::warn!(%error, "the kept map is not used");
            kept.map = None;
        }
        Ok(kept)
    }
}

/// Whether a kept map is one that we would have accepted from the server.
fn acceptable(map: &Netmap, own: &Public<Node>, prefixes: &[IpNet]) -> Result<(), StateError> {
    if map.node.key != *own {
        return Err(StateError::AnotherNode);
    }
    if map.node.addresses.is_empty() {
        return Err(StateError::NoAddress);
    }
    let (mut keys, mut holders) = (BTreeSet::new(), BTreeSet::new());
    for node in std::iter::once(&map.node).chain(map.peers.values()) {
        if node.key.is_zero() || !keys.insert(node.key) {
            return Err(StateError::Twice(node.key.to_string()));
        }
        for net in &node.addresses {
            if !prefixes.iter().any(|prefix| prefix.contains(net)) {
                return Err(StateError::Outside(*net));
            }
            if net.prefix_len() != net.max_prefix_len() || is_names(net) {
                return Err(StateError::NotANodes(*net));
            }
            if !holders.insert(net.addr()) {
                return Err(StateError::Twice(net.to_string()));
            }
        }
        if let Some(route) = node.allowed.iter().find(|net| !node.addresses.contains(net)) {
            return Err(StateError::NotANodes(*route));
        }
    }
    Ok(())
}

/// Why bytes are no kept state.
#[derive(Debug, Error)]
pub enum StateError {
    /// Not the JSON of a record.
    #[error("the kept state does not read: {0}")]
    Json(BadJson),
    /// A version of the record that this program does not know.
    #[error("the kept state has version {found}, expected {expected}")]
    Version {
        /// What it has.
        found: u32,
        /// What we write.
        expected: u32,
    },
    /// It has no room.
    #[error("the state is larger than what can be kept")]
    TooLarge,
    /// A key that is none.
    #[error("the kept state's {0} is not a key")]
    Key(&'static str),
    /// A map of another node key.
    #[error("the kept map is another node's")]
    AnotherNode,
    /// An address that no map of ours could have.
    #[error("the kept map has {0}, which is outside the tailnet's prefixes")]
    Outside(IpNet),
    /// What no node has: a network, a route beyond its own addresses, or where names are asked for.
    #[error("the kept map has {0}, which is no address of the node that has it there")]
    NotANodes(IpNet),
    /// A key or an address that two nodes have, or the key that is none.
    #[error("the kept map has {0} more than once, or it is no node's")]
    Twice(String),
    /// We have no address.
    #[error("the kept map gives us no address")]
    NoAddress,
}

impl From<serde_json::Error> for StateError {
    /// Without serde's words, which quote what stands there: the record has private keys.
    fn from(error: serde_json::Error) -> Self {
        Self::Json(error.into())
    }
}

/// Compiles what was kept as text, perhaps by a program that read more of it; what does not parse denies.
fn compile(filters: &crate::netmap::NamedFilters) -> Arc<Filter> {
    Arc::new(Filter::compile(filters.iter().map(|(name, raw)| (name.as_str(), &**raw))).whole())
}

#[cfg(test)]
mod tests;
