//! The rules of one machine, one by one.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::super::*;
use crate::disco::{Message, TxId};
use crate::key::{Disco, Node, Public};
use crate::netmap::RegionId;

pub(super) const PEER: Public<Node> = Public::new([2; 32]);
pub(super) const DISCO: Public<Disco> = Public::new([102; 32]);
pub(super) const HOME: RegionId = RegionId(7);

pub(super) fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(super) fn paths(now: Instant, endpoints: &[SocketAddr], disco: Option<Public<Disco>>) -> Paths {
    let excluded = vec!["100.64.0.0/10".parse().unwrap()];
    let mut paths = Paths::new(PathConfig { own: Public::new([1; 32]), excluded });
    let config = PeerConfig { disco, home: Some(HOME), endpoints };
    paths.set_peer(now, PEER, config, &mut Vec::new());
    paths.set_endpoints(now, vec![address("198.51.100.9:41641")], &mut Vec::new());
    paths
}

/// The UDP pings among actions.
pub(super) fn pings(out: &[Action]) -> Vec<(SocketAddr, TxId)> {
    let ping = |action: &Action| match action {
        Action::Disco { to: Via::Udp(to), message: Message::Ping { txid, .. }, .. } => Some((*to, *txid)),
        _ => None,
    };
    out.iter().filter_map(ping).collect()
}

pub(super) fn calls(out: &[Action]) -> usize {
    let is_call =
        |action: &&Action| matches!(action, Action::Disco { message: Message::CallMeMaybe { .. }, .. });
    out.iter().filter(is_call).count()
}

pub(super) fn pong(txid: TxId) -> Message {
    Message::Pong { txid, source: address("198.51.100.9:41641") }
}

fn route(paths: &Paths) -> (Option<SocketAddr>, Option<RegionId>) {
    let route = paths.route(&PEER).unwrap();
    (route.direct, route.relay)
}

#[test]
fn a_path_is_used_alone_while_its_pong_is_fresh() {
    let now = Instant::now();
    let a = address("192.0.2.1:1");
    let mut paths = paths(now, &[a], Some(DISCO));
    assert_eq!(route(&paths), (None, Some(HOME)));
    let mut out = Vec::new();
    paths.wanted(now, &PEER, &mut out);
    assert_eq!(calls(&out), 1);
    let [(to, txid)] = pings(&out)[..] else { panic!("{out:?}") };
    assert_eq!(to, a);
    out.clear();
    let at = now + Duration::from_millis(20);
    assert_eq!(paths.on_disco(at, &DISCO, Source::Udp(a), &pong(txid), &mut out), Outcome::Taken);
    assert_eq!(out, [Action::RouteChanged { peer: PEER }]);
    assert_eq!(route(&paths), (Some(a), None));
    assert_eq!(paths.status(at, &PEER).unwrap().best, Some((a, Duration::from_millis(20))));
    // Nobody answers the heartbeats: both ways again, at the moment that the trust ends.
    out.clear();
    let mut last = at;
    while let Some(next) = paths.next_deadline().filter(|next| *next <= at + TRUST) {
        assert_eq!(route(&paths), (Some(a), None), "{:?}", next - at);
        paths.tick(next, &mut out);
        last = next;
    }
    assert_eq!(last, at + TRUST);
    assert_eq!(route(&paths), (Some(a), Some(HOME)));
    assert_eq!(pings(&out).len(), 2);
}

#[test]
fn our_addresses_are_found_out_before_we_call() {
    let now = Instant::now();
    let mut paths = paths(now, &[address("192.0.2.1:1")], Some(DISCO));
    let mut out = Vec::new();
    let later = now + ENDPOINTS_FRESH + Duration::from_millis(1);
    paths.wanted(later, &PEER, &mut out);
    assert_eq!((calls(&out), out.contains(&Action::NeedEndpoints)), (0, true));
    out.clear();
    paths.set_endpoints(later, vec![address("198.51.100.9:5")], &mut out);
    let wanted = Message::CallMeMaybe { endpoints: vec![address("198.51.100.9:5")] };
    assert_eq!(out, [Action::Disco { peer: PEER, to: Via::Relay(HOME), message: wanted }]);
}

#[test]
fn without_a_disco_key_everything_is_tried() {
    let now = Instant::now();
    let (a, b) = (address("192.0.2.1:1"), address("192.0.2.2:1"));
    let mut paths = paths(now, &[a, b], None);
    let mut out = Vec::new();
    paths.wanted(now, &PEER, &mut out);
    assert!(out.iter().all(|action| !matches!(action, Action::Disco { .. })));
    assert_eq!(route(&paths), (Some(a), Some(HOME)));
    paths.tick(now + HEARTBEAT, &mut out);
    assert_eq!(route(&paths), (Some(b), Some(HOME)));
    // The tunnel's own packets are the proof.
    let c = address("192.0.2.3:9");
    paths.received(now + HEARTBEAT, &PEER, Via::Udp(c), &mut out);
    assert_eq!(route(&paths), (Some(c), None));
    paths.tick(now + HEARTBEAT + TRUST, &mut out);
    assert_eq!(route(&paths), (Some(c), Some(HOME)));
}

#[test]
fn an_authentic_packet_from_elsewhere_is_a_reason_to_ping() {
    let now = Instant::now();
    let (a, b) = (address("192.0.2.1:1"), address("192.0.2.77:5"));
    let mut paths = paths(now, &[a], Some(DISCO));
    let mut out = Vec::new();
    paths.wanted(now, &PEER, &mut out);
    let txid = pings(&out)[0].1;
    paths.on_disco(now + Duration::from_millis(9), &DISCO, Source::Udp(a), &pong(txid), &mut out);
    out.clear();
    let at = now + Duration::from_secs(1);
    paths.received(at, &PEER, Via::Udp(b), &mut out);
    let [(to, txid)] = pings(&out)[..] else { panic!("{out:?}") };
    assert_eq!((to, route(&paths)), (b, (Some(a), None)));
    // And not for each of them.
    out.clear();
    paths.received(at + Duration::from_millis(1), &PEER, Via::Udp(b), &mut out);
    assert_eq!(out, []);
    // Its pong makes it the path: half the latency.
    paths.on_disco(at + Duration::from_millis(4), &DISCO, Source::Udp(b), &pong(txid), &mut out);
    assert_eq!(route(&paths), (Some(b), None));
}

#[test]
fn with_nothing_better_an_authentic_source_is_tried() {
    let now = Instant::now();
    let b = address("192.0.2.77:5");
    let mut paths = paths(now, &[], Some(DISCO));
    let mut out = Vec::new();
    paths.received(now, &PEER, Via::Udp(b), &mut out);
    assert_eq!(route(&paths), (Some(b), Some(HOME)));
    // Inside the tailnet nobody is.
    paths.received(now, &PEER, Via::Udp(address("100.64.0.9:5")), &mut out);
    assert_eq!(route(&paths), (Some(b), Some(HOME)));
}

#[test]
fn of_two_families_the_better_wins() {
    let now = Instant::now();
    let (four, six) = (address("192.0.2.1:1"), address("[2001:db8::1]:1"));
    let mut paths = paths(now, &[four, six], Some(DISCO));
    let mut out = Vec::new();
    paths.wanted(now, &PEER, &mut out);
    let at = now + Duration::from_millis(10);
    for (to, txid) in pings(&out) {
        paths.on_disco(at, &DISCO, Source::Udp(to), &pong(txid), &mut Vec::new());
    }
    assert_eq!(route(&paths), (Some(six), None));
}

#[test]
fn replies_go_through_the_relay_that_was_used_last() {
    let now = Instant::now();
    let other = RegionId(9);
    let mut paths = paths(now, &[], Some(DISCO));
    let mut out = Vec::new();
    paths.received(now, &PEER, Via::Relay(other), &mut out);
    assert_eq!(
        (route(&paths), out.as_slice()),
        ((None, Some(other)), &[Action::RouteChanged { peer: PEER }][..])
    );
    paths.peer_gone(now, RegionId(1), &PEER, &mut out);
    assert_eq!(route(&paths).1, Some(other));
    paths.peer_gone(now, other, &PEER, &mut out);
    assert_eq!(route(&paths).1, Some(HOME));
    paths.received(now, &PEER, Via::Relay(other), &mut out);
    paths.region_lost(now, other, &mut out);
    assert_eq!(route(&paths).1, Some(HOME));
    // The peer closes that connection when it does not use it.
    paths.received(now, &PEER, Via::Relay(other), &mut out);
    assert_eq!(paths.next_deadline(), Some(now + REPLY_ROUTE));
    paths.tick(now + REPLY_ROUTE, &mut out);
    assert_eq!((route(&paths).1, paths.next_deadline()), (Some(HOME), None));
}

#[test]
fn another_disco_key_is_another_process() {
    let now = Instant::now();
    let a = address("192.0.2.1:1");
    let mut paths = paths(now, &[a], Some(DISCO));
    let mut out = Vec::new();
    paths.wanted(now, &PEER, &mut out);
    let txid = pings(&out)[0].1;
    paths.on_disco(now, &DISCO, Source::Udp(a), &pong(txid), &mut out);
    assert_eq!(route(&paths), (Some(a), None));
    out.clear();
    let new = Public::new([103; 32]);
    let config = PeerConfig { disco: Some(new), home: Some(HOME), endpoints: &[a] };
    paths.set_peer(now, PEER, config, &mut out);
    assert_eq!(route(&paths), (None, Some(HOME)));
    assert_eq!(pings(&out).len(), 1, "with traffic it is looked for at once");
    let ping = Message::Ping { txid: [1; 12], node: None };
    assert_eq!(paths.on_disco(now, &DISCO, Source::Udp(a), &ping, &mut out), Outcome::UnknownSender);
    assert_eq!(paths.on_disco(now, &new, Source::Udp(a), &ping, &mut out), Outcome::Taken);
    paths.remove_peer(&PEER);
    assert_eq!(paths.on_disco(now, &new, Source::Udp(a), &ping, &mut out), Outcome::UnknownSender);
    assert_eq!((paths.route(&PEER), paths.next_deadline()), (None, None));
}

#[test]
fn idle_peers_cost_nothing() {
    let now = Instant::now();
    let mut paths = Paths::new(PathConfig { own: Public::new([1; 32]), excluded: Vec::new() });
    let mut out = Vec::new();
    let mut keys = Vec::new();
    for number in 0..3000_u32 {
        let mut bytes = [7; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        let endpoints = [address("192.0.2.1:1"), address("[2001:db8::1]:1")];
        let config = PeerConfig { disco: Some(Public::new(bytes)), home: Some(HOME), endpoints: &endpoints };
        paths.set_peer(now, Public::new(bytes), config, &mut out);
        keys.push(Public::new(bytes));
    }
    paths.set_endpoints(now, Vec::new(), &mut out);
    assert_eq!(paths.next_deadline(), None);
    out.clear();
    paths.wanted(now, &keys[5], &mut out);
    let due = paths.next_deadline().unwrap();
    out.clear();
    paths.tick(due, &mut out);
    assert!(out.iter().all(|action| matches!(action, Action::Disco { peer, .. } if *peer == keys[5])));
}

/// A peer with a path of this latency by each family: IPv6 is the path in use.
fn loaded(now: Instant, out: &mut Vec<Action>) -> (Paths, SocketAddr, SocketAddr) {
    let (four, six) = (address("192.0.2.1:1"), address("[2001:db8::1]:1"));
    let mut paths = paths(now, &[four, six], Some(DISCO));
    paths.wanted(now, &PEER, out);
    answer(&mut paths, out, &[(six, 0), (four, 1)], now + Duration::from_millis(10));
    assert_eq!(route(&paths), (Some(six), None));
    (paths, four, six)
}

/// Answers the pings to these addresses, each so many milliseconds after `at`, and drops the others.
fn answer(paths: &mut Paths, out: &mut Vec<Action>, answers: &[(SocketAddr, u64)], at: Instant) {
    let sent = pings(out);
    out.clear();
    for (from, millis) in answers {
        for (_, txid) in sent.iter().filter(|(to, _)| to == from) {
            let at = at + Duration::from_millis(*millis);
            paths.on_disco(at, &DISCO, Source::Udp(*from), &pong(*txid), out);
        }
    }
}

#[test]
fn what_load_adds_to_a_round_trip_moves_no_traffic() {
    let start = Instant::now();
    let mut out = Vec::new();
    let (mut paths, four, six) = loaded(start, &mut out);
    let mut looks = 0;
    // Two minutes in which the path in use queues: its pongs take 40 to 300 ms, the other family's 12.
    let end = start + Duration::from_secs(120);
    let mut now = start + Duration::from_millis(20);
    while now < end {
        paths.wanted(now, &PEER, &mut out);
        paths.tick(now, &mut out);
        looks += usize::from(pings(&out).iter().any(|(to, _)| *to == four));
        let slow = 40 + u64::try_from(looks).unwrap() * 37 % 260;
        answer(&mut paths, &mut out, &[(four, 12), (six, slow)], now);
        assert_eq!(route(&paths), (Some(six), None), "{:?}", now - start);
        now += Duration::from_secs(1);
    }
    assert!(looks > 0, "the other family was never measured");
    // In another network it is measured anew.
    paths.network_changed(now, &mut out);
    answer(&mut paths, &mut out, &[(six, 100), (four, 12)], now);
    assert_eq!(
        paths.status(now + Duration::from_millis(100), &PEER).unwrap().best.map(|best| best.0),
        Some(four)
    );
}

#[test]
fn data_on_a_path_stands_for_a_pong_but_not_for_ever() {
    let start = Instant::now();
    let mut out = Vec::new();
    let (mut paths, _, six) = loaded(start, &mut out);
    let confirmed = start + Duration::from_millis(10);
    // No pong comes any more; the tunnel's packets do.
    let mut now = start + Duration::from_secs(1);
    while now <= confirmed + DATA_TRUST - Duration::from_millis(500) {
        paths.received(now, &PEER, Via::Udp(six), &mut out);
        paths.wanted(now, &PEER, &mut out);
        paths.tick(now, &mut out);
        assert_eq!(route(&paths), (Some(six), None), "{:?}", now - start);
        now += Duration::from_millis(500);
    }
    for _ in 0..3 {
        paths.received(now, &PEER, Via::Udp(six), &mut out);
        paths.tick(now, &mut out);
        now += Duration::from_millis(500);
    }
    assert_eq!(route(&paths), (Some(six), Some(HOME)), "it may be dead outwards");
    // What comes another way says nothing of this one.
    let (mut paths, four, six) = loaded(start, &mut out);
    let mut now = start + Duration::from_secs(1);
    while now <= confirmed + TRUST + Duration::from_millis(500) {
        paths.received(now, &PEER, Via::Udp(four), &mut out);
        paths.tick(now, &mut out);
        now += Duration::from_millis(250);
    }
    assert_ne!(route(&paths), (Some(six), None));
}

#[test]
fn the_relay_in_use_is_measured_now_and_then() {
    let start = Instant::now();
    let mut paths = paths(start, &[], Some(DISCO));
    let mut out = Vec::new();
    let mut asked = 0;
    for second in 0..90 {
        let now = start + Duration::from_secs(second);
        paths.wanted(now, &PEER, &mut out);
        paths.tick(now, &mut out);
        for action in std::mem::take(&mut out) {
            if let Action::Disco { to: Via::Relay(region), message: Message::Ping { txid, .. }, .. } = action
            {
                asked += 1;
                let source = Source::Relay { region, node: PEER };
                let at = now + Duration::from_millis(40);
                assert_eq!(paths.on_disco(at, &DISCO, source, &pong(txid), &mut Vec::new()), Outcome::Taken);
            }
        }
    }
    assert_eq!(asked, 3);
    let now = start + Duration::from_secs(90);
    let measured = |paths: &Paths, now| {
        let status = paths.status(now, &PEER).unwrap();
        (status.relay, status.relay_latency)
    };
    let home = (Some(HOME), Some(Duration::from_millis(40)));
    assert_eq!(measured(&paths, now), home);
    // What one relay takes is not said of another.
    paths.received(now, &PEER, Via::Relay(RegionId(9)), &mut out);
    assert_eq!(measured(&paths, now), (Some(RegionId(9)), None));
    assert_eq!(measured(&paths, now + REPLY_ROUTE), home);
}
