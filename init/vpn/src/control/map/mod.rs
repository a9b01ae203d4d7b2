//! The map stream: messages in, the whole map and what changed of it out.
//!
//! Delta state belongs to one stream (tailscale `control/controlclient/direct.go`, `map.go`): the first message with `Node`
//! replaces everything, and until it comes what we had stays in force. What comes is judged here once: addresses outside the
//! tailnet's prefixes, routes, doubled keys and claims to our own address or key never reach the rest.

mod convert;
mod drops;
mod peers;
mod policy;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use ipnet::IpNet;
use thiserror::Error;
use time::OffsetDateTime;

pub use drops::{DropReason, MapDrops};
pub use policy::PolicyState;

use self::peers::Peers;
use self::policy::Policy;
use super::wire::MapResponse;
use crate::key::{Node, Public};
use crate::netmap::{DerpMap, DnsConfig, Netmap, TailnetNode};

/// What the document says about maps.
#[derive(Clone, Debug)]
pub struct MapSettings {
    /// Where addresses may lie: ours and the peers'.
    pub prefixes: Vec<IpNet>,
    /// Whether a server without a policy, which lets everybody in, is refused.
    pub require_policy: bool,
}

/// What changed from the map before. Consumers take the removals first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Ourselves.
    pub node: bool,
    /// Keys that are peers no more.
    pub removed: Vec<Public<Node>>,
    /// Keys of peers that are new or that changed in anything.
    pub changed: Vec<Public<Node>>,
    /// What peers may send us.
    pub filter: bool,
    /// The relays.
    pub derp: bool,
    /// Names.
    pub dns: bool,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A new map.
#[derive(Clone, Debug)]
pub struct Update {
    /// The map.
    pub map: Arc<Netmap>,
    /// What changed from the one before.
    pub changes: Changes,
    /// What its filter is.
    pub policy: PolicyState,
}

/// Why a message is refused, and its stream with it. What was in force stays.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MapError {
    /// Not the JSON of a message.
    #[error("a map message does not read: {0}")]
    Json(#[from] serde_json::Error),
    /// The map is another node's.
    #[error("the map is for the node key {0}, which is not ours")]
    AnotherNode(String),
    /// We have no address that we accept.
    #[error("the map gives us no address inside the tailnet's prefixes")]
    NoAddress,
}

/// The state of the map, over all streams.
#[derive(Debug)]
pub struct MapState {
    settings: MapSettings,
    own: Public<Node>,
    /// Whether this stream's first message with `Node` has come.
    started: bool,
    peers: Peers,
    policy: Policy,
    derp: Arc<DerpMap>,
    dns: Arc<DnsConfig>,
    control_time: Option<OffsetDateTime>,
    current: Option<Arc<Netmap>>,
    /// What the filter of the last map was; `None`: of no map of ours.
    published: Option<PolicyState>,
    drops: MapDrops,
}

impl MapState {
    /// Nothing known, or what was kept over a restart.
    pub fn new(settings: MapSettings, own: Public<Node>, kept: Option<Arc<Netmap>>) -> Self {
        Self {
            settings,
            own,
            started: false,
            peers: Peers::default(),
            policy: Policy::default(),
            derp: Arc::default(),
            dns: Arc::default(),
            control_time: None,
            current: kept,
            published: None,
            drops: MapDrops::default(),
        }
    }

    /// A stream begins, asked for under this node key. What is in force stays until its first message with `Node`.
    pub fn begin_stream(&mut self, own: Public<Node>) {
        self.own = own;
        self.started = false;
    }

    /// The map in force.
    pub const fn current(&self) -> Option<&Arc<Netmap>> {
        self.current.as_ref()
    }

    /// What was not accepted, by reason.
    pub const fn drops(&self) -> &MapDrops {
        &self.drops
    }

    /// Takes one message; `None`: it changed nothing.
    ///
    /// # Errors
    /// If the map cannot be ours. The stream must be closed then; what was in force stays.
    pub fn apply(&mut self, message: MapResponse) -> Result<Option<Update>, MapError> {
        self.drops.begin_message();
        if message.keep_alive {
            return Ok(None);
        }
        if let Some(time) = message.control_time.as_deref().and_then(convert::time) {
            self.control_time = Some(time);
        }
        let node = match &message.node {
            Some(wire) => Some(self.own_node(wire)?),
            None if self.started => None,
            None => {
                self.drops.count(DropReason::BeforeFirst, &"a message before the stream's first map");
                return Ok(None);
            }
        };
        let first = !self.started;
        self.started = true;
        if first {
            self.derp = Arc::default();
            self.dns = Arc::default();
            self.policy.clear();
        }
        if let Some(derp) = message.derp_map {
            let derp = convert::derp_map(derp, &mut self.drops);
            if *self.derp != derp {
                self.derp = Arc::new(derp);
            }
        }
        if let Some(dns) = message.dns_config {
            let dns = convert::dns(dns);
            if *self.dns != dns {
                self.dns = Arc::new(dns);
            }
        }
        self.policy.apply(message.packet_filter, message.packet_filters, self.settings.require_policy);

        let mut judge = peers::Judge {
            prefixes: &self.settings.prefixes,
            own: self.own,
            control_time: self.control_time,
            drops: &mut self.drops,
        };
        if first {
            self.peers = Peers::default();
        }
        if let Some(node) = &node {
            self.peers.set_own(&node.addresses, &mut judge);
        }
        match message.peers {
            Some(all) if !all.is_empty() => self.peers.replace(all, &mut judge),
            _ => {
                for id in message.peers_removed.unwrap_or_default() {
                    self.peers.remove(id);
                }
                for wire in message.peers_changed.unwrap_or_default() {
                    self.peers.upsert(wire, &mut judge);
                }
                for (id, online) in message.online_change.unwrap_or_default() {
                    self.peers.online(id, online);
                }
                for patch in message.peers_changed_patch.unwrap_or_default().into_iter().flatten() {
                    self.peers.patch(patch, &mut judge);
                }
            }
        }
        Ok(self.publish(node, first))
    }

    /// Ends peers whose keys have ended by the server's clock, which the caller carried on.
    pub fn expire(&mut self, now: OffsetDateTime) -> Option<Update> {
        self.started.then(|| self.peers.expire(now))?;
        self.publish(None, false)
    }

    /// The server's clock, as its last message said it.
    pub const fn control_time(&self) -> Option<OffsetDateTime> {
        self.control_time
    }

    fn own_node(&mut self, wire: &super::wire::WireNode) -> Result<TailnetNode, MapError> {
        if wire.key.parse() != Ok(self.own) {
            return Err(MapError::AnotherNode(wire.key.chars().take(80).collect()));
        }
        let (mut node, addresses) = convert::node(wire, self.own, self.control_time, &mut self.drops);
        node.addresses = addresses
            .into_iter()
            .filter(|net| {
                let inside = self.settings.prefixes.iter().any(|prefix| prefix.contains(net));
                if !inside {
                    self.drops.count(DropReason::OutsidePrefixes, &format_args!("our own address {net}"));
                }
                inside
            })
            .collect();
        node.allowed = node.addresses.clone();
        if node.addresses.is_empty() {
            return Err(MapError::NoAddress);
        }
        Ok(node)
    }

    /// Makes the map of the state, compares it with the one in force, and puts it in force.
    fn publish(&mut self, node: Option<TailnetNode>, whole: bool) -> Option<Update> {
        let before = self.current.as_ref();
        let node = match (node, before) {
            (Some(node), Some(before)) if *before.node == node => Arc::clone(&before.node),
            (Some(node), _) => Arc::new(node),
            (None, Some(before)) => Arc::clone(&before.node),
            (None, None) => return None,
        };
        let (filter, filters) = self.policy.compiled();
        let mut changes = Changes {
            node: before.is_none_or(|before| before.node != node),
            filter: before.is_none_or(|before| {
                !Arc::ptr_eq(&before.filter, &filter) && !policy::same(&before.filters, &filters)
            }) || self.published.is_some_and(|policy| policy != self.policy.state()),
            derp: before
                .is_none_or(|before| !Arc::ptr_eq(&before.derp, &self.derp) && before.derp != self.derp),
            dns: before.is_none_or(|before| !Arc::ptr_eq(&before.dns, &self.dns) && before.dns != self.dns),
            ..Changes::default()
        };
        let old = before.map(|before| &before.peers);
        (changes.removed, changes.changed) = self.peers.changes(old, whole);
        if changes.is_empty() && !whole {
            return None;
        }
        let map = Arc::new(Netmap {
            node,
            peers: self.peers.nodes(),
            derp: Arc::clone(&self.derp),
            dns: Arc::clone(&self.dns),
            filter,
            filters,
        });
        self.current = Some(Arc::clone(&map));
        self.published = Some(self.policy.state());
        Some(Update { map, changes, policy: self.policy.state() })
    }
}
