//! Messages that a peer, a relay or somebody on the way should not have sent.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::*;
use super::machine::{DISCO, HOME, PEER, address, calls, paths, pings, pong};
use crate::disco::{MAX_ENDPOINTS, Message, TxId};
use crate::key::{Disco, Node, Public};

const OTHER_NODE: Public<Node> = Public::new([3; 32]);
const OTHER_DISCO: Public<Disco> = Public::new([103; 32]);

fn with_other(now: Instant, endpoints: &[SocketAddr]) -> Paths {
    let mut paths = paths(now, endpoints, Some(DISCO));
    let config = PeerConfig { disco: Some(OTHER_DISCO), home: Some(HOME), endpoints: &[] };
    paths.set_peer(now, OTHER_NODE, config, &mut Vec::new());
    paths
}

/// The peer is wanted, and has one address: what it was pinged with there.
fn pinged(now: Instant, address: SocketAddr) -> (Paths, TxId) {
    let mut paths = with_other(now, &[address]);
    let mut out = Vec::new();
    paths.wanted(now, &PEER, &mut out);
    (paths, pings(&out)[0].1)
}

fn numbered(number: u32) -> TxId {
    let mut txid = [0; 12];
    txid[..4].copy_from_slice(&number.to_be_bytes());
    txid
}

#[test]
fn only_the_peer_that_was_pinged_can_answer_and_once() {
    let now = Instant::now();
    let a = address("192.0.2.1:1");
    let (mut paths, txid) = pinged(now, a);
    let mut out = Vec::new();
    let at = now + Duration::from_millis(5);
    let mut wrong = txid;
    wrong[0] ^= 1;
    let relay = Source::Relay { region: HOME, node: PEER };
    assert_eq!(paths.on_disco(at, &DISCO, Source::Udp(a), &pong(wrong), &mut out), Outcome::UnknownPong);
    assert_eq!(paths.on_disco(at, &OTHER_DISCO, Source::Udp(a), &pong(txid), &mut out), Outcome::UnknownPong);
    assert_eq!(paths.on_disco(at, &DISCO, relay, &pong(txid), &mut out), Outcome::UnknownPong);
    assert_eq!(out, []);
    assert_eq!(paths.on_disco(at, &DISCO, Source::Udp(a), &pong(txid), &mut out), Outcome::Taken);
    // Replayed, it does not renew the trust.
    for late in [at, at + Duration::from_secs(4), at + TRUST - Duration::from_millis(1)] {
        assert_eq!(paths.on_disco(late, &DISCO, Source::Udp(a), &pong(txid), &mut out), Outcome::UnknownPong);
    }
    paths.tick(at + TRUST, &mut out);
    assert!(!paths.status(at + TRUST, &PEER).unwrap().trusted);
}

#[test]
fn a_pong_that_comes_too_late_proves_nothing() {
    let now = Instant::now();
    let a = address("192.0.2.1:1");
    let (mut paths, txid) = pinged(now, a);
    let mut out = Vec::new();
    let late = now + PING_TIMEOUT;
    assert_eq!(paths.on_disco(late, &DISCO, Source::Udp(a), &pong(txid), &mut out), Outcome::UnknownPong);
}

#[test]
fn a_call_me_maybe_comes_by_a_relay_and_from_its_node() {
    let now = Instant::now();
    let mut paths = with_other(now, &[]);
    let mut out = Vec::new();
    let call = Message::CallMeMaybe { endpoints: vec![address("192.0.2.9:1")] };
    let udp = Source::Udp(address("192.0.2.1:1"));
    let wrong = Source::Relay { region: HOME, node: OTHER_NODE };
    let stranger = Source::Relay { region: HOME, node: Public::new([9; 32]) };
    assert_eq!(paths.on_disco(now, &DISCO, udp, &call, &mut out), Outcome::NotByRelay);
    assert_eq!(paths.on_disco(now, &DISCO, wrong, &call, &mut out), Outcome::WrongNode);
    assert_eq!(paths.on_disco(now, &DISCO, stranger, &call, &mut out), Outcome::WrongNode);
    assert_eq!(paths.on_disco(now, &Public::new([99; 32]), wrong, &call, &mut out), Outcome::UnknownSender);
    assert_eq!(paths.on_disco(now, &DISCO, wrong, &Message::Unknown(5), &mut out), Outcome::WrongNode);
    assert_eq!(paths.on_disco(now, &DISCO, udp, &Message::Unknown(5), &mut out), Outcome::Ignored);
    assert_eq!(out, []);
    let right = Source::Relay { region: HOME, node: PEER };
    assert_eq!(paths.on_disco(now, &DISCO, right, &call, &mut out), Outcome::Taken);
    assert_eq!((pings(&out).len(), calls(&out)), (1, 0), "it is followed, not answered in kind");
}

#[test]
fn a_ping_is_answered_once_where_it_came_from() {
    let now = Instant::now();
    let mut paths = with_other(now, &[]);
    let mut out = Vec::new();
    let source = address("192.0.2.50:7");
    let ping = Message::Ping { txid: [5; 12], node: Some(PEER) };
    assert_eq!(paths.on_disco(now, &DISCO, Source::Udp(source), &ping, &mut out), Outcome::Taken);
    let answer = Message::Pong { txid: [5; 12], source };
    assert!(out.contains(&Action::Disco { peer: PEER, to: Via::Udp(source), message: answer }));
    out.clear();
    for from in [source, address("192.0.2.51:7")] {
        assert_eq!(paths.on_disco(now, &DISCO, Source::Udp(from), &ping, &mut out), Outcome::Refused);
    }
    assert_eq!(out, []);
    // By the relay: answered there, with the address that stands for it.
    let by_relay = Message::Ping { txid: [6; 12], node: None };
    paths.on_disco(now, &DISCO, Source::Relay { region: HOME, node: PEER }, &by_relay, &mut out);
    let answer = Message::Pong { txid: [6; 12], source: address("127.3.3.40:7") };
    assert_eq!(out, [Action::Disco { peer: PEER, to: Via::Relay(HOME), message: answer }]);
    // From inside the tailnet, or from nowhere: not at all.
    out.clear();
    let ping = Message::Ping { txid: [7; 12], node: None };
    for from in ["100.64.0.7:1", "224.0.0.1:1", "0.0.0.0:1", "192.0.2.1:0"] {
        let outcome = paths.on_disco(now, &DISCO, Source::Udp(address(from)), &ping, &mut out);
        assert_eq!(outcome, Outcome::Refused, "{from}");
    }
    assert_eq!(out, []);
}

#[test]
fn a_relay_cannot_draw_traffic_by_sending_again_what_it_has_seen() {
    let now = Instant::now();
    let mut paths = with_other(now, &[]);
    let mut out = Vec::new();
    let evil = Source::Relay { region: RegionId(66), node: PEER };
    let ping = Message::Ping { txid: [5; 12], node: None };
    let call = Message::CallMeMaybe { endpoints: vec![address("192.0.2.1:1")] };
    for message in [&ping, &call] {
        assert_eq!(paths.on_disco(now, &DISCO, evil, message, &mut out), Outcome::Taken);
        assert_eq!(paths.route(&PEER).unwrap().relay, Some(HOME));
    }
    // The ping is answered where it came from all the same.
    assert!(out.iter().any(|action| matches!(action, Action::Disco { to: Via::Relay(RegionId(66)), .. })));
    paths.received(now, &PEER, Via::Relay(RegionId(66)), &mut out);
    assert_eq!(paths.route(&PEER).unwrap().relay, Some(RegionId(66)));
}

#[test]
fn a_flood_of_pings_gets_no_more_than_it_brings() {
    let start = Instant::now();
    let mut paths = with_other(start, &[address("192.0.2.1:1")]);
    let mut out = Vec::new();
    let mut now = start;
    for number in 0..10_000_u32 {
        now += Duration::from_millis(1);
        let [_, _, high, low] = number.to_be_bytes();
        let source = SocketAddr::new([198, 18, high, low].into(), 1000);
        let ping = Message::Ping { txid: numbered(number), node: None };
        paths.on_disco(now, &DISCO, Source::Udp(source), &ping, &mut out);
    }
    let back = pings(&out).len();
    let pongs = out.len() - back;
    assert_eq!(pongs, 10_000);
    assert!(back <= 11, "{back} pings back in 10 s");
    let status = paths.status(now, &PEER).unwrap();
    assert_eq!(status.candidates, MAX_ENDPOINTS);
    // What the map says is still among them.
    out.clear();
    paths.wanted(now, &PEER, &mut out);
    assert!(pings(&out).iter().any(|(to, _)| *to == address("192.0.2.1:1")));
    assert!(pings(&out).len() <= MAX_ENDPOINTS);
}

#[test]
fn old_pings_from_anywhere_take_no_path_away() {
    let start = Instant::now();
    // Neither the map nor a call says where the peer is: its NAT has another port for us.
    let mut paths = with_other(start, &[]);
    let mut out = Vec::new();
    let b = address("192.0.2.77:5");
    let ping = Message::Ping { txid: numbered(u32::MAX), node: None };
    paths.on_disco(start, &DISCO, Source::Udp(b), &ping, &mut out);
    let mut now = start;
    for second in 0..60 {
        now = start + Duration::from_secs(second);
        paths.wanted(now, &PEER, &mut out);
        paths.tick(now, &mut out);
        for (_, txid) in pings(&std::mem::take(&mut out)).into_iter().filter(|(to, _)| *to == b) {
            paths.on_disco(now, &DISCO, Source::Udp(b), &pong(txid), &mut out);
        }
        for number in 0..150 {
            let source = SocketAddr::new([198, 18, 0, 1].into(), 1000 + number);
            let txid = numbered(u32::try_from(second).unwrap() * 1000 + u32::from(number));
            paths.on_disco(now, &DISCO, Source::Udp(source), &Message::Ping { txid, node: None }, &mut out);
        }
        assert_eq!(paths.route(&PEER).unwrap(), Route { direct: Some(b), relay: None }, "{second}");
    }
    // Without pongs it is no longer believed, but looked for: it was heard of a moment ago.
    out.clear();
    for second in 1..30 {
        let now = now + Duration::from_secs(second);
        paths.wanted(now, &PEER, &mut out);
        paths.tick(now, &mut out);
    }
    assert_eq!(paths.route(&PEER).unwrap().relay, Some(HOME));
    let looked = pings(&out).iter().filter(|(to, _)| *to == b).count();
    assert!(looked >= 5, "{looked} pings in 29 s");
}

#[test]
fn a_flood_of_calls_is_followed_once_a_second() {
    let start = Instant::now();
    let mut paths = with_other(start, &[]);
    let mut out = Vec::new();
    let source = Source::Relay { region: HOME, node: PEER };
    for number in 0..5000_u32 {
        let now = start + Duration::from_millis(u64::from(number));
        let [_, _, high, low] = number.to_be_bytes();
        let endpoints = (0..100).map(|port| SocketAddr::new([198, 18, high, low].into(), 1000 + port));
        let call = Message::CallMeMaybe { endpoints: endpoints.collect() };
        while paths.next_deadline().is_some_and(|at| at <= now) {
            paths.tick(now, &mut out);
        }
        paths.on_disco(now, &DISCO, source, &call, &mut out);
    }
    assert!(pings(&out).len() <= 500, "{}", pings(&out).len());
    // The last one is not lost.
    out.clear();
    while let Some(at) = paths.next_deadline() {
        paths.tick(at, &mut out);
    }
    let last = SocketAddr::new([198, 18, 19, 135].into(), 1000);
    assert!(pings(&out).iter().any(|(to, _)| *to == last), "{:?}", pings(&out).first());
    let status = paths.status(start + Duration::from_secs(60), &PEER).unwrap();
    assert!(status.candidates <= MAX_ENDPOINTS);
}

#[test]
fn the_map_cannot_fill_more_than_its_share() {
    let now = Instant::now();
    let many = (1..=500).map(|port| SocketAddr::new([192, 0, 2, 1].into(), port)).collect::<Vec<_>>();
    let mut paths = with_other(now, &many);
    let mut out = Vec::new();
    paths.wanted(now, &PEER, &mut out);
    assert_eq!(pings(&out).len(), MAX_ENDPOINTS);
    let source = Source::Udp(address("192.0.2.200:9"));
    let ping = Message::Ping { txid: [1; 12], node: None };
    assert_eq!(paths.on_disco(now, &DISCO, source, &ping, &mut out), Outcome::Taken);
}

#[test]
fn an_ipv4_address_written_as_ipv6_is_that_address() {
    let now = Instant::now();
    let told = ["[::ffff:192.0.2.1]:1", "192.0.2.1:1", "[::ffff:100.64.0.7]:1", "[::ffff:0.0.0.0]:1"];
    let mut paths = with_other(now, &told.map(address));
    let mut out = Vec::new();
    paths.wanted(now, &PEER, &mut out);
    let to: Vec<_> = pings(&out).into_iter().map(|(to, _)| to).collect();
    assert_eq!(to, [address("192.0.2.1:1")], "once, and nobody inside the tailnet or nowhere");
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Wanted,
    Received(u8),
    Ping(u8, u8),
    Pong(u8, usize),
    Call(u8, u8),
    Map(Option<u8>, u8),
    Endpoints,
    Gone,
    Network,
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0_u64..20_000).prop_map(Step::Wait),
        3 => Just(Step::Wanted),
        2 => any::<u8>().prop_map(Step::Received),
        2 => any::<(u8, u8)>().prop_map(|(from, txid)| Step::Ping(from, txid)),
        3 => any::<(u8, usize)>().prop_map(|(from, which)| Step::Pong(from, which)),
        2 => any::<(u8, u8)>().prop_map(|(first, count)| Step::Call(first, count)),
        1 => any::<(Option<u8>, u8)>().prop_map(|(disco, count)| Step::Map(disco, count)),
        1 => Just(Step::Endpoints),
        1 => Just(Step::Gone),
        1 => Just(Step::Network),
    ]
}

/// An even number is an address, an odd one a relay.
fn via(number: u8) -> Via {
    if number.is_multiple_of(2) {
        Via::Udp(SocketAddr::new([192, 0, 2, number].into(), 41641))
    } else {
        Via::Relay(RegionId(u32::from(number % 5)))
    }
}

fn some(first: u8, count: u8) -> Vec<SocketAddr> {
    (0..count).map(|port| SocketAddr::new([192, 0, 2, first].into(), u16::from(port))).collect()
}

proptest! {
    #[test]
    fn whatever_happens_the_machine_stays_bounded_and_goes_on(steps in proptest::collection::vec(steps(), 0..150)) {
        let mut now = Instant::now();
        let mut paths = with_other(now, &some(1, 3));
        let mut disco = DISCO;
        let mut sent = Vec::<(Via, TxId)>::new();
        for step in steps {
            let mut out = Vec::new();
            let mut pongs = 0;
            let source = |from| match via(from) {
                Via::Udp(address) => Source::Udp(address),
                Via::Relay(region) => Source::Relay { region, node: PEER },
            };
            match &step {
                Step::Wait(millis) => {
                    let end = now + Duration::from_millis(*millis);
                    while let Some(at) = paths.next_deadline().filter(|at| *at <= end) {
                        now = now.max(at);
                        paths.tick(now, &mut out);
                        prop_assert!(paths.next_deadline().is_none_or(|at| at > now), "it does not move");
                    }
                    now = end;
                }
                Step::Wanted => paths.wanted(now, &PEER, &mut out),
                Step::Received(from) => paths.received(now, &PEER, via(*from), &mut out),
                Step::Ping(from, txid) => {
                    let ping = Message::Ping { txid: [*txid; 12], node: None };
                    paths.on_disco(now, &disco, source(*from), &ping, &mut out);
                    pongs = 1;
                }
                Step::Pong(from, which) => {
                    if let Some((_, txid)) = which.checked_rem(sent.len()).and_then(|which| sent.get(which)) {
                        paths.on_disco(now, &disco, source(*from), &pong(*txid), &mut out);
                    }
                }
                Step::Call(first, count) => {
                    let call = Message::CallMeMaybe { endpoints: some(*first, *count) };
                    paths.on_disco(now, &disco, source(1), &call, &mut out);
                }
                Step::Map(key, count) => {
                    let key = key.map(|key| Public::new([key.max(1); 32]));
                    disco = key.unwrap_or(disco);
                    let endpoints = some(2, *count);
                    let config = PeerConfig { disco: key, home: Some(HOME), endpoints: &endpoints };
                    paths.set_peer(now, PEER, config, &mut out);
                }
                Step::Endpoints => paths.set_endpoints(now, vec![address("198.51.100.9:1")], &mut out),
                Step::Gone => paths.region_lost(now, RegionId(1), &mut out),
                Step::Network => paths.network_changed(now, &mut out),
            }
            let answered = out.iter().filter(|action| matches!(action, Action::Disco { message: Message::Pong { .. }, .. })).count();
            prop_assert!(answered <= pongs, "{answered} pongs for {step:?}");
            prop_assert!(!matches!(step, Step::Ping(..)) || pings(&out).len() <= 1);
            let status = paths.status(now, &PEER).unwrap();
            prop_assert!(status.candidates <= MAX_ENDPOINTS);
            let route = paths.route(&PEER).unwrap();
            // Something is always tried, and the relay is left out only for a path that is believed or a tunnel that answers.
            prop_assert!(route.direct.is_some() || route.relay.is_some());
            for action in out {
                if let Action::Disco { to, message: Message::Ping { txid, .. }, .. } = action {
                    sent.push((to, txid));
                }
            }
        }
    }
}

#[test]
fn a_pong_is_its_pings_however_many_nodes_have_its_disco_key() {
    let now = Instant::now();
    let a = address("192.0.2.1:1");
    let mut paths = paths(now, &[], None);
    let key = |n: u16| {
        let mut bytes = [9; 32];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        Public::<Node>::new(bytes)
    };
    for n in 0..300 {
        let config = PeerConfig { disco: Some(OTHER_DISCO), home: Some(HOME), endpoints: &[a] };
        paths.set_peer(now, key(n), config, &mut Vec::new());
    }
    let pinged = |paths: &mut Paths, n: u16| {
        let mut out = Vec::new();
        paths.wanted(now, &key(n), &mut out);
        pings(&out)[0].1
    };
    // Whoever joins with a disco key that it has read in its map stands before or behind its owner.
    let (first, last) = (pinged(&mut paths, 0), pinged(&mut paths, 299));
    let mut out = Vec::new();
    for (n, txid) in [(299, last), (0, first)] {
        assert_eq!(paths.on_disco(now, &OTHER_DISCO, Source::Udp(a), &pong(txid), &mut out), Outcome::Taken);
        assert_eq!(out, [Action::RouteChanged { peer: key(n) }]);
        out.clear();
    }
    let ping = Message::Ping { txid: [5; 12], node: Some(key(299)) };
    assert_eq!(paths.on_disco(now, &OTHER_DISCO, Source::Udp(a), &ping, &mut out), Outcome::Taken);
    assert!(matches!(out[0], Action::Disco { peer, .. } if peer == key(299)));
    for n in 0..300 {
        paths.remove_peer(&key(n));
    }
    assert_eq!(paths.on_disco(now, &OTHER_DISCO, Source::Udp(a), &ping, &mut out), Outcome::UnknownSender);
}
