//! A new map takes effect: at the parent, in the plane, on the paths, at the relays, in names.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use tracing::{error, info, warn};

use super::{NAMES, Node};
use crate::control::harmless;
use crate::control::map::Changes;
use crate::key::{Node as NodeKind, Public};
use crate::netmap::{Netmap, NodeId, TailnetNode};
use crate::parent::RequestError;
use crate::path::{Action, Paths, PeerConfig};
use crate::plane::{Network, PeerSpec, Plane};

impl Node {
    /// Takes a map as a whole: at the start, from what was kept.
    pub(super) fn adopt(&mut self, now: Instant, map: Arc<Netmap>) {
        let changes = Changes {
            node: true,
            removed: Vec::new(),
            changed: map.peers.values().map(|peer| peer.key).collect(),
            filter: true,
            derp: true,
            dns: true,
        };
        self.apply(now, map, &changes);
    }

    /// Takes what changed. The plane first, so that paths find their peers there; our own addresses in it are those that the parent has
    /// set, so that nobody reaches us at one that we do not have.
    pub(super) fn apply(&mut self, now: Instant, map: Arc<Netmap>, changes: &Changes) {
        let before = self.map.replace(Arc::clone(&map));
        let can_have = |address: &&IpNet| self.config.ipv6 || matches!(address, IpNet::V4(_));
        self.assignment.want(&map.node.addresses.iter().filter(can_have).copied().collect::<Vec<_>>());
        self.assign(now);
        // What is built anew for all peers is built only if what it is made of changed: of most changes, a path or a name.
        let changed = Changed::between(before.as_deref(), &map, changes);
        if changes.node || changed.plane {
            self.plane.set_network(&network(&map, self.assignment.set()));
        } else if changes.filter {
            self.plane.set_filter(Arc::clone(&map.filter));
        }
        if let Some(before) = before.as_ref().filter(|_| !changes.removed.is_empty()) {
            for (old, new) in rekeyed(before, &map) {
                // The same node to whoever counts.
                self.totals.renamed(&old, new);
            }
        }
        for key in &changes.removed {
            self.totals.forget(key);
            self.paths.remove_peer(key);
            self.reached.forget(&mut self.keeper.kept.paths, key);
        }
        if changed.disco {
            self.boxes.set_known(map.peers.values().filter_map(|peer| peer.disco));
        }
        if !changes.changed.is_empty() {
            let by_key: BTreeMap<&Public<NodeKind>, &Arc<TailnetNode>> = if changes.changed.len() > 8 {
                map.peers.values().map(|peer| (&peer.key, peer)).collect()
            } else {
                let named = |peer: &&Arc<TailnetNode>| changes.changed.contains(&peer.key);
                map.peers.values().filter(named).map(|peer| (&peer.key, peer)).collect()
            };
            for key in &changes.changed {
                if let Some(peer) = by_key.get(key) {
                    self.set_path(now, peer);
                }
            }
        }
        if changes.derp || before.is_none() {
            self.relays_pace.ask();
            self.set_relays(now);
        }
        self.names_pace.ask();
        self.set_names(now);
        // While the key after the map's own is admitted already, it is not a map of who we are; a restart would not take it.
        if map.node.key == self.keeper.kept.node.secret.public() {
            self.keeper.kept.map = Some((*map).clone());
        }
        self.keeper.touch(now);
        self.act(now);
    }

    fn set_path(&mut self, now: Instant, peer: &TailnetNode) {
        let mut endpoints = peer.endpoints.clone();
        // Where it was reached last, also before a restart: peers may not have told the coordinator of a roaming yet.
        endpoints.extend(self.keeper.kept.paths.get(&peer.key).filter(|last| !peer.endpoints.contains(last)));
        let config = PeerConfig { disco: peer.disco, home: peer.home, endpoints: &endpoints };
        set_path(now, (&self.plane, &mut self.paths), peer.key, config, &mut self.actions);
    }

    /// Tells the plane how a peer is reached, whether that changed or not.
    pub(super) fn set_route(&self, key: &Public<NodeKind>) {
        if let Some(route) = self.paths.route(key) {
            self.plane.set_route(key, route);
        }
    }

    /// The relays of the map take effect, if they did not a moment ago.
    pub(super) fn set_relays(&mut self, now: Instant) {
        if self.relays_pace.take(now)
            && let Some(map) = &self.map
        {
            let relays = Arc::clone(&map.derp);
            self.pool.set_map(Arc::clone(&relays));
            self.netcheck.set_map(now, relays, &mut self.wishes);
        }
    }

    /// The names of the map are answered, if others were not made a moment ago.
    pub(super) fn set_names(&mut self, now: Instant) {
        let Some(map) = self.map.as_ref().filter(|_| self.names_pace.take(now)) else { return };
        self.names_pace.every(NAMES * u32::try_from(map.peers.len() / 1000 + 1).unwrap_or(u32::MAX));
        if let Some(zone) = self.zone.load().updated(map) {
            let ignored = zone.ignored();
            if *ignored != crate::dns::Ignored::default()
                && let Some(unsaid) = self.log.line_at(now)
            {
                let crate::dns::Ignored { base_domain, nodes, records, routes } = ignored;
                let base_domain = base_domain.as_deref().map(harmless);
                warn!(
                    base_domain,
                    nodes, records, routes, unsaid, "the coordinator's words on names are not all believed"
                );
            }
            self.zone.publish(zone);
        }
    }

    /// Asks the parent for our addresses, if there is something to ask for.
    pub(super) fn assign(&mut self, now: Instant) {
        let Some(addresses) = self.assignment.ask(now) else { return };
        let (parent, assigned) = (Arc::clone(&self.parent), self.assigned.clone());
        // The parent asks the kernel: not on this thread's time. One question at a time, so the answer always has room.
        tokio::task::spawn_blocking(move || drop(assigned.try_send(parent.set_network(&addresses))));
    }

    /// The parent's answer.
    pub(super) fn on_assigned(&mut self, now: Instant, outcome: Result<(), RequestError>) {
        if let Err(error) = &outcome
            && let Some(unsaid) = self.log.line_at(now)
        {
            error!(%error, unsaid, "our addresses are not set");
        }
        let changed = self.assignment.answered(now, outcome.map_err(|error| error.to_string()));
        if let Some(map) = self.map.as_ref().filter(|_| changed) {
            if let Some(unsaid) = self.log.line_at(now) {
                let name = harmless(&map.node.name);
                info!(name, addresses = ?self.assignment.set(), unsaid, "our addresses");
            }
            self.plane.set_network(&network(map, self.assignment.set()));
        }
        self.assign(now);
    }

    /// The peer with this name (full, or its first label) or address.
    pub(super) fn peer_named(&self, name: &str) -> Option<Arc<TailnetNode>> {
        let map = self.map.as_ref()?;
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let address: Option<std::net::IpAddr> = name.parse().ok();
        let found = map.peers.values().find(|peer| {
            peer.name == name
                || peer.name.split('.').next() == Some(name.as_str())
                || address.is_some_and(|address| peer.addresses.iter().any(|net| net.addr() == address))
        });
        found.map(Arc::clone)
    }
}

/// What of the peers changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Changed {
    /// What the plane knows of them.
    plane: bool,
    /// Who may speak disco.
    disco: bool,
}

impl Changed {
    fn between(before: Option<&Netmap>, map: &Netmap, changes: &Changes) -> Self {
        let all = Self { plane: true, disco: true };
        let Some(before) = before else { return all };
        if !changes.removed.is_empty() || before.peers.len() != map.peers.len() {
            return all;
        }
        let (mut plane, mut disco) = (false, false);
        for ((old_id, old), (id, new)) in before.peers.iter().zip(map.peers.iter()) {
            if Arc::ptr_eq(old, new) {
                continue;
            }
            if old_id != id {
                return all;
            }
            plane |= old.key != new.key || old.expired != new.expired || old.allowed != new.allowed;
            disco |= old.disco != new.disco;
        }
        Self { plane, disco }
    }
}

/// Peers that have another key than in the map before: the old one and the new one.
fn rekeyed(before: &Netmap, map: &Netmap) -> Vec<(Public<NodeKind>, Public<NodeKind>)> {
    let pair = |(id, new): (&NodeId, &Arc<TailnetNode>)| {
        // A number alone may be another node's by now.
        let old = before.peers.get(id).filter(|old| old.name == new.name && old.key != new.key)?;
        Some((old.key, new.key))
    };
    map.peers.iter().filter_map(pair).collect()
}

/// Tells the paths of a peer, and the plane its route in any case: a peer that was away from the plane, because its key had ended, has
/// none there, and paths tell only what changes.
fn set_path(
    now: Instant,
    (plane, paths): (&Plane, &mut Paths),
    key: Public<NodeKind>,
    config: PeerConfig<'_>,
    out: &mut Vec<Action>,
) {
    paths.set_peer(now, key, config, out);
    plane.set_route(&key, paths.route(&key).unwrap_or_default());
}

/// The map as the plane reads it, with the addresses that we have.
fn network(map: &Netmap, addresses: &[IpNet]) -> Network {
    let spec =
        |(_, peer): (&NodeId, &Arc<TailnetNode>)| PeerSpec { key: peer.key, allowed: peer.allowed.clone() };
    Network {
        addresses: addresses.to_vec(),
        // An expired key opens no session.
        peers: map.peers.iter().filter(|(_, peer)| !peer.expired).map(spec).collect(),
        filter: Arc::clone(&map.filter),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]
mod tests {
    use super::super::tests::{kept, plane};
    use super::*;
    use crate::path::{PathConfig, Route};

    #[test]
    fn what_is_made_of_all_peers_is_made_again_for_what_it_is_made_of() {
        let map = kept(3).map.unwrap();
        let with = |change: &dyn Fn(&mut TailnetNode)| {
            let mut peers = (*map.peers).clone();
            let (id, peer) = peers.iter().nth(1).map(|(id, peer)| (*id, (**peer).clone())).unwrap();
            let mut peer = peer;
            change(&mut peer);
            peers.insert(id, Arc::new(peer));
            Netmap { peers: Arc::new(peers), ..map.clone() }
        };
        let none = Changes::default();
        let found = |change: &dyn Fn(&mut TailnetNode)| Changed::between(Some(&map), &with(change), &none);
        let changed = |plane, disco| Changed { plane, disco };
        assert_eq!(found(&|peer| peer.endpoints.clear()), changed(false, false));
        assert_eq!(found(&|peer| peer.name.push('x')), changed(false, false));
        assert_eq!(found(&|peer| peer.disco = None), changed(false, true));
        assert_eq!(found(&|peer| peer.expired = true), changed(true, false));
        assert_eq!(found(&|peer| peer.allowed.clear()), changed(true, false));
        assert_eq!(found(&|peer| peer.key = map.node.key), changed(true, false));
        assert_eq!(Changed::between(None, &map, &none), changed(true, true));
        let mut fewer = (*map.peers).clone();
        fewer.pop_first();
        let fewer = Netmap { peers: Arc::new(fewer), ..map.clone() };
        assert_eq!(Changed::between(Some(&map), &fewer, &none), changed(true, true));
    }

    #[tokio::test]
    async fn a_peer_whose_key_lives_again_is_reached_again() {
        let (plane, _os) = plane();
        let kept = kept(1);
        let map = kept.map.unwrap();
        let peer = Arc::clone(map.peers.values().next().unwrap());
        let mut paths = Paths::new(PathConfig { own: map.node.key, excluded: Vec::new() });
        let mut actions = Vec::new();
        let now = Instant::now();
        let addresses = map.node.addresses.clone();
        let mut publish = |expired| {
            let changed = TailnetNode { expired, ..(*peer).clone() };
            let peers = [(peer.id, Arc::new(changed))].into();
            plane.set_network(&network(&Netmap { peers: Arc::new(peers), ..map.clone() }, &addresses));
            let config = PeerConfig { disco: peer.disco, home: peer.home, endpoints: &[] };
            set_path(now, (&plane, &mut paths), peer.key, config, &mut actions);
        };
        let route = || plane.peer(&peer.key).map(|peer| peer.route());
        let relayed = Some(Route { direct: None, relay: Some(crate::netmap::RegionId(999)) });
        publish(false);
        assert_eq!(route(), relayed);
        publish(true);
        assert_eq!(route(), None, "an expired key opens no session");
        publish(false);
        assert_eq!(route(), relayed);
    }
}
