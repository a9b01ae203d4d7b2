//! The peer against a stream of bytes in QEMU's place.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use super::answer::{ATTACKER, GATEWAY, GUEST};
use super::frame::{broadcast_dhcp, prefixed};
use super::{Answer, Asked, Kind, MAC, Peer, Summary};

const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const WAIT: Duration = Duration::from_secs(10);

/// The guest's side of the wire.
struct Guest(TcpStream);

impl Guest {
    fn connect(peer: &Peer) -> Self {
        let stream = TcpStream::connect(peer.address()).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        Self(stream)
    }

    fn send(&mut self, frame: &[u8]) {
        // In two pieces: the stream keeps no boundaries.
        let bytes = prefixed(frame).unwrap();
        let (head, tail) = bytes.split_at(7);
        self.0.write_all(head).unwrap();
        std::thread::sleep(Duration::from_millis(30));
        self.0.write_all(tail).unwrap();
    }

    fn receive(&mut self) -> Vec<u8> {
        let mut len = [0; 4];
        self.0.read_exact(&mut len).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(len) as usize];
        self.0.read_exact(&mut frame).unwrap();
        frame
    }
}

fn discover() -> Vec<u8> {
    let mut message = vec![1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef];
    message.extend([0; 20]);
    message.extend(GUEST_MAC);
    message.extend([0; 202]);
    message.extend([99, 130, 83, 99, 53, 1, 1, 255]);
    let mut frame = vec![255; 6];
    frame.extend(GUEST_MAC);
    frame.extend([8, 0, 0x45, 0, 1, 16, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255]);
    frame.extend([0, 68, 0, 67, 0, 252, 0, 0]);
    frame.extend(message);
    frame
}

fn who_has(target: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![255; 6];
    frame.extend(GUEST_MAC);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(GUEST_MAC);
    frame.extend(GUEST);
    frame.extend([0; 6]);
    frame.extend(target);
    frame
}

#[test]
fn answers_come_as_chosen_and_frames_are_recorded() {
    let peer = Peer::listen(|asked| {
        assert_eq!((asked.kind, asked.xid, asked.mac), (Kind::Discover, 0xdead_beef, GUEST_MAC));
        vec![b"garbage".to_vec(), Answer::to(asked).with_hostile_options().bytes()]
    })
    .unwrap();
    assert_eq!(peer.netdev("net0"), format!("socket,id=net0,connect=127.0.0.1:{}", peer.address().port()));
    let mut guest = Guest::connect(&peer);
    guest.send(&discover());
    assert_eq!(&guest.receive()[42..49], b"garbage");
    let offer = guest.receive();
    assert_eq!((&offer[..6], &offer[6..12]), (&[255; 6][..], &MAC[..]));
    assert_eq!(&offer[26..30], GATEWAY);
    assert_eq!(&offer[42 + 16..42 + 20], GUEST);
    assert!(offer.windows(6).any(|window| window == [6, 4, 10, 0, 2, 66]), "the resolver option");

    // ARP is answered for anybody but the guest itself.
    for target in [GATEWAY, ATTACKER] {
        guest.send(&who_has(target));
        let reply = guest.receive();
        assert_eq!((&reply[22..28], &reply[28..32]), (&MAC[..], &target[..]));
        assert_eq!(&reply[38..42], GUEST);
    }
    guest.send(&who_has(GUEST));
    guest.send(&[vec![0x33; 12], vec![0x86, 0xdd], vec![0x60; 60]].concat());
    let ipv6 = peer.wait_for(WAIT, |frame| frame.summary() == Summary::Other(0x86dd));
    assert!(ipv6.is_some());
    guest.0.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(guest.0.read(&mut [0]).is_err(), "no answer to the last two");

    let frames = peer.frames();
    assert_eq!(frames.len(), 5);
    assert_eq!(frames[0].dhcp_kind(), Some(Kind::Discover));
    assert_eq!(
        frames[0].summary(),
        Summary::Ipv4 {
            source: Ipv4Addr::UNSPECIFIED,
            destination: Ipv4Addr::BROADCAST,
            protocol: 17,
            source_port: 68,
            destination_port: 67,
        }
    );
    assert_eq!(
        frames[2].summary(),
        Summary::Arp { request: true, sender: GUEST.into(), target: ATTACKER.into() }
    );
    assert!(frames[2].names(ATTACKER) && !frames[0].names(ATTACKER));
}

#[test]
fn the_next_guest_is_served_after_one_that_breaks_off() {
    let peer = Peer::listen(|asked| vec![Answer::nak(asked).bytes()]).unwrap();
    let mut first = Guest::connect(&peer);
    first.0.write_all(&[0xff; 4]).unwrap();
    assert!(matches!(first.0.read(&mut [0]), Ok(0) | Err(_)), "a frame of 4 GiB ends the connection");
    let mut second = Guest::connect(&peer);
    second.send(&discover());
    assert!(second.receive().windows(3).any(|window| window == [53, 1, 6]));
}

#[test]
fn spoiled_answers_are_all_different_from_the_good_one() {
    let frame_of = |message: &[u8]| broadcast_dhcp(MAC, GATEWAY, message);
    let asked = Asked { kind: Kind::Request, xid: 7, mac: GUEST_MAC, bytes: Vec::new() };
    let good = Answer::to(&asked);
    let mut all = good.spoiled();
    assert!(all.iter().all(|bad| *bad != good.bytes()));
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count);
    // Each fits a frame, with a header checksum that sums to all ones (RFC 1071).
    for bad in all {
        let frame = frame_of(&bad);
        let sum: u32 = frame[14..34].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }
}
