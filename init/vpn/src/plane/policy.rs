//! Where the packet path asks the routing table and the packet filter.

use std::net::IpAddr;

use ipnet::IpNet;

use super::table::Table;
use crate::packet::Packet;

/// Longest prefix first. Stands in for `route::Routes`.
#[derive(Debug)]
pub(super) struct Routes<T>(Vec<(IpNet, T)>);

impl<T> Default for Routes<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Routes<T> {
    pub(super) fn build(nets: impl Iterator<Item = (IpNet, T)>) -> Self {
        let mut nets: Vec<_> = nets.collect();
        // Of equal prefixes the later is found first.
        nets.reverse();
        nets.sort_by_key(|(net, _)| std::cmp::Reverse(net.prefix_len()));
        Self(nets)
    }

    pub(super) fn lookup(&self, address: IpAddr) -> Option<&T> {
        self.0.iter().find(|(net, _)| net.contains(&address)).map(|(_, value)| value)
    }
}

/// What the filter remembers of flows.
#[derive(Debug, Default)]
pub(super) struct Flows {}

impl Flows {
    /// A packet of ours goes out: what answers it may come in.
    pub(super) fn record_outbound(&self, _packet: &Packet<'_>) {}
}

/// Whether a peer's packet may come in.
pub(super) fn admits(table: &Table, _flows: &Flows, packet: &Packet<'_>) -> bool {
    table.addresses.iter().any(|net| net.contains(&packet.destination()))
}
