#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on may panic"
)]

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

const FROM: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub(crate) fn ip_packet(len: usize) -> Vec<u8> {
    let mut packet = vec![0; len];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
    packet
}

struct Pair {
    ours: Box<dyn Engine>,
    theirs: Box<dyn Engine>,
}

fn identities() -> (Identity, Identity) {
    (Identity::new(&Secret::new([1; 32])), Identity::new(&Secret::new([2; 32])))
}

fn joined() -> Pair {
    let (us, them) = identities();
    let (mut ours, mut theirs) = (us.engine(&them.key(), 3), them.engine(&us.key(), 9));
    let (mut one, mut two) = ([0; 2048], [0; 2048]);
    assert!(!ours.has_session());
    let len = ours.initiate(false, &mut one).unwrap();
    assert_eq!(Message::of(&one[..len]), Some(Message::Initiation));
    assert!(matches!(them.beginning(FROM, &one[..len], &mut two), Beginning::From(key) if key == us.key()));
    let Opened::Answer(len) = theirs.open(FROM, &one[..len], &mut two) else { panic!("no response") };
    assert_eq!(Message::of(&two[..len]), Some(Message::Response(3)));
    let Opened::Answer(len) = ours.open(FROM, &two[..len], &mut one) else { panic!("no keepalive") };
    assert_eq!(Message::of(&one[..len]), Some(Message::Data(9)));
    assert_eq!(theirs.open(FROM, &one[..len], &mut two), Opened::Nothing);
    assert!(ours.has_session() && theirs.has_session());
    Pair { ours, theirs }
}

#[test]
fn what_is_sealed_opens_once() {
    let Pair { mut ours, mut theirs } = joined();
    let (mut sealed, mut opened) = ([0; 2048], [0; 2048]);
    for len in [20, 115, 1280] {
        let packet = ip_packet(len);
        let length = ours.seal(&packet, &mut sealed).unwrap();
        assert_eq!(length, len + OVERHEAD);
        assert_eq!(theirs.open(FROM, &sealed[..length], &mut opened), Opened::Packet(len));
        assert_eq!(opened[..len], packet);
        assert_eq!(theirs.open(FROM, &sealed[..length], &mut opened), Opened::Refused(Refused::Replayed));
    }
    let length = ours.seal(&ip_packet(99), &mut sealed).unwrap();
    sealed[40] ^= 1;
    assert_eq!(theirs.open(FROM, &sealed[..length], &mut opened), Opened::Refused(Refused::Forged));
}

#[test]
fn a_slot_that_is_too_short_is_refused_and_not_asserted() {
    let Pair { mut ours, mut theirs } = joined();
    let mut sealed = [0; 2048];
    assert_eq!(ours.seal(&ip_packet(100), &mut sealed[..147]), None);
    assert_eq!(ours.seal(&ip_packet(200), &mut sealed[..231]), None);
    let length = ours.seal(&ip_packet(200), &mut sealed[..232]).unwrap();
    let refused = Opened::Refused(Refused::Malformed);
    assert_eq!(theirs.open(FROM, &sealed[..length], &mut [0; 231]), refused);
    assert_eq!(theirs.open(FROM, &[], &mut [0; 231]), refused);
}

#[test]
fn a_flood_of_beginnings_is_asked_for_cookies() {
    let (us, them) = identities();
    let mut message = [0; 148];
    let length = us.engine(&them.key(), 1).initiate(false, &mut message).unwrap();
    assert_eq!(length, message.len());
    let mut slot = [0; 148];
    let mut cookies = 0;
    for _ in 0..HANDSHAKES_PER_SECOND + 10 {
        match them.beginning(FROM, &message, &mut slot) {
            Beginning::Cookie(length) => {
                assert_eq!(Message::of(&slot[..length]), Some(Message::Cookie(1)));
                cookies += 1;
            }
            Beginning::From(key) => assert_eq!(key, us.key()),
            Beginning::Refused(why) => panic!("{why:?}"),
        }
    }
    assert_eq!(cookies, 10);
    message[140] ^= 1;
    message[120] ^= 1;
    assert!(matches!(them.beginning(FROM, &message, &mut slot), Beginning::Refused(Refused::Forged)));
}

proptest! {
    #[test]
    fn hostile_datagrams_never_panic(kind in 0..6_u8, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let Pair { mut ours, .. } = joined();
        let (us, _) = identities();
        let mut datagram = vec![kind, 0, 0, 0];
        datagram.extend(bytes);
        let mut slot = [0; 512];
        for len in [datagram.len(), 64.min(datagram.len()), 92.min(datagram.len()), 148.min(datagram.len())] {
            let datagram = &datagram[..len];
            let _ = Message::of(datagram);
            prop_assert!(!matches!(us.beginning(FROM, datagram, &mut slot), Beginning::From(_)));
            prop_assert!(!matches!(ours.open(FROM, datagram, &mut slot), Opened::Packet(_)));
        }
    }
}
