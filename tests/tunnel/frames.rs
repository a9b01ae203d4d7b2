//! Judges the frames on a machine's wire.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use casemate_qemu::pcap::{self, Going, Packet, TCP, UDP};

use crate::guest::Wire;

/// EtherType (IANA).
const ARP: u16 = 0x0806;

/// Protocol and destination.
pub(crate) type To = (u8, SocketAddrV4);

/// How many packets of a machine went where, so far.
pub(crate) fn sent(wire: &Wire) -> BTreeMap<To, usize> {
    let frames = pcap::read(&wire.dump, &std::fs::read(&wire.dump).unwrap()).unwrap();
    counted(wire.address, &frames).unwrap_or_else(|wrong| panic!("{}: {wrong}", wire.name))
}

/// Whatever is neither from it nor to it, and is no ARP, is wrong: nobody else is on the wire.
fn counted(own: Ipv4Addr, frames: &[Going]) -> Result<BTreeMap<To, usize>, String> {
    if frames.is_empty() {
        return Err("not a frame was recorded".to_owned());
    }
    let own = IpAddr::V4(own);
    let mut sent = BTreeMap::new();
    for frame in frames {
        match frame.packet {
            Some(Packet { to, .. }) if to == own => {}
            Some(Packet { from, to: IpAddr::V4(to), protocol, port }) if from == own => {
                *sent.entry((protocol, SocketAddrV4::new(to, port.unwrap_or(0)))).or_default() += 1;
            }
            None if frame.ethertype == ARP => {}
            _ => return Err(format!("{frame:?}")),
        }
    }
    Ok(sent)
}

/// What is wrong with where a machine's packets went: to each of these, and to nowhere else but those.
pub(crate) fn wrong(sent: &BTreeMap<To, usize>, must: &[To], may: &[To]) -> Vec<String> {
    let others = sent.iter().filter(|(to, _)| !must.contains(to) && !may.contains(to));
    let others = others.map(|(to, count)| format!("{count} packets to {to:?}"));
    others
        .chain(must.iter().filter(|to| !sent.contains_key(to)).map(|to| format!("no packet to {to:?}")))
        .collect()
}

/// Where a machine sends: its login server and relay, that one's STUN, and the other nodes.
pub(crate) fn of_a_node(server: Ipv4Addr, peers: &[SocketAddrV4]) -> Vec<To> {
    let login = (TCP, SocketAddrV4::new(server, crate::headscale::PORT));
    let stun = (UDP, SocketAddrV4::new(server, 3478));
    [login, stun].into_iter().chain(peers.iter().map(|peer| (UDP, *peer))).collect()
}

/// That a machine's packets went to each of these and to nowhere else but those.
pub(crate) fn judge(wire: &Wire, must: &[To], may: &[To]) -> BTreeMap<To, usize> {
    let sent = sent(wire);
    eprintln!("{} sent {sent:?}", wire.name);
    let wrong = wrong(&sent, must, may);
    assert!(wrong.is_empty(), "{}: {}", wire.name, wrong.join(", "));
    sent
}

#[test]
fn a_packet_too_many_and_one_too_few_are_both_seen() {
    let (own, server) = (Ipv4Addr::new(10, 0, 1, 2), Ipv4Addr::new(192, 0, 2, 1));
    let going = |from: Ipv4Addr, to: Ipv4Addr, protocol, port| {
        let packet = Packet { from: from.into(), to: to.into(), protocol, port };
        Going { ethertype: 0x0800, packet: Some(packet) }
    };
    let must = of_a_node(server, &[]);
    let mut frames = vec![
        Going { ethertype: ARP, packet: None },
        going(own, server, TCP, Some(crate::headscale::PORT)),
        going(server, own, TCP, Some(40000)),
        going(own, server, UDP, Some(3478)),
    ];
    assert_eq!(wrong(&counted(own, &frames).unwrap(), &must, &[]), Vec::<String>::new());
    assert_eq!(
        wrong(&counted(own, &frames[..3]).unwrap(), &must, &[]),
        ["no packet to (17, 192.0.2.1:3478)"]
    );
    // An error message, which has no port, counts as any other packet.
    frames.push(going(own, server, 1, None));
    let found = counted(own, &frames).unwrap();
    assert_eq!(wrong(&found, &must, &[]), ["1 packets to (1, 192.0.2.1:0)"]);
    assert!(wrong(&found, &must, &[(1, SocketAddrV4::new(server, 0))]).is_empty());
    assert!(counted(own, &[]).is_err());
    let others =
        [Going { ethertype: 0x86dd, packet: None }, going(server, Ipv4Addr::new(10, 0, 1, 3), UDP, Some(1))];
    for frame in others {
        assert!(counted(own, &[frame]).is_err(), "{frame:?}");
    }
}
