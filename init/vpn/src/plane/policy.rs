//! Where the packet path asks the packet filter.

use super::counters::Counters;
use super::peer::Peer;
use super::table::Table;
use crate::filter::{Flow, FlowTable, Reason, Verdict};
use crate::packet::Packet;

/// A packet of ours goes out: what answers it may come in. `now` is in seconds.
pub(super) fn record_outbound(table: &Table, flows: &FlowTable, peer: &Peer, packet: &Packet<'_>, now: u32) {
    // What the filter cannot read keeps no state; the kernel made it.
    if let Ok(flow) = Flow::parse(packet.bytes()) {
        table.filter.outbound(&flow.with_peer(peer.mark()), flows, now);
    }
}

/// Whether a peer's packet may come in; if not, it is counted.
pub(super) fn admits(
    table: &Table,
    flows: &FlowTable,
    peer: &Peer,
    packet: &Packet<'_>,
    now: u32,
    counters: &Counters,
) -> bool {
    let verdict = match Flow::parse(packet.bytes()) {
        Ok(flow) => table.filter.inbound(&flow.with_peer(peer.mark()), flows, &table.addresses, now),
        Err(_) => Verdict::Drop(Reason::Malformed),
    };
    match verdict {
        Verdict::Accept => true,
        Verdict::Drop(reason) => {
            counters.filtered(reason);
            false
        }
    }
}
