//! What others cost us, and what becomes of us when something is gone.

use std::net::IpAddr;

use super::*;

/// Gives the plane packets as fast as it takes them.
fn os_sends_all(rig: &Rig, packets: impl Iterator<Item = Vec<u8>>) {
    for packet in packets {
        let mut bytes = VnetHeader::PLAIN.to_bytes().to_vec();
        bytes.extend(packet);
        while nix::unistd::write(&rig.os, &bytes).is_err() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn what_waits_for_peers_that_are_away_is_bounded_over_all_of_them() {
    let peers: Vec<u8> = (2..=101).collect();
    let rig = rig(&peers, ALL);
    let data = [7; 1252];
    let burst = |peer: u8| std::iter::repeat_with(move || udp_packet(1, peer, 1, &data)).take(64);
    os_sends_all(&rig, peers.iter().flat_map(|peer| burst(*peer)));
    // Of 6,400 packets of 1,280 bytes, as many as fit into 4 MiB.
    let kept = (4 << 20) / 1280;
    rig.drops(Reason::WaitingFull, 6400 - kept);
    // With the peers goes what waited for them, and there is room for as much again.
    rig.plane.set_network(&network(&[], ALL));
    rig.plane.set_network(&network(&peers, ALL));
    os_sends_all(&rig, peers.iter().flat_map(|peer| burst(*peer)));
    rig.drops(Reason::WaitingFull, 2 * (6400 - kept));
}

#[test]
fn an_answer_goes_by_our_own_way_too() {
    let rig = rig(&[2], ALL);
    let mut other = Other::new(2, rig.at);
    let elsewhere = UdpSocket::bind("127.0.0.1:0").unwrap();
    elsewhere.set_read_timeout(Some(WAIT)).unwrap();
    rig.plane.set_route(&key(2), Route { direct: elsewhere.local_addr().ok(), relay: None });
    other.sends(&udp_packet(2, 1, 7, b"hello"));
    let mut answers = [[0; 256]; 2];
    assert_eq!(other.socket.recv(&mut answers[0]).unwrap(), 92);
    assert_eq!(elsewhere.recv(&mut answers[1]).unwrap(), 92);
    assert_eq!(answers[0], answers[1]);
}

#[test]
fn a_tsmp_ping_for_another_address_is_not_answered_in_its_name() {
    let rig = rig(&[2], ALL);
    let mut other = Other::new(2, rig.at);
    rig.plane.set_route(&key(2), Route { direct: Some(other.at()), relay: None });
    other.joins();
    other.sends(&ip_packet(2, 77, 99, b"p12345678"));
    rig.drops(Reason::Filtered, 1);
    assert_eq!(rig.plane.counters().by_filter(crate::filter::Reason::NotOurs), 1);
    // What comes next is the answer to the next.
    other.sends(&ip_packet(2, 1, 99, b"pabcdefgh"));
    assert_eq!(Packet::parse(&other.gets()).unwrap().transport(), b"oabcdefgh\0\0");
}

#[test]
fn a_refused_connection_to_another_address_is_not_answered_in_its_name() {
    let rig = rig(&[2], "[]");
    let mut other = Other::new(2, rig.at);
    rig.plane.set_route(&key(2), Route { direct: Some(other.at()), relay: None });
    other.joins();
    let mut tcp = [0_u8; 20];
    tcp[..4].copy_from_slice(&[0x30, 0x39, 0, 80]);
    tcp[12..14].copy_from_slice(&[0x50, 2]);
    other.sends(&ip_packet(2, 77, 6, &tcp));
    rig.drops(Reason::Filtered, 1);
    other.sends(&ip_packet(2, 1, 6, &tcp));
    // What comes first is the rejection of the second.
    let rejection = other.gets();
    assert_eq!(Packet::parse(&rejection).unwrap().source(), IpAddr::from([100, 64, 0, 1]));
    rig.drops(Reason::Filtered, 2);
}

#[test]
fn what_the_paths_never_read_for_its_length_takes_no_place_in_their_queue() {
    let mut rig = rig(&[], ALL);
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let long = [&crate::disco::MAGIC[..], &[7; 60_000]].concat();
    let longest = &long[..crate::disco::MAX_LEN];
    stranger.send_to(&long, rig.at).unwrap();
    stranger.send_to(&long[..=longest.len()], rig.at).unwrap();
    rig.drops(Reason::UnknownKind, 2);
    stranger.send_to(longest, rig.at).unwrap();
    assert_eq!(rig.receivers.outside.blocking_recv().unwrap().bytes, longest);
}
