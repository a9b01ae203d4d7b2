#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on may panic"
)]

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use proptest::prelude::*;

use super::*;

const FROM: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 41641);
const ELSEWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 41642);
const SECOND: u64 = 1000;

fn ip_packet(len: usize) -> Vec<u8> {
    let mut packet = vec![0; len];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
    packet
}

fn identities() -> (Arc<Identity>, Arc<Identity>) {
    let of = |number| Arc::new(Identity::new(&Secret::new([number; 32]), Arc::default()));
    (of(1), of(2))
}

struct Pair {
    us: Arc<Identity>,
    them: Arc<Identity>,
    ours: Tunnel,
    theirs: Tunnel,
}

fn apart() -> Pair {
    let (us, them) = identities();
    let (ours, theirs) = (us.tunnel(1, &them.key(), 3), them.tunnel(1, &us.key(), 9));
    Pair { us, them, ours, theirs }
}

fn proven(identity: &Identity, now: u64, message: &[u8]) -> Proven {
    match identity.beginning(now, FROM, message) {
        Beginning::From(initiation) => initiation.prove(identity).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Ours begins, theirs answers: a session made by us.
fn joined(now: u64) -> Pair {
    let pair = apart();
    join(&pair, now);
    pair
}

fn join(pair: &Pair, now: u64) {
    let begins = pair.ours.initiate_elsewhere(now).unwrap();
    let answer = pair.theirs.respond(now, proven(&pair.them, now, &begins)).unwrap();
    let mut slot = [0; MIN_SLOT];
    let Opened::Answer(len) = pair.ours.shake(now, FROM, &answer, &mut slot) else { panic!("no keepalive") };
    assert_eq!(pair.theirs.opener(now).open(&slot[..len], &mut [0; 64]), Opened::Nothing);
}

fn sealed(tunnel: &Tunnel, now: u64, packet: &[u8]) -> Vec<u8> {
    let mut slot = vec![0; slot_len(packet.len())];
    let length = tunnel.sender(now).unwrap().seal(packet, &mut slot).unwrap();
    tunnel.sent(now);
    slot.truncate(length);
    slot
}

fn opens(tunnel: &Tunnel, now: u64, message: &[u8]) -> Opened {
    tunnel.opener(now).open(message, &mut [0; 2048])
}

fn ticks(tunnel: &Tunnel, now: u64) -> (Tick, [u8; MIN_SLOT]) {
    let mut slot = [0; MIN_SLOT];
    (tunnel.tick(now, &mut slot), slot)
}

#[test]
fn what_is_sealed_opens_once() {
    let Pair { ours, theirs, .. } = joined(1);
    let mut opened = [0; 2048];
    for len in [20, 115, 1280] {
        let packet = ip_packet(len);
        let message = sealed(&ours, 2, &packet);
        assert_eq!(message.len(), len + OVERHEAD);
        assert_eq!(Message::of(&message), Some(Message::Data(9)));
        assert_eq!(theirs.opener(2).open(&message, &mut opened), Opened::Packet(len));
        assert_eq!(opened[..len], packet);
        assert_eq!(opens(&theirs, 2, &message), Opened::Refused(Refused::Replayed));
    }
    let mut message = sealed(&ours, 2, &ip_packet(99));
    message[40] ^= 1;
    assert_eq!(opens(&theirs, 2, &message), Opened::Refused(Refused::Forged));
    // That its seal was wrong took nothing from the one that is right.
    message[40] ^= 1;
    assert_eq!(opens(&theirs, 2, &message), Opened::Packet(99));
    // Filled up to sixteen bytes; cut; and no packet.
    let mut filled = ip_packet(99);
    filled.resize(112, 0);
    assert_eq!(opens(&theirs, 2, &sealed(&ours, 2, &filled)), Opened::Packet(99));
    for bad in [&ip_packet(99)[..98], &[0x55; 40], &[0x45, 0, 0, 19]] {
        assert_eq!(opens(&theirs, 2, &sealed(&ours, 2, bad)), Opened::Refused(Refused::Malformed));
    }
}

#[test]
fn a_slot_that_is_too_short_is_refused() {
    let Pair { ours, theirs, .. } = joined(1);
    let sender = ours.sender(2).unwrap();
    assert_eq!(sender.seal(&ip_packet(200), &mut [0; 231]), None);
    let mut message = [0; 232];
    assert_eq!(sender.seal(&ip_packet(200), &mut message), Some(232));
    assert_eq!(theirs.opener(2).open(&message, &mut [0; 199]), Opened::Refused(Refused::Malformed));
    assert_eq!(theirs.opener(2).open(&message, &mut [0; 200]), Opened::Packet(200));
}

#[test]
fn who_sends_does_not_wait_for_who_receives_and_no_counter_is_used_twice() {
    let Pair { ours, theirs, .. } = joined(1);
    let receives = ours.opener(2);
    let messages: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| (0..1000).map(|_| sealed(&ours, 2, &ip_packet(20))).collect::<Vec<_>>()))
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    drop(receives);
    let counters: HashSet<&[u8]> = messages.iter().map(|message| &message[8..16]).collect();
    assert_eq!(counters.len(), 4000);
    // One thread's after another's: further apart than 1024.
    for message in messages {
        assert_eq!(opens(&theirs, 3, &message), Opened::Packet(20));
    }
}

#[test]
fn an_answered_session_is_not_sent_by_before_the_peer_has_used_it() {
    let pair = apart();
    let begins = pair.ours.initiate(1).unwrap();
    assert_eq!(pair.ours.initiate(2), None, "one is under way");
    let answer = pair.theirs.respond(2, proven(&pair.them, 2, &begins)).unwrap();
    assert_eq!(Message::of(&answer), Some(Message::Response(3)));
    assert!(pair.theirs.sender(3).is_none() && pair.ours.sender(3).is_none());
    let mut slot = [0; MIN_SLOT];
    let Opened::Answer(len) = pair.ours.shake(3, FROM, &answer, &mut slot) else { panic!("no keepalive") };
    assert!(pair.theirs.sender(3).is_none() && pair.ours.sender(3).is_some());
    assert_eq!(opens(&pair.theirs, 4, &slot[..len]), Opened::Nothing);
    assert!(pair.theirs.sender(4).is_some());
    // The same answer again is to nothing.
    assert_eq!(pair.ours.shake(5, FROM, &answer, &mut slot), Opened::Refused(Refused::NoSession));
}

#[test]
fn the_answer_to_an_earlier_beginning_is_taken_and_so_is_the_later_one() {
    let pair = apart();
    let first = pair.ours.initiate(1).unwrap();
    let second = pair.ours.initiate_elsewhere(1_001).unwrap();
    assert_ne!(first, second);
    let one = pair.theirs.respond(1_100, proven(&pair.them, 1_100, &first)).unwrap();
    let two = pair.theirs.respond(1_200, proven(&pair.them, 1_200, &second)).unwrap();
    let mut slot = [0; MIN_SLOT];
    assert!(matches!(pair.ours.shake(1_300, FROM, &one, &mut slot), Opened::Answer(_)));
    let Opened::Answer(len) = pair.ours.shake(1_400, FROM, &two, &mut slot) else { panic!("no keepalive") };
    assert_eq!(opens(&pair.theirs, 1_401, &slot[..len]), Opened::Nothing);
    assert_eq!(opens(&pair.theirs, 1_402, &sealed(&pair.ours, 1_402, &ip_packet(50))), Opened::Packet(50));
    assert_eq!(opens(&pair.ours, 1_403, &sealed(&pair.theirs, 1_403, &ip_packet(50))), Opened::Packet(50));
}

/// The peer took the later beginning, and with it forgot the session of the first: its answer alone came back.
#[test]
fn a_later_beginning_whose_answer_is_lost_is_tried_again() {
    let pair = apart();
    let first = pair.ours.initiate(1).unwrap();
    let second = pair.ours.initiate_elsewhere(1_001).unwrap();
    let one = pair.theirs.respond(1_100, proven(&pair.them, 1_100, &first)).unwrap();
    let _lost = pair.theirs.respond(1_200, proven(&pair.them, 1_200, &second)).unwrap();
    let mut slot = [0; MIN_SLOT];
    let Opened::Answer(len) = pair.ours.shake(1_300, FROM, &one, &mut slot) else { panic!("no keepalive") };
    assert_eq!(opens(&pair.theirs, 1_301, &slot[..len]), Opened::Refused(Refused::NoSession));
    assert_eq!(ticks(&pair.ours, 6_000).0, Tick::Nothing);
    let (tick, third) = ticks(&pair.ours, 6_001 + 333);
    assert_eq!(tick, Tick::Send(148));
    let third = proven(&pair.them, 6_400, third.first_chunk::<148>().unwrap());
    let three = pair.theirs.respond(6_400, third).unwrap();
    let Opened::Answer(len) = pair.ours.shake(6_500, FROM, &three, &mut slot) else { panic!("no keepalive") };
    assert_eq!(opens(&pair.theirs, 6_501, &slot[..len]), Opened::Nothing);
    assert_eq!(opens(&pair.theirs, 6_502, &sealed(&pair.ours, 6_502, &ip_packet(50))), Opened::Packet(50));
    assert_eq!(ticks(&pair.ours, 15_000).0, Tick::Nothing, "it is over");
}

#[test]
fn by_another_way_a_young_beginning_goes_as_it_is() {
    let pair = apart();
    let first = pair.ours.initiate(1).unwrap();
    assert_eq!(pair.ours.initiate_elsewhere(1_000).unwrap(), first);
    let one = pair.theirs.respond(1_100, proven(&pair.them, 1_100, &first)).unwrap();
    assert!(matches!(pair.ours.shake(1_200, FROM, &one, &mut [0; MIN_SLOT]), Opened::Answer(_)));
    // What was answered is not sent again.
    assert_ne!(pair.ours.initiate_elsewhere(1_201).unwrap(), first);
}

/// Both begin before either has heard of the other: each sends by the session that it made.
fn begin_at_once(pair: &Pair, now: u64) {
    let (a, b) = (pair.ours.initiate(now).unwrap(), pair.theirs.initiate(now).unwrap());
    let to_b = pair.ours.respond(now + 30, proven(&pair.us, now + 30, &b)).unwrap();
    let to_a = pair.theirs.respond(now + 30, proven(&pair.them, now + 30, &a)).unwrap();
    let keepalives = [(&pair.ours, to_a), (&pair.theirs, to_b)].map(|(tunnel, answer)| {
        let mut slot = [0; MIN_SLOT];
        let Opened::Answer(len) = tunnel.shake(now + 31, FROM, &answer, &mut slot) else {
            panic!("no keepalive")
        };
        slot[..len].to_vec()
    });
    for (tunnel, keepalive) in [&pair.theirs, &pair.ours].into_iter().zip(keepalives) {
        assert_eq!(opens(tunnel, now + 32, &keepalive), Opened::Nothing);
    }
}

fn opens_both_ways(pair: &Pair, now: u64) {
    for (tunnel, other) in [(&pair.ours, &pair.theirs), (&pair.theirs, &pair.ours)] {
        assert_eq!(opens(other, now, &sealed(tunnel, now, &ip_packet(50))), Opened::Packet(50));
    }
}

#[test]
fn two_that_begin_at_once_have_a_session_and_one_that_renews_it() {
    let pair = apart();
    begin_at_once(&pair, 1);
    opens_both_ways(&pair, 40);
    let later = 40 + 121 * SECOND;
    let renews = [&pair.ours, &pair.theirs].map(|tunnel| {
        drop(sealed(tunnel, later, &ip_packet(50)));
        matches!(ticks(tunnel, later).0, Tick::Send(148))
    });
    assert!(renews.contains(&true));
}

#[test]
fn after_both_began_at_once_a_renewal_loses_nothing_that_is_under_way() {
    for again in [false, true] {
        let pair = apart();
        begin_at_once(&pair, 1);
        let later = 121 * SECOND;
        let under_way = [(&pair.ours, &pair.theirs), (&pair.theirs, &pair.ours)]
            .map(|(tunnel, other)| (other, sealed(tunnel, later, &ip_packet(50))));
        if again {
            begin_at_once(&pair, later)
        } else {
            join(&pair, later)
        }
        for (other, message) in under_way {
            assert_eq!(opens(other, later + 50, &message), Opened::Packet(50), "{again}, {other:?}");
        }
        opens_both_ways(&pair, later + 60);
    }
}

#[test]
fn an_old_session_is_renewed_by_who_made_it_when_it_is_used() {
    let Pair { ours, theirs, .. } = joined(1);
    assert_eq!(ticks(&ours, 121 * SECOND).0, Tick::Nothing, "nobody uses it");
    drop(sealed(&ours, 119 * SECOND, &ip_packet(50)));
    let message = sealed(&theirs, 119 * SECOND, &ip_packet(50));
    assert_eq!(opens(&ours, 119 * SECOND, &message), Opened::Packet(50));
    assert_eq!(ticks(&ours, 119 * SECOND).0, Tick::Nothing);
    drop(sealed(&ours, 121 * SECOND, &ip_packet(50)));
    assert_eq!(ticks(&ours, 121 * SECOND).0, Tick::Send(148));
    drop(sealed(&theirs, 121 * SECOND, &ip_packet(50)));
    assert_eq!(ticks(&theirs, 121 * SECOND).0, Tick::Nothing, "it is not theirs to renew");
    // Who only receives renews it late.
    let Pair { ours, theirs, .. } = joined(1);
    for (at, expected) in [(164, Tick::Nothing), (166, Tick::Send(148))] {
        let message = sealed(&theirs, at * SECOND, &ip_packet(50));
        assert_eq!(opens(&ours, at * SECOND, &message), Opened::Packet(50));
        assert_eq!(ticks(&ours, at * SECOND).0, expected, "{at}");
    }
}

#[test]
fn a_session_ends_and_then_its_tunnel() {
    let Pair { ours, theirs, .. } = joined(1);
    let message = sealed(&ours, 179 * SECOND, &ip_packet(50));
    assert!(ours.sender(180 * SECOND).is_some() && ours.sender(181 * SECOND).is_none());
    assert_eq!(opens(&theirs, 181 * SECOND, &message), Opened::Refused(Refused::NoSession));
    assert_eq!(opens(&theirs, 179 * SECOND, &message), Opened::Packet(50));
    assert_eq!(ticks(&theirs, 182 * SECOND).0, Tick::Ended);
    // It sent and was not answered.
    assert_eq!(ticks(&ours, 195 * SECOND).0, Tick::Send(148));
}

#[test]
fn what_is_received_is_answered_within_ten_seconds_and_what_is_not_answered_begins_anew() {
    let Pair { ours, theirs, .. } = joined(1);
    let now = 20 * SECOND;
    let message = sealed(&ours, now, &ip_packet(50));
    assert_eq!(opens(&theirs, now, &message), Opened::Packet(50));
    assert_eq!(ticks(&theirs, now + 9 * SECOND).0, Tick::Nothing);
    let (tick, slot) = ticks(&theirs, now + 10 * SECOND);
    assert_eq!(tick, Tick::Send(32));
    assert_eq!(ticks(&theirs, now + 30 * SECOND).0, Tick::Nothing, "once");
    assert_eq!(opens(&ours, now + 10 * SECOND, &slot[..32]), Opened::Nothing);
    assert_eq!(ticks(&ours, now + 40 * SECOND).0, Tick::Nothing, "it was answered, and a keepalive is not");
    let now = now + 50 * SECOND;
    drop(sealed(&ours, now, &ip_packet(50)));
    drop(sealed(&ours, now + 14 * SECOND, &ip_packet(50)));
    assert_eq!(ticks(&ours, now + 14 * SECOND).0, Tick::Nothing);
    assert_eq!(ticks(&ours, now + 15 * SECOND).0, Tick::Send(148));
}

#[test]
fn a_beginning_is_repeated_for_a_minute_and_a_half() {
    let Pair { ours, .. } = apart();
    assert!(ours.initiate(1).is_some());
    let mut sent = Vec::new();
    let mut now = 1;
    let ended = loop {
        now += 250;
        match ticks(&ours, now) {
            (Tick::Send(148), message) => sent.push(message),
            (Tick::Nothing, _) => {}
            (Tick::Ended, _) => break now,
            (Tick::Send(_), _) => panic!("not a beginning"),
        }
    };
    assert_eq!(ended, 1 + 90 * SECOND);
    assert!((15..=17).contains(&sent.len()), "{}", sent.len());
    let stamps: HashSet<_> = sent.iter().map(|message| message[88..116].to_vec()).collect();
    assert_eq!(stamps.len(), sent.len());
    // One that never tried waits as long.
    let Pair { ours, .. } = apart();
    assert_eq!(ticks(&ours, 89 * SECOND).0, Tick::Nothing);
    assert_eq!(ticks(&ours, 91 * SECOND).0, Tick::Ended);
}

#[test]
fn a_beginning_is_not_repeated_once_the_peers_own_has_made_a_session() {
    let pair = apart();
    assert!(pair.theirs.initiate(10).is_some(), "it goes nowhere");
    join(&pair, 50);
    for second in 1..60 {
        assert_eq!(ticks(&pair.theirs, second * SECOND).0, Tick::Nothing, "{second}");
    }
}

#[test]
fn a_peer_that_begins_too_often_is_refused() {
    let pair = apart();
    let mut outcomes = Vec::new();
    for now in [100, 110, 121] {
        let begins = pair.us.tunnel(1, &pair.them.key(), 3).initiate(now).unwrap();
        outcomes.push(pair.theirs.respond(now, proven(&pair.them, now, &begins)).is_ok());
    }
    assert_eq!(outcomes, [true, false, true]);
}

#[test]
fn a_flood_of_beginnings_is_asked_for_cookies_that_hold_for_one_port() {
    let Pair { us, them, ours, .. } = apart();
    let mut message = ours.initiate(1).unwrap();
    let mut cookie = None;
    for count in 0..cookie::PER_SECOND + 10 {
        match them.beginning(2, FROM, &message) {
            Beginning::Cookie(reply) => {
                assert!(count >= cookie::PER_SECOND);
                assert_eq!(Message::of(&reply), Some(Message::Cookie(3)));
                cookie = Some(reply);
            }
            Beginning::From(initiation) => {
                assert!(count < cookie::PER_SECOND);
                assert_eq!(initiation.key(), us.key());
            }
            Beginning::Refused(why) => panic!("{why:?}"),
        }
    }
    let cookie = cookie.unwrap();
    let mut forged = cookie;
    forged[40] ^= 1;
    assert_eq!(ours.shake(3, FROM, &forged, &mut [0; 148]), Opened::Refused(Refused::Forged));
    assert_eq!(ours.shake(3, FROM, &cookie, &mut [0; 148]), Opened::Nothing);
    let proves = ours.initiate_elsewhere(4).unwrap();
    assert!(matches!(them.beginning(5, FROM, &proves), Beginning::From(_)));
    assert!(matches!(them.beginning(5, ELSEWHERE, &proves), Beginning::Cookie(_)));
    // A second later nobody is asked.
    assert!(matches!(them.beginning(1005, ELSEWHERE, &message), Beginning::From(_)));
    message[120] ^= 1;
    assert!(matches!(them.beginning(1005, FROM, &message), Beginning::Refused(Refused::Forged)));
    // And after two minutes a cookie is none.
    let late = ours.initiate_elsewhere(125 * SECOND).unwrap();
    assert_eq!(late[132..], [0; 16]);
}

/// Somebody begins as often as nobody has to prove an address.
fn keep_busy(identity: &Identity, now: u64) {
    let somebody = Arc::new(Identity::new(&Secret::new([3; 32]), Arc::default()));
    let begins = somebody.tunnel(1, &identity.key(), 4).initiate(1).unwrap();
    for _ in 0..cookie::PER_SECOND {
        drop(identity.beginning(now, ELSEWHERE, &begins));
    }
}

#[test]
fn an_answer_has_to_prove_its_address_too_and_the_next_one_does() {
    let pair = apart();
    let begins = pair.ours.initiate(1).unwrap();
    let answer = pair.theirs.respond(1, proven(&pair.them, 1, &begins)).unwrap();
    let mut slot = [0; MIN_SLOT];
    keep_busy(&pair.us, 2);
    let Opened::Cookie(len) = pair.ours.shake(2, FROM, &answer, &mut slot) else { panic!("no cookie") };
    assert!(pair.ours.sender(2).is_none());
    assert_eq!(Message::of(&slot[..len]), Some(Message::Cookie(9)));
    assert_eq!(pair.theirs.shake(3, FROM, &slot[..len], &mut [0; MIN_SLOT]), Opened::Nothing);
    let now = 6 * SECOND;
    let (tick, begins) = ticks(&pair.ours, now);
    assert_eq!(tick, Tick::Send(148));
    let begins = proven(&pair.them, now, &begins);
    let answer = pair.theirs.respond(now, begins).unwrap();
    keep_busy(&pair.us, now);
    assert!(matches!(pair.ours.shake(now, FROM, &answer, &mut slot), Opened::Answer(_)));
}

#[test]
fn a_worn_session_is_renewed_by_either_side() {
    for ours in [true, false] {
        let pair = joined(1);
        let tunnel = if ours { &pair.ours } else { &pair.theirs };
        let sender = tunnel.sender(2).unwrap();
        sender.wear(session::REKEY_AFTER_MESSAGES - 1);
        assert_eq!(ticks(tunnel, 2).0, Tick::Nothing);
        drop(sealed(tunnel, 2, &ip_packet(50)));
        assert_eq!(ticks(tunnel, 3).0, Tick::Send(148));
    }
}

/// boringtun in the place of the peer.
fn boringtun(limit: Option<u64>) -> Tunn {
    let secret = StaticSecret::from([2; 32]);
    let limiter = limit.map(|limit| Arc::new(RateLimiter::new(&PublicKey::from(&secret), limit)));
    let us = PublicKey::from(*Secret::<Node>::new([1; 32]).public().bytes());
    Tunn::new(secret, us, None, None, 77, limiter)
}

fn written(result: TunnResult<'_>) -> Vec<u8> {
    match result {
        TunnResult::WriteToNetwork(bytes) => bytes.to_vec(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn boringtun_answers_and_is_answered() {
    let mut room = [0; 2048];
    for we_begin in [true, false] {
        let (us, them) = identities();
        let ours = us.tunnel(1, &them.key(), 3);
        let mut theirs = boringtun(None);
        if we_begin {
            let begins = ours.initiate(1).unwrap();
            let answer = written(theirs.decapsulate(None, &begins, &mut room));
            let mut slot = [0; MIN_SLOT];
            let Opened::Answer(len) = ours.shake(2, FROM, &answer, &mut slot) else { panic!("no keepalive") };
            assert!(matches!(theirs.decapsulate(None, &slot[..len], &mut room), TunnResult::Done));
        } else {
            let begins = written(theirs.format_handshake_initiation(&mut room, false));
            let answer = ours.respond(1, proven(&us, 1, &begins)).unwrap();
            let keepalive = written(theirs.decapsulate(None, &answer, &mut room));
            assert_eq!(opens(&ours, 2, &keepalive), Opened::Nothing);
        }
        for len in [20, 1280] {
            let packet = ip_packet(len);
            let message = sealed(&ours, 3, &packet);
            match theirs.decapsulate(None, &message, &mut room) {
                TunnResult::WriteToTunnelV4(opened, _) => assert_eq!(opened, packet),
                other => panic!("{other:?}"),
            }
            let message = written(theirs.encapsulate(&packet, &mut room));
            let mut slot = [0; 2048];
            assert_eq!(ours.opener(4).open(&message, &mut slot), Opened::Packet(len));
            assert_eq!(slot[..len], packet);
        }
    }
}

#[test]
fn boringtun_asks_for_a_cookie_and_takes_it_and_takes_ours() {
    let (us, them) = identities();
    let ours = us.tunnel(1, &them.key(), 3);
    let mut room = [0; 2048];
    let mut theirs = boringtun(Some(0));
    let begins = ours.initiate(1).unwrap();
    let cookie = written(theirs.decapsulate(Some(FROM.ip()), &begins, &mut room));
    assert_eq!(Message::of(&cookie), Some(Message::Cookie(3)));
    assert_eq!(ours.shake(2, FROM, &cookie, &mut [0; 148]), Opened::Nothing);
    let begins = ours.initiate_elsewhere(3).unwrap();
    let answer = written(theirs.decapsulate(Some(FROM.ip()), &begins, &mut room));
    assert_eq!(Message::of(&answer), Some(Message::Response(3)));

    let mut theirs = boringtun(None);
    let begins = written(theirs.format_handshake_initiation(&mut room, false));
    let reply = (0..=cookie::PER_SECOND).find_map(|_| match us.beginning(5, FROM, &begins) {
        Beginning::Cookie(reply) => Some(reply),
        _ => None,
    });
    assert!(matches!(theirs.decapsulate(None, &reply.unwrap(), &mut room), TunnResult::Done));
    let proves = written(theirs.format_handshake_initiation(&mut room, true));
    assert!(matches!(us.beginning(6, FROM, &proves), Beginning::From(_)));
}

proptest! {
    #[test]
    fn hostile_datagrams_never_panic(kind in 0..6_u8, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let Pair { us, ours, .. } = joined(1);
        let mut datagram = vec![kind, 0, 0, 0];
        datagram.extend(bytes);
        let mut slot = [0; 512];
        for len in [datagram.len(), 64.min(datagram.len()), 92.min(datagram.len()), 148.min(datagram.len())] {
            let datagram = &datagram[..len];
            let _ = Message::of(datagram);
            prop_assert!(!matches!(us.beginning(2, FROM, datagram), Beginning::From(_)));
            prop_assert!(matches!(ours.shake(2, FROM, datagram, &mut slot), Opened::Refused(_)));
            prop_assert!(matches!(ours.opener(2).open(datagram, &mut slot), Opened::Refused(_)));
        }
    }
}
