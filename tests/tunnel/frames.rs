//! Judges the frames on a machine's wire.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use casemate_qemu::pcap::{self, Packet, TCP, UDP};

use crate::guest::Guest;

/// EtherType (IANA).
const ARP: u16 = 0x0806;

/// How many packets of a machine went where: protocol and destination. Whatever is neither from it nor to it, and is no ARP, fails:
/// nobody else is on the wire.
fn sent(guest: &Guest) -> BTreeMap<(u8, SocketAddrV4), usize> {
    let own = IpAddr::V4(guest.address);
    let frames = pcap::read(&guest.dump, &std::fs::read(&guest.dump).unwrap()).unwrap();
    assert!(!frames.is_empty(), "{}: not a frame was recorded", guest.name);
    let mut sent = BTreeMap::new();
    for frame in frames {
        match frame.packet {
            Some(Packet { to, .. }) if to == own => {}
            Some(Packet { from, to: IpAddr::V4(to), protocol, port }) if from == own => {
                *sent.entry((protocol, SocketAddrV4::new(to, port.unwrap_or(0)))).or_default() += 1;
            }
            None if frame.ethertype == ARP => {}
            _ => panic!("{}: {frame:?}", guest.name),
        }
    }
    sent
}

/// Where a machine may send: its login server and relay, that one's STUN, and the other nodes.
pub(crate) fn judge(guest: &Guest, server: Ipv4Addr, peers: &[SocketAddrV4]) {
    let sent = sent(guest);
    eprintln!("{} sent {sent:?}", guest.name);
    let login = (TCP, SocketAddrV4::new(server, crate::headscale::PORT));
    let stun = (UDP, SocketAddrV4::new(server, 3478));
    let peers: Vec<_> = peers.iter().map(|peer| (UDP, *peer)).collect();
    for to in sent.keys() {
        assert!(*to == login || *to == stun || peers.contains(to), "{}: a packet to {to:?}", guest.name);
    }
    for to in peers.iter().chain([&login, &stun]) {
        assert!(sent.contains_key(to), "{}: no packet to {to:?}", guest.name);
    }
}
