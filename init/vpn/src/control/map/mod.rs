//! The map stream: messages in, the whole map and what changed of it out.
//!
//! Delta state belongs to one stream (tailscale `control/controlclient/direct.go`, `map.go`): the first message with `Node`
//! replaces everything, and until it comes what we had stays in force. What comes is judged here once: addresses outside the
//! tailnet's prefixes, routes, doubled keys and claims to our own address or key never reach the rest.

mod convert;
mod drops;
mod peers;
mod policy;

/// Whether it is where names are asked for: nobody's address, though it lies inside the usual prefixes.
pub(crate) fn is_names(net: &IpNet) -> bool {
    let address = net.addr();
    address == IpAddr::V4(NAMES_V4) || address == IpAddr::V6(NAMES_V6)
}

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use thiserror::Error;
use time::OffsetDateTime;

pub use drops::{DropReason, MapDrops};
pub use policy::PolicyState;

use self::peers::Peers;
use self::policy::Policy;
use super::harmless;
use super::wire::{BadJson, MapResponse};
use crate::key::{Node, Public};
use crate::netmap::{DerpMap, DnsConfig, Netmap, NodeId, TailnetNode};
use crate::parent::message::ADDRESSES;
use crate::parent::network::{NAMES_V4, NAMES_V6};

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

    /// These and, after them, others: what leads from the map before to the map after both. A key that went and came again is in
    /// both lists.
    pub fn then(&mut self, later: Self) {
        let Self { node, removed, changed, filter, derp, dns } = later;
        self.node |= node;
        self.filter |= filter;
        self.derp |= derp;
        self.dns |= dns;
        let gone: BTreeSet<_> = removed.into_iter().collect();
        self.changed.retain(|key| !gone.contains(key));
        let gone: BTreeSet<_> = self.removed.drain(..).chain(gone).collect();
        self.removed.extend(gone);
        let changed: BTreeSet<_> = self.changed.drain(..).chain(changed).collect();
        self.changed.extend(changed);
    }
}

/// The server's clock, as it was at some time of ours.
#[derive(Clone, Copy, Debug)]
struct Clock {
    server: OffsetDateTime,
    at: Instant,
}

impl Clock {
    fn now(&self, now: Instant) -> OffsetDateTime {
        let since = time::Duration::try_from(now.saturating_duration_since(self.at));
        since.ok().and_then(|since| self.server.checked_add(since)).unwrap_or(self.server)
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
    Json(#[from] BadJson),
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
    /// `None`: no server has said its time.
    clock: Option<Clock>,
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
            clock: None,
            current: kept,
            published: None,
            drops: MapDrops::default(),
        }
    }

    /// Another node key of ours was admitted. What is in force stays, also the map of the one before; but what ends that one says
    /// nothing of this.
    pub const fn set_own(&mut self, own: Public<Node>) {
        self.own = own;
    }

    /// A stream begins, asked for under this node key. What is in force stays until its first message with `Node`.
    pub fn begin_stream(&mut self, own: Public<Node>) {
        self.own = own;
        self.started = false;
    }

    /// The machine slept for so long, which our clock did not count: the server's went on.
    pub fn slept(&mut self, asleep: std::time::Duration) {
        if let (Some(clock), Ok(asleep)) = (&mut self.clock, time::Duration::try_from(asleep)) {
            clock.server = clock.server.checked_add(asleep).unwrap_or(clock.server);
        }
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
    pub fn apply(&mut self, message: MapResponse, now: Instant) -> Result<Option<Update>, MapError> {
        self.drops.begin_message(now);
        if let Some(server) = message.control_time.as_deref().and_then(convert::time) {
            self.clock = Some(Clock { server, at: now });
        }
        if message.keep_alive {
            return Ok(None);
        }
        let control_time = self.clock.map(|clock| clock.now(now));
        let node = match &message.node {
            Some(wire) => Some(self.own_node(wire, control_time)?),
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
            let dns = convert::dns(dns, &mut self.drops);
            if *self.dns != dns {
                self.dns = Arc::new(dns);
            }
        }
        let require_policy = self.settings.require_policy;
        self.policy.apply(message.packet_filter, message.packet_filters, require_policy, &mut self.drops);

        let mut judge = peers::Judge {
            prefixes: &self.settings.prefixes,
            own: self.own,
            control_time,
            drops: &mut self.drops,
        };
        if first {
            self.peers = Peers::default();
        }
        if let Some(node) = &node {
            self.peers.set_own(&node.addresses, &mut judge);
        }
        for list in [&message.peers, &message.peers_changed].into_iter().flatten() {
            judge.count_list(list.unreadable, list.beyond, "peers");
        }
        match message.peers {
            // Also one of which nothing reads: it was meant to replace all.
            Some(all) if !all.is_empty() || all.unreadable > 0 => self.peers.replace(all, &mut judge),
            _ => {
                let removed = message.peers_removed.unwrap_or_default();
                judge.count_list(removed.unreadable, removed.beyond, "removed peers");
                for id in removed {
                    self.peers.remove(id);
                }
                self.peers.upsert_all(message.peers_changed.unwrap_or_default(), &mut judge);
                let online = message.online_change.unwrap_or_default();
                judge.count_list(online.unreadable, online.beyond, "peers that came or went");
                for (id, online) in online.items {
                    self.peers.online(id, online);
                }
                let patches = message.peers_changed_patch.unwrap_or_default();
                judge.count_list(patches.unreadable, patches.beyond, "changes of peers");
                for patch in patches {
                    self.peers.patch(patch, &mut judge);
                }
            }
        }
        Ok(self.publish(node, first))
    }

    /// Ends the keys whose time has come, peers' and our own: by the server's clock as it has run on since it was last said, or by
    /// `wall` where no server has said it, as after a restart. Also without a stream, and for a map that was kept.
    pub fn expire(&mut self, now: Instant, wall: OffsetDateTime) -> Option<Update> {
        let time = Some(self.clock.map_or(wall, |clock| clock.now(now)));
        let has_ended = |node: &TailnetNode| !node.expired && convert::has_ended(node.key_expiry, time);
        let before = Arc::clone(self.current.as_ref()?);
        let ours = before.node.key == self.own;
        let node = (ours && has_ended(&before.node))
            .then(|| TailnetNode { expired: true, ..(*before.node).clone() });
        if self.started {
            self.peers.expire(time);
            return self.publish(node, false);
        }
        // The peers of this stream are not known yet: the map in force is another's.
        let ended: Vec<NodeId> =
            before.peers.values().filter(|peer| has_ended(peer)).map(|peer| peer.id).collect();
        let mut changes = Changes { node: node.is_some(), ..Changes::default() };
        let mut map = (*before).clone();
        if let Some(node) = node {
            map.node = Arc::new(node);
        }
        for id in ended {
            if let Some(peer) = Arc::make_mut(&mut map.peers).get_mut(&id) {
                let peer = Arc::make_mut(peer);
                peer.expired = true;
                peer.addresses.clear();
                peer.allowed.clear();
                changes.changed.push(peer.key);
            }
        }
        if changes.is_empty() {
            return None;
        }
        let map = Arc::new(map);
        self.current = Some(Arc::clone(&map));
        Some(Update { map, changes, policy: self.policy.state() })
    }

    fn own_node(
        &mut self,
        wire: &super::wire::WireNode,
        control_time: Option<OffsetDateTime>,
    ) -> Result<TailnetNode, MapError> {
        if wire.key.parse() != Ok(self.own) {
            return Err(MapError::AnotherNode(harmless(&wire.key)));
        }
        let (mut node, addresses) = convert::node(wire, self.own, control_time, &mut self.drops);
        node.addresses = addresses
            .into_iter()
            .filter(|net| {
                let inside =
                    self.settings.prefixes.iter().any(|prefix| prefix.contains(net)) && !is_names(net);
                if !inside {
                    self.drops.count(DropReason::OutsidePrefixes, &format_args!("our own address {net}"));
                }
                inside
            })
            .take(ADDRESSES)
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
            // By what they compile to, not by the texts that are kept: those of a filter that denies are not.
            filter: before
                .is_none_or(|before| !Arc::ptr_eq(&before.filter, &filter) && *before.filter != *filter)
                || self.published.is_some_and(|policy| policy != self.policy.state()),
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
