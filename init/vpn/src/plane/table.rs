//! Who is who: replaced as a whole, never changed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::peer::Peer;
use crate::engine::Identity;
use crate::filter::Filter;
use crate::key::{Node, Public};
use crate::route::Routes;

/// What a peer may be: its key, and the addresses that are its.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSpec {
    /// Its key.
    pub key: Public<Node>,
    /// Its addresses and routes.
    pub allowed: Vec<IpNet>,
}

/// All that the plane must know of the network.
#[derive(Clone, Debug)]
pub struct Network {
    /// Our addresses and routes.
    pub addresses: Vec<IpNet>,
    /// The peers. Of two that claim one prefix, the first has it.
    pub peers: Vec<PeerSpec>,
    /// What they may send us.
    pub filter: Arc<Filter>,
}

/// The network as the packet path reads it.
#[derive(Clone, Debug)]
pub struct Table {
    pub(super) identity: Arc<Identity>,
    pub(super) addresses: Arc<[IpNet]>,
    pub(super) filter: Arc<Filter>,
    peers: Arc<Peers>,
}

#[derive(Debug, Default)]
struct Peers {
    routes: Routes<Arc<Peer>>,
    slots: Vec<Option<Arc<Peer>>>,
    by_key: HashMap<Public<Node>, Arc<Peer>>,
}

impl Table {
    pub(super) fn empty(identity: Arc<Identity>) -> Self {
        Self { identity, addresses: Arc::from([]), filter: Arc::default(), peers: Arc::default() }
    }

    pub(super) fn with_filter(&self, filter: Arc<Filter>) -> Self {
        Self { filter, ..self.clone() }
    }

    /// Whether an address is one of ours.
    pub(super) fn is_ours(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|net| net.contains(&address))
    }

    /// The peer that an address belongs to.
    pub fn owner(&self, address: IpAddr) -> Option<&Arc<Peer>> {
        self.peers.routes.lookup(address)
    }

    /// The peer with a key.
    pub fn peer(&self, key: &Public<Node>) -> Option<&Arc<Peer>> {
        self.peers.by_key.get(key)
    }

    /// All peers.
    pub fn peers(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.peers.by_key.values()
    }

    /// The peer whose messages carry this slot.
    pub(super) fn slot(&self, slot: u32) -> Option<&Arc<Peer>> {
        self.peers.slots.get(usize::try_from(slot).ok()?)?.as_ref()
    }
}

/// Gives out slots; held by who changes the table.
#[derive(Debug, Default)]
pub(super) struct Slots {
    peers: HashMap<Public<Node>, (Arc<Peer>, Vec<IpNet>)>,
    /// Their keys, as the network has them one after another: of two that claim one prefix, the first has it.
    order: Vec<Public<Node>>,
    slots: Vec<Option<Arc<Peer>>>,
    free: Vec<u32>,
}

impl Slots {
    /// The table of a network, and the peers that are gone.
    pub(super) fn build(&mut self, identity: Arc<Identity>, network: &Network) -> (Table, Vec<Arc<Peer>>) {
        let mut peers = HashMap::with_capacity(network.peers.len());
        for spec in &network.peers {
            let peer = match self.peers.remove(&spec.key) {
                Some((peer, _)) => peer,
                None if peers.contains_key(&spec.key) => continue,
                None => self.add(spec.key),
            };
            peers.insert(spec.key, (peer, spec.allowed.clone()));
        }
        let gone: Vec<_> =
            std::mem::replace(&mut self.peers, peers).into_values().map(|(peer, _)| peer).collect();
        for peer in &gone {
            self.remove(peer);
        }
        self.order = network.peers.iter().map(|spec| spec.key).collect();
        let in_order = self.order.iter().filter_map(|key| self.peers.get(key));
        let routes = Routes::build(
            in_order.flat_map(|(peer, allowed)| allowed.iter().map(move |&net| (net, Arc::clone(peer)))),
        );
        (
            self.table(
                identity,
                Arc::from(network.addresses.as_slice()),
                Arc::clone(&network.filter),
                routes,
            ),
            gone,
        )
    }

    /// The same network under another key of ours: all peers are new.
    pub(super) fn rekey(&mut self, identity: Arc<Identity>, now: &Table) -> (Table, Vec<Arc<Peer>>) {
        let mut old = std::mem::take(&mut self.peers);
        let mut gone = Vec::new();
        let mut nets = Vec::new();
        for key in self.order.clone() {
            let Some((peer, allowed)) = old.remove(&key) else { continue };
            self.remove(&peer);
            let new = self.add(key);
            new.set_route(peer.route());
            nets.extend(allowed.iter().map(|&net| (net, Arc::clone(&new))));
            self.peers.insert(key, (new, allowed));
            gone.push(peer);
        }
        let routes = Routes::build(nets);
        (self.table(identity, Arc::clone(&now.addresses), Arc::clone(&now.filter), routes), gone)
    }

    fn table(
        &self,
        identity: Arc<Identity>,
        addresses: Arc<[IpNet]>,
        filter: Arc<Filter>,
        routes: Routes<Arc<Peer>>,
    ) -> Table {
        let by_key = self.peers.iter().map(|(key, (peer, _))| (*key, Arc::clone(peer))).collect();
        Table {
            identity,
            addresses,
            filter,
            peers: Arc::new(Peers { routes, slots: self.slots.clone(), by_key }),
        }
    }

    fn add(&mut self, key: Public<Node>) -> Arc<Peer> {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        let peer = Peer::new(key, slot);
        if let Some(place) = usize::try_from(slot).ok().and_then(|slot| self.slots.get_mut(slot)) {
            *place = Some(Arc::clone(&peer));
        }
        peer
    }

    fn remove(&mut self, peer: &Peer) {
        if let Some(place) = usize::try_from(peer.slot()).ok().and_then(|slot| self.slots.get_mut(slot)) {
            *place = None;
            self.free.push(peer.slot());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Secret;

    #[test]
    fn under_another_key_of_ours_a_prefix_stays_whose_it_was() {
        let identity = |number| Arc::new(Identity::new(&Secret::new([number; 32]), Arc::default()));
        let key = |number| Public::new([number; 32]);
        let network = |numbers: &[u8]| Network {
            addresses: Vec::new(),
            peers: numbers
                .iter()
                .map(|&number| PeerSpec { key: key(number), allowed: vec!["100.64.0.0/24".parse().unwrap()] })
                .collect(),
            filter: Arc::default(),
        };
        let owner = |table: &Table| table.owner("100.64.0.9".parse().unwrap()).map(|peer| peer.key());
        let mut slots = Slots::default();
        slots.build(identity(1), &network(&[2, 3]));
        slots.build(identity(1), &network(&[3]));
        // The new one has the slot of the one that is gone, which is before the older one's.
        let (table, _) = slots.build(identity(1), &network(&[3, 4]));
        assert!(table.peer(&key(4)).unwrap().slot() < table.peer(&key(3)).unwrap().slot());
        assert_eq!(owner(&table), Some(key(3)));
        let (table, gone) = slots.rekey(identity(5), &table);
        assert_eq!((owner(&table), gone.len()), (Some(key(3)), 2));
        let (table, gone) = slots.rekey(identity(6), &table);
        assert_eq!((owner(&table), gone.len()), (Some(key(3)), 2));
    }
}
