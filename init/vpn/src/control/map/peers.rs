//! The peers of one stream: who holds which key and which address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use time::OffsetDateTime;

use super::convert;
use super::drops::{DropReason, MapDrops};
use super::is_names;
use crate::control::wire::{MAX_PEERS, PeerPatch, WireNode, WirePeer};
use crate::key::{Node, Public};
use crate::netmap::{NodeId, TailnetNode};

/// The bytes that all peers may take: what a hostile map can make us hold. Ten thousand peers as they are take a third.
const MAX_BYTES: usize = 32 << 20;
/// What a peer takes without its lists and texts: itself, and its places in the tables by number, key and address.
const PEER_BYTES: usize = 768;

type Nodes = BTreeMap<NodeId, Arc<TailnetNode>>;

/// What peers are judged by.
pub(super) struct Judge<'a> {
    pub(super) prefixes: &'a [IpNet],
    pub(super) own: Public<Node>,
    pub(super) control_time: Option<OffsetDateTime>,
    pub(super) drops: &'a mut MapDrops,
}

impl Judge<'_> {
    /// What of a list was not looked at.
    pub(super) fn count_list(&mut self, unreadable: usize, beyond: usize, what: &'static str) {
        self.drops.unreadable(unreadable, &what);
        if beyond > 0 {
            self.drops.count(DropReason::TooMany, &what);
        }
    }
}

/// What a peer holds of the network.
#[derive(Debug, Default)]
struct Held {
    addresses: Vec<IpNet>,
    /// Those of them that it may send from.
    allowed: Vec<IpNet>,
}

#[derive(Debug, Default)]
pub(super) struct Peers {
    nodes: Arc<Nodes>,
    by_key: BTreeMap<Public<Node>, NodeId>,
    /// Who holds an address: the one to whom a message gave it last. Ours are nobody's.
    owners: BTreeMap<IpAddr, NodeId>,
    own: BTreeSet<IpAddr>,
    /// What expired peers would hold, should their keys live again.
    withheld: BTreeMap<NodeId, Held>,
    /// Peers that this message named, changed or lost, since the last [`Self::changes`].
    touched: BTreeSet<NodeId>,
    /// Peers that this message named in whole.
    named: BTreeSet<NodeId>,
    /// What they take, by [`weight`].
    bytes: usize,
}

impl Peers {
    pub(super) fn nodes(&self) -> Arc<Nodes> {
        Arc::clone(&self.nodes)
    }

    /// Our own addresses: a peer that holds one loses it.
    pub(super) fn set_own(&mut self, addresses: &[IpNet], judge: &mut Judge<'_>) {
        self.own = addresses.iter().map(IpNet::addr).collect();
        for address in self.own.clone() {
            if let Some(holder) = self.owners.remove(&address) {
                judge.drops.count(DropReason::OwnAddress, &address);
                self.strip(holder, address);
            }
        }
    }

    /// The whole list.
    pub(super) fn replace(&mut self, all: impl IntoIterator<Item = WirePeer>, judge: &mut Judge<'_>) {
        let all: Vec<WirePeer> = all.into_iter().collect();
        let named: BTreeSet<u64> = all
            .iter()
            .filter_map(|peer| match peer {
                WirePeer::Node(wire) => Some(wire.id),
                WirePeer::Unreadable(_) => None,
            })
            .collect();
        let gone: Vec<NodeId> = self.nodes.keys().filter(|id| !named.contains(&id.0)).copied().collect();
        for id in gone {
            self.remove(id.0);
        }
        self.upsert_all(all, judge);
    }

    /// New or changed ones.
    pub(super) fn upsert_all(&mut self, all: impl IntoIterator<Item = WirePeer>, judge: &mut Judge<'_>) {
        for peer in all {
            match peer {
                WirePeer::Node(wire) => self.upsert(&wire, judge),
                WirePeer::Unreadable(id) => {
                    judge.drops.count(DropReason::Unreadable, &format_args!("the peer with number {id}"));
                    self.remove(id);
                }
            }
        }
    }

    pub(super) fn remove(&mut self, id: u64) {
        let id = NodeId(id);
        if self.nodes.contains_key(&id) {
            self.release(id);
            self.remove_node(id);
        }
    }

    fn upsert(&mut self, wire: &WireNode, judge: &mut Judge<'_>) {
        let id = NodeId(wire.id);
        let Some(key) = self.take_key(id, &wire.key, judge) else {
            // The message means to replace whoever had the number: that one's word is void too.
            self.remove(wire.id);
            return;
        };
        if !self.nodes.contains_key(&id) && self.nodes.len() >= MAX_PEERS {
            judge.drops.count(DropReason::TooMany, &"peers");
            return;
        }
        let (mut node, claimed) = convert::node(wire, key, judge.control_time, judge.drops);
        self.release(id);
        let accepted: Vec<IpNet> =
            claimed.into_iter().filter(|net| self.acceptable(net, &wire.key, judge)).collect();
        if accepted.is_empty() && !node.expired {
            judge.drops.count(DropReason::NoAddress, &wire.key);
            self.remove_node(id);
            return;
        }
        let held = Held { allowed: allowed(wire, &accepted, judge), addresses: accepted };
        if !node.expired {
            node.addresses.clone_from(&held.addresses);
            node.allowed.clone_from(&held.allowed);
        }
        if !self.has_room(&node) {
            judge.drops.count(DropReason::TooMany, &"bytes of peers");
            self.remove_node(id);
            return;
        }
        if node.expired {
            self.withheld.insert(id, held);
        } else {
            self.claim(id, &held.addresses, judge);
        }
        self.by_key.insert(key, id);
        self.named.insert(id);
        self.put(node);
    }

    pub(super) fn online(&mut self, id: u64, online: bool) {
        self.edit(NodeId(id), |node| node.online = Some(online));
    }

    pub(super) fn patch(&mut self, patch: PeerPatch, judge: &mut Judge<'_>) {
        let id = NodeId(patch.node_id);
        if !self.nodes.contains_key(&id) {
            judge.drops.count(DropReason::UnknownPeer, &patch.node_id);
            return;
        }
        if let Some(text) = &patch.key {
            let Some(key) = self.take_key(id, text, judge) else {
                self.remove(patch.node_id);
                return;
            };
            if let Some(old) = self.nodes.get(&id).map(|node| node.key).filter(|old| *old != key) {
                self.by_key.remove(&old);
                self.by_key.insert(key, id);
                self.edit(id, |node| node.key = key);
            }
        }
        let Some(mut node) = self.nodes.get(&id).map(|node| (**node).clone()) else {
            return;
        };
        if let Some(home) = patch.derp_region.and_then(convert::region) {
            node.home = Some(home);
        }
        if let Some(texts) = patch.endpoints.as_ref().filter(|texts| !texts.is_empty()) {
            node.endpoints = convert::endpoints(texts);
        }
        if let Some(disco) = patch.disco_key.as_deref() {
            node.disco = convert::disco(disco);
        }
        if patch.online.is_some() {
            node.online = patch.online;
        }
        if self.has_room(&node) {
            self.put(node);
        } else {
            judge.drops.count(DropReason::TooMany, &"bytes of peers");
        }
        if let Some(text) = patch.key_expiry.as_deref() {
            let expiry = convert::time(text);
            let before = self.nodes.get(&id).and_then(|node| node.key_expiry);
            self.edit(id, |node| node.key_expiry = expiry);
            // Where no server has said the time, a later end than before is its word that the key lives: our own clock, by which
            // it may have ended, looks at it again soon.
            let later = before.is_some_and(|before| expiry.is_some_and(|expiry| expiry > before));
            if convert::has_ended(expiry, judge.control_time) {
                self.end(id);
            } else if expiry.is_none() || judge.control_time.is_some() || later {
                self.revive(id, judge);
            }
        }
    }

    /// Ends the peers whose keys have ended.
    pub(super) fn expire(&mut self, now: Option<OffsetDateTime>) {
        let ended: Vec<NodeId> = self
            .nodes
            .values()
            .filter(|node| !node.expired && convert::has_ended(node.key_expiry, now))
            .map(|node| node.id)
            .collect();
        for id in ended {
            self.end(id);
        }
    }

    /// The keys that are gone, and the keys that are new or changed, against an older list; `whole`: the older list is another
    /// stream's, so that all of it is compared. Starts the next message.
    pub(super) fn changes(
        &mut self,
        old: Option<&Arc<Nodes>>,
        whole: bool,
    ) -> (Vec<Public<Node>>, Vec<Public<Node>>) {
        self.named.clear();
        let mut touched = std::mem::take(&mut self.touched);
        if whole {
            touched.extend(self.nodes.keys());
            touched.extend(old.into_iter().flat_map(|old| old.keys()));
        }
        let (mut removed, mut changed) = (Vec::new(), Vec::new());
        for id in touched {
            let before = old.and_then(|old| old.get(&id));
            let after = self.nodes.get(&id);
            if before == after {
                continue;
            }
            if let Some(before) = before.filter(|before| !self.by_key.contains_key(&before.key)) {
                removed.push(before.key);
            }
            changed.extend(after.map(|after| after.key));
        }
        (removed, changed)
    }

    /// The key of a text, if this peer may have it.
    fn take_key(&mut self, id: NodeId, text: &str, judge: &mut Judge<'_>) -> Option<Public<Node>> {
        let Some(key) = text.parse().ok().filter(|key: &Public<Node>| !key.is_zero()) else {
            judge.drops.count(DropReason::BadKey, &text);
            return None;
        };
        if key == judge.own {
            judge.drops.count(DropReason::OwnKey, &key);
            return None;
        }
        match self.by_key.get(&key).copied() {
            Some(holder) if holder != id && self.named.contains(&holder) => {
                judge.drops.count(DropReason::DuplicateKey, &key);
                None
            }
            // Numbers are given anew: the key's holder has another number now.
            Some(holder) if holder != id => {
                self.remove(holder.0);
                Some(key)
            }
            _ => Some(key),
        }
    }

    fn acceptable(&self, net: &IpNet, key: &str, judge: &mut Judge<'_>) -> bool {
        if !judge.prefixes.iter().any(|prefix| prefix.contains(net)) || is_names(net) {
            judge.drops.count(DropReason::OutsidePrefixes, &format_args!("{net} of {key}"));
            return false;
        }
        if self.own.contains(&net.addr()) {
            judge.drops.count(DropReason::OwnAddress, &format_args!("{net} of {key}"));
            return false;
        }
        true
    }

    /// Gives addresses to a peer; who held them loses them.
    fn claim(&mut self, id: NodeId, addresses: &[IpNet], judge: &mut Judge<'_>) {
        for net in addresses {
            if let Some(loser) = self.owners.insert(net.addr(), id).filter(|loser| *loser != id) {
                judge.drops.count(DropReason::AddressMoved, net);
                self.strip(loser, net.addr());
            }
        }
    }

    /// Takes one address from a peer that stays.
    fn strip(&mut self, id: NodeId, address: IpAddr) {
        self.edit(id, |node| {
            node.addresses.retain(|net| net.addr() != address);
            node.allowed.retain(|net| net.addr() != address);
        });
    }

    /// Gives up what a peer holds; the peer itself is about to be replaced or removed.
    fn release(&mut self, id: NodeId) {
        self.withheld.remove(&id);
        let Some(node) = self.nodes.get(&id) else {
            return;
        };
        if self.by_key.get(&node.key) == Some(&id) {
            self.by_key.remove(&node.key);
        }
        for net in &node.addresses {
            if self.owners.get(&net.addr()) == Some(&id) {
                self.owners.remove(&net.addr());
            }
        }
    }

    fn remove_node(&mut self, id: NodeId) {
        if self.nodes.contains_key(&id)
            && let Some(node) = Arc::make_mut(&mut self.nodes).remove(&id)
        {
            self.bytes = self.bytes.saturating_sub(weight(&node));
            self.touched.insert(id);
        }
    }

    /// Whether a peer has room, in place of what has its number now.
    fn has_room(&self, node: &TailnetNode) -> bool {
        let old = self.nodes.get(&node.id).map_or(0, |old| weight(old));
        self.bytes.saturating_sub(old) + weight(node) <= MAX_BYTES
    }

    /// A peer's key has ended: it holds nothing.
    fn end(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get(&id).filter(|node| !node.expired) else {
            return;
        };
        let held = Held { addresses: node.addresses.clone(), allowed: node.allowed.clone() };
        let key = node.key;
        self.release(id);
        self.by_key.insert(key, id);
        self.withheld.insert(id, held);
        self.edit(id, |node| {
            node.expired = true;
            node.addresses.clear();
            node.allowed.clear();
        });
    }

    /// A peer's key lives again. What was given to others meanwhile is theirs.
    fn revive(&mut self, id: NodeId, judge: &mut Judge<'_>) {
        if !self.nodes.get(&id).is_some_and(|node| node.expired) {
            return;
        }
        let mut held = self.withheld.remove(&id).unwrap_or_default();
        let is_free = |net: &IpNet| !self.owners.contains_key(&net.addr()) && !self.own.contains(&net.addr());
        held.addresses.retain(is_free);
        held.allowed.retain(is_free);
        self.claim(id, &held.addresses, judge);
        self.edit(id, |node| {
            node.expired = false;
            node.addresses = held.addresses;
            node.allowed = held.allowed;
        });
    }

    fn put(&mut self, node: TailnetNode) {
        let id = node.id;
        if self.nodes.get(&id).is_some_and(|old| **old == node) {
            return;
        }
        self.bytes += weight(&node);
        if let Some(old) = Arc::make_mut(&mut self.nodes).insert(id, Arc::new(node)) {
            self.bytes = self.bytes.saturating_sub(weight(&old));
        }
        self.touched.insert(id);
    }

    fn edit(&mut self, id: NodeId, change: impl FnOnce(&mut TailnetNode)) {
        let Some(node) = self.nodes.get(&id) else {
            return;
        };
        let mut new = (**node).clone();
        change(&mut new);
        self.put(new);
    }
}

/// What a peer takes in memory, roughly.
fn weight(node: &TailnetNode) -> usize {
    let nets = (node.addresses.len() + node.allowed.len()) * size_of::<IpNet>();
    let endpoints = node.endpoints.len() * size_of::<SocketAddr>();
    let tags: usize = node.tags.iter().map(|tag| size_of::<String>() + tag.len()).sum();
    PEER_BYTES + nets + endpoints + tags + node.name.len()
}

/// What a peer may send from: its own addresses, or those of them that the server names. Routes beyond them are not taken.
fn allowed(wire: &WireNode, own: &[IpNet], judge: &mut Judge<'_>) -> Vec<IpNet> {
    let Some(texts) = &wire.allowed_ips else {
        return own.to_vec();
    };
    let mut allowed = Vec::new();
    for text in texts {
        match convert::net(text) {
            Some(net) if own.contains(&net) => {
                if !allowed.contains(&net) {
                    allowed.push(net);
                }
            }
            // An address that was refused above is no route; it is counted there.
            Some(_) if wire.addresses.contains(text) => {}
            _ => judge.drops.count(DropReason::Route, text),
        }
    }
    allowed
}
