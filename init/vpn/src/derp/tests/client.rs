//! The client against a small relay of our own.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::PrivateKeyDer;
use rustls::{RootCertStore, ServerConfig};
use sha2::{Digest as _, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::super::connection::{ConnectError, connect};
use super::super::frame::GoneReason;
use super::super::region::Timing;
use super::super::server::Server;
use super::super::*;
use crate::dial::Dialer;
use crate::key::{Node, Public, Secret};
use crate::netmap::{DerpMap, DerpNode, DerpRegion, RegionId};

/// Relays have addresses here.
const DIALER: Dialer = Dialer::new(Vec::new(), None, None);
const HOST: &str = "relay.example";
pub(super) const REGION: RegionId = RegionId(1);
pub(super) const QUICK: Timing = Timing {
    steady: Duration::from_secs(30),
    min_back_off: Duration::from_millis(20),
    max_back_off: Duration::from_millis(100),
    // Longer than any test waits: what ends a connection there is what the test is about.
    watchdog: Duration::from_secs(120),
    answer: Duration::from_secs(3),
    idle: Duration::from_millis(300),
    idle_check: Duration::from_millis(50),
    tried: Duration::from_millis(200),
};

pub(super) struct Relay {
    pub(super) server: Arc<Server>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Relay {
    pub(super) async fn start(
        tls: Option<&CertifiedKey<rcgen::KeyPair>>,
        admitted: Option<HashSet<Public<Node>>>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, tls, admitted)
    }

    fn on(
        listener: TcpListener,
        tls: Option<&CertifiedKey<rcgen::KeyPair>>,
        admitted: Option<HashSet<Public<Node>>>,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let server = Server::new(Secret::new([42; 32]), admitted);
        let acceptor = tls.map(acceptor);
        let serving = Arc::clone(&server);
        let task = tokio::spawn(async move {
            let mut clients = JoinSet::new();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (server, acceptor) = (Arc::clone(&serving), acceptor.clone());
                clients.spawn(async move {
                    match acceptor {
                        None => drop(server.serve(Box::new(tcp)).await),
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(tcp).await {
                                drop(server.serve(Box::new(stream)).await);
                            }
                        }
                    }
                });
            }
        });
        Self { server, address, task }
    }

    pub(super) fn node(&self) -> DerpNode {
        DerpNode {
            name: "1a".to_owned(),
            host: HOST.to_owned(),
            ipv4: Some(self.address.ip()),
            ipv6: None,
            without_ipv4: false,
            without_ipv6: true,
            derp_port: self.address.port(),
            stun_port: None,
            stun_only: false,
            pin: None,
            cert_name: None,
            insecure_for_tests: false,
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn acceptor(certified: &CertifiedKey<rcgen::KeyPair>) -> TlsAcceptor {
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

fn certificate(name: &str) -> CertifiedKey<rcgen::KeyPair> {
    generate_simple_self_signed([name.to_owned()]).unwrap()
}

fn plain() -> Trust {
    Trust { debug_use_derp_http: true, ..strict() }
}

fn strict() -> Trust {
    Trust::web()
}

fn digest(certified: &CertifiedKey<rcgen::KeyPair>) -> [u8; 32] {
    Sha256::digest(certified.cert.der()).into()
}

pub(super) fn secret(byte: u8) -> Secret<Node> {
    Secret::new([byte; 32])
}

pub(super) fn map(nodes: &[(RegionId, DerpNode)]) -> Arc<DerpMap> {
    let region = |(id, node): &(RegionId, DerpNode)| {
        let nodes = vec![node.clone()];
        (*id, DerpRegion { id: *id, code: String::new(), not_home: false, score_milli: 1000, nodes })
    };
    Arc::new(DerpMap { regions: nodes.iter().map(region).collect() })
}

pub(super) fn pool(byte: u8) -> (Pool, mpsc::Receiver<Event>) {
    let config = PoolConfig { ours: secret(byte), trust: plain(), dial: Arc::new(DIALER) };
    Pool::with_timing(config, Handle::current(), QUICK)
}

async fn next(events: &mut mpsc::Receiver<Event>) -> Event {
    timeout(Duration::from_secs(20), events.recv()).await.expect("no event in 20 s").unwrap()
}

pub(super) async fn connected(events: &mut mpsc::Receiver<Event>) -> RegionId {
    loop {
        if let Event::Connected { region, .. } = next(events).await {
            return region;
        }
    }
}

pub(super) async fn packets(events: &mut mpsc::Receiver<Event>, count: usize) -> Vec<Packet> {
    let mut got = Vec::new();
    while got.len() < count {
        if let Event::Received { packets, .. } = next(events).await {
            got.extend(packets);
        }
    }
    got
}

pub(super) async fn until(what: &str, mut is: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if is() {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("not within 20 s: {what}");
}

#[tokio::test]
async fn a_pinned_relay_is_the_one_with_that_certificate() {
    // The name in it does not matter: the pin is the proof.
    let certified = certificate("other.example");
    let relay = Relay::start(Some(&certified), None).await;
    let mut node = relay.node();
    let refused = connect(&node, &strict(), &DIALER, &secret(1)).await;
    assert!(matches!(refused, Err(ConnectError::Io { .. })), "no authority knows it: {refused:?}");
    node.pin = Some(digest(&certified));
    let connection = connect(&node, &strict(), &DIALER, &secret(1)).await.unwrap();
    assert_eq!(connection.server, secret(42).public());
    assert_eq!(connection.info.version, 2);
    node.pin = Some([7; 32]);
    let refused = connect(&node, &strict(), &DIALER, &secret(1)).await;
    assert!(matches!(refused, Err(ConnectError::Io { .. })), "{refused:?}");
}

#[tokio::test]
async fn the_configured_pin_wins_and_may_not_be_contradicted() {
    let certified = certificate(HOST);
    let relay = Relay::start(Some(&certified), None).await;
    let mut node = relay.node();
    let pinned = |pin| Trust { pins: BTreeMap::from([(HOST.to_owned(), pin)]), ..strict() };
    connect(&node, &pinned(digest(&certified)), &DIALER, &secret(1)).await.unwrap();
    let refused = connect(&node, &pinned([7; 32]), &DIALER, &secret(1)).await;
    assert!(matches!(refused, Err(ConnectError::Io { .. })), "{refused:?}");
    node.pin = Some(digest(&certified));
    connect(&node, &pinned(digest(&certified)), &DIALER, &secret(1)).await.unwrap();
    let refused = connect(&node, &pinned([7; 32]), &DIALER, &secret(1)).await;
    assert!(matches!(refused, Err(ConnectError::Trust(TrustError::PinContradicts(_)))), "{refused:?}");
}

#[tokio::test]
async fn an_authority_vouches_for_a_name() {
    let certified = certificate(HOST);
    let relay = Relay::start(Some(&certified), None).await;
    let mut roots = RootCertStore::empty();
    roots.add(certified.cert.der().clone()).unwrap();
    let trust = Trust { roots: Arc::new(roots), ..strict() };
    let mut node = relay.node();
    connect(&node, &trust, &DIALER, &secret(1)).await.unwrap();
    node.cert_name = Some("elsewhere.example".to_owned());
    assert!(connect(&node, &trust, &DIALER, &secret(1)).await.is_err());
    node.host = "elsewhere.example".to_owned();
    node.cert_name = Some(HOST.to_owned());
    connect(&node, &trust, &DIALER, &secret(1)).await.unwrap();
    node.cert_name = None;
    assert!(connect(&node, &trust, &DIALER, &secret(1)).await.is_err());
}

#[tokio::test]
async fn plain_http_and_unchecked_tls_are_for_tests() {
    let relay = Relay::start(None, None).await;
    let node = relay.node();
    assert!(connect(&node, &strict(), &DIALER, &secret(1)).await.is_err());
    connect(&node, &plain(), &DIALER, &secret(1)).await.unwrap();

    let certified = certificate("other.example");
    let relay = Relay::start(Some(&certified), None).await;
    let mut node = relay.node();
    node.insecure_for_tests = true;
    assert!(connect(&node, &strict(), &DIALER, &secret(1)).await.is_err());
    connect(&node, &plain(), &DIALER, &secret(1)).await.unwrap();
    // A pin is asked for in tests too.
    node.pin = Some([7; 32]);
    assert!(connect(&node, &plain(), &DIALER, &secret(1)).await.is_err());
}

#[tokio::test]
async fn a_relay_that_does_not_know_us_says_nothing() {
    let relay = Relay::start(None, Some(HashSet::from([secret(2).public()]))).await;
    let refused = connect(&relay.node(), &plain(), &DIALER, &secret(1)).await;
    assert!(matches!(refused, Err(ConnectError::NotAccepted)), "{refused:?}");
    connect(&relay.node(), &plain(), &DIALER, &secret(2)).await.unwrap();
}

#[tokio::test]
async fn what_is_no_relay_is_named() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    type Case = (&'static [u8], fn(&ConnectError) -> bool);
    let cases: [Case; 5] = [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", |e| {
            matches!(e, ConnectError::NoUpgrade(404))
        }),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n\r\n", |e| {
            matches!(e, ConnectError::NoUpgrade(101))
        }),
        (b"SSH-2.0-OpenSSH\r\n", |e| matches!(e, ConnectError::NotHttp)),
        (b"HTTP/1.1 101 X\r\nUpgrade: DERP\r\n\r\n\x06\0\0\0\0", |e| matches!(e, ConnectError::NoGreeting)),
        (b"HTTP/1.1 101 X\r\nUpgrade: DERP\r\n\r\n\x01\xff\0\0\0", |e| matches!(e, ConnectError::Frame(_))),
    ];
    for (answer, fits) in cases {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = tokio::spawn(async move {
            let (mut tcp, _): (TcpStream, _) = listener.accept().await.unwrap();
            let mut head = [0; 512];
            let _read = tcp.read(&mut head).await.unwrap();
            tcp.write_all(answer).await.unwrap();
            let _closed = tcp.read(&mut head).await;
        });
        let relay = Relay::start(None, None).await;
        let node = DerpNode { derp_port: address.port(), ..relay.node() };
        let error = connect(&node, &plain(), &DIALER, &secret(1)).await.unwrap_err();
        assert!(fits(&error), "{error:?}");
        serve.await.unwrap();
    }
}

#[tokio::test]
async fn batches_arrive_as_datagrams_in_order() {
    let relay = Relay::start(None, None).await;
    let map = map(&[(REGION, relay.node())]);
    let (a, mut events_a) = pool(1);
    let (b, mut events_b) = pool(2);
    for pool in [&a, &b] {
        pool.set_map(Arc::clone(&map));
        pool.set_home(Some(REGION));
    }
    connected(&mut events_a).await;
    connected(&mut events_b).await;
    let batch = Bytes::from((0..250_u8).collect::<Vec<_>>());
    assert_eq!(a.send(REGION, secret(2).public(), batch.clone(), 100), SendOutcome::Queued);
    assert_eq!(a.send(REGION, secret(2).public(), Bytes::from_static(b"one"), 0), SendOutcome::Queued);
    let got = packets(&mut events_b, 4).await;
    assert!(got.iter().all(|packet| packet.src == secret(1).public()));
    let wanted = [&batch[..100], &batch[100..200], &batch[200..], b"one"];
    assert_eq!(got.iter().map(|packet| &packet.packet[..]).collect::<Vec<_>>(), wanted);
    assert_eq!(a.status().connected, [REGION]);
    assert!(a.last_frame(REGION).is_some());
    until("home is noted", || relay.server.clients().iter().filter(|client| client.1).count() == 2).await;

    // Who is not there, is said.
    a.send(REGION, secret(9).public(), Bytes::from_static(b"x"), 0);
    let gone = next(&mut events_a).await;
    let Event::PeerGone { region: REGION, peer, reason: GoneReason::NotHere } = gone else {
        panic!("{gone:?}")
    };
    assert_eq!(peer, secret(9).public());
    drop(b);
    let gone = next(&mut events_a).await;
    assert!(matches!(gone, Event::PeerGone { reason: GoneReason::Disconnected, .. }), "{gone:?}");
    assert_eq!(a.send(RegionId(77), secret(9).public(), batch, 0), SendOutcome::NoRegion);
}

#[tokio::test]
async fn home_comes_back_and_moves_and_others_go_when_idle() {
    let first = Relay::start(None, None).await;
    let second = Relay::start(None, None).await;
    let other = RegionId(2);
    let (a, mut events) = pool(1);
    let us = secret(1).public();
    a.set_map(map(&[(REGION, first.node()), (other, second.node())]));
    a.set_home(Some(REGION));
    assert_eq!(connected(&mut events).await, REGION);

    // Another region is connected when there is something to send, and goes when there is not.
    assert_eq!(a.send(other, secret(2).public(), Bytes::from_static(b"x"), 0), SendOutcome::Queued);
    assert_eq!(connected(&mut events).await, other);
    until("both", || a.status().connected == [REGION, other]).await;
    until("idle", || a.status().connected == [REGION]).await;

    // The home relay dies and comes back at the same address.
    let address = first.address;
    drop(first);
    until("lost", || a.status().connected.is_empty()).await;
    let mut listener = TcpListener::bind(address).await;
    for _ in 0..100 {
        if listener.is_ok() {
            break;
        }
        sleep(Duration::from_millis(50)).await;
        listener = TcpListener::bind(address).await;
    }
    let first = Relay::on(listener.unwrap(), None, None);
    while connected(&mut events).await != REGION {}
    until("it is home again", || first.server.clients() == [(us, true)]).await;

    // Home moves: the new one knows it, the old one too, until it is idle.
    a.set_home(Some(other));
    while connected(&mut events).await != other {}
    until("home moved", || second.server.clients() == [(us, true)]).await;
    until("the old one is idle", || first.server.clients().is_empty()).await;

    // A region that leaves the map is left.
    a.set_map(map(&[(REGION, first.node())]));
    until("left", || second.server.clients().is_empty()).await;
    assert_eq!(a.send(other, secret(2).public(), Bytes::from_static(b"x"), 0), SendOutcome::NoRegion);
}

#[tokio::test]
async fn a_region_that_does_not_answer_costs_a_bounded_queue() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay = Relay::start(None, None).await;
    // It accepts by its backlog and says nothing.
    let node = DerpNode { derp_port: listener.local_addr().unwrap().port(), ..relay.node() };
    let (a, _events) = pool(1);
    a.set_map(map(&[(REGION, node)]));
    let batch = Bytes::from(vec![0; 60_000]);
    let outcomes =
        (0..100).map(|_| a.send(REGION, secret(2).public(), batch.clone(), 1280)).collect::<Vec<_>>();
    let queued = outcomes.iter().filter(|outcome| **outcome == SendOutcome::Queued).count();
    assert!((1..=9).contains(&queued), "{queued}");
    assert_eq!(a.status().dropped_out, 100 - queued as u64);
    let big = Bytes::from(vec![0; 70_000]);
    assert_eq!(a.send(REGION, secret(2).public(), big, 0), SendOutcome::Dropped);
}

#[tokio::test]
async fn what_was_dropped_while_a_relay_was_away_takes_no_room_when_it_is_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let other = Relay::start(None, None).await;
    let node = DerpNode { derp_port: address.port(), ..other.node() };
    let (a, mut events) = pool(1);
    a.set_map(map(&[(REGION, node)]));
    let batch = Bytes::from(vec![0; 60_000]);
    for round in 0..12 {
        assert_eq!(a.send(REGION, secret(2).public(), batch.clone(), 1280), SendOutcome::Queued, "{round}");
        until("all of it is dropped", || a.status().dropped_out > round).await;
    }
    let relay = Relay::on(TcpListener::bind(address).await.unwrap(), None, None);
    while relay.server.clients().is_empty() {
        a.probe(REGION);
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(connected(&mut events).await, REGION);
}

/// A way to a relay that swallows everything once it is told to, and closes nothing.
async fn swallows(to: SocketAddr, told: watch::Receiver<bool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut server = TcpStream::connect(to).await.unwrap();
            let mut told = told.clone();
            tokio::spawn(async move {
                let told = async { drop(told.wait_for(|told| *told).await) };
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    () = told => std::future::pending().await,
                }
            });
        }
    });
    address
}

pub(super) async fn lost(events: &mut mpsc::Receiver<Event>) -> Option<String> {
    loop {
        if let Event::Disconnected { why, .. } = next(events).await {
            return why;
        }
    }
}

/// A connection that does not answer when it is asked is made anew; one that answers is not.
async fn is_found_out(asks: impl Fn(&Pool)) {
    let relay = Relay::start(None, None).await;
    let (tell, told) = watch::channel(false);
    let node = DerpNode { derp_port: swallows(relay.address, told).await.port(), ..relay.node() };
    let (a, mut events) = pool(1);
    a.set_map(map(&[(REGION, node)]));
    a.set_home(Some(REGION));
    assert_eq!(connected(&mut events).await, REGION);

    // It answers: nothing happens, for longer than an answer may take.
    asks(&a);
    sleep(QUICK.answer + Duration::from_millis(500)).await;
    assert!(events.try_recv().is_err(), "a good connection was given up");

    // It does not answer, and nobody closes it.
    tell.send_replace(true);
    asks(&a);
    assert_eq!(lost(&mut events).await.unwrap(), "no answer when asked");
}

#[tokio::test]
async fn in_another_network_a_connection_that_is_dead_is_made_anew() {
    is_found_out(|pool| pool.network_changed(false)).await;
}

#[tokio::test]
async fn a_probe_finds_a_connection_that_is_dead() {
    is_found_out(|pool| {
        pool.probe(REGION);
    })
    .await;
}

#[tokio::test]
async fn after_a_sleep_no_connection_is_believed() {
    let relay = Relay::start(None, None).await;
    let (a, mut events) = pool(1);
    a.set_map(map(&[(REGION, relay.node())]));
    a.set_home(Some(REGION));
    assert_eq!(connected(&mut events).await, REGION);
    a.network_changed(true);
    assert_eq!(lost(&mut events).await.unwrap(), "our network changed");
    assert_eq!(connected(&mut events).await, REGION);
    until("it is home", || relay.server.clients() == [(secret(1).public(), true)]).await;
}

#[tokio::test]
async fn a_region_that_is_only_tried_holds_its_place_until_it_is_left() {
    let mut relays = Vec::new();
    for _ in 0..10 {
        relays.push(Relay::start(None, None).await);
    }
    let all: Vec<_> = (1..).map(RegionId).zip(relays.iter().map(Relay::node)).collect();
    let (a, mut events) = pool(1);
    a.set_map(map(&all));
    let (_, regions) = all.split_last().unwrap();
    for (region, _) in regions {
        assert_eq!(a.probe(*region), SendOutcome::Queued);
    }
    // All are tried, and never more than a few at once; what is used needs no place.
    assert_eq!(a.send(RegionId(10), secret(2).public(), Bytes::from_static(b"x"), 0), SendOutcome::Queued);
    let (mut open, mut most, mut tried) = (0_u32, 0, HashSet::new());
    while tried.len() < 9 || open > 0 {
        match next(&mut events).await {
            Event::Connected { region: RegionId(10), .. }
            | Event::Disconnected { region: RegionId(10), .. } => {}
            Event::Connected { region, .. } => {
                open += 1;
                most = most.max(open);
                tried.insert(region);
            }
            Event::Disconnected { .. } => open -= 1,
            _ => {}
        }
    }
    assert!((1..=4).contains(&most), "{most}");
}

#[tokio::test]
async fn a_map_that_changes_while_a_relay_is_connected_to_is_not_lost() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let first = Relay::start(None, None).await;
    let second = Relay::start(None, None).await;
    let slow = DerpNode { derp_port: listener.local_addr().unwrap().port(), ..first.node() };
    let (a, mut events) = pool(1);
    a.set_map(map(&[(REGION, slow)]));
    a.set_home(Some(REGION));
    // We are connecting, and the greeting takes its time.
    let (stream, _) = listener.accept().await.unwrap();
    a.set_map(map(&[(REGION, second.node())]));
    let serving = tokio::spawn(Arc::clone(&first.server).serve(Box::new(stream)));
    until("the new map's relay", || second.server.clients() == [(secret(1).public(), true)]).await;
    drop(timeout(Duration::from_secs(20), serving).await.expect("the old relay is left"));
    while connected(&mut events).await != REGION {}
}

#[tokio::test]
async fn regions_are_tried_a_few_at_a_time_and_traffic_waits_for_none_of_them() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay = Relay::start(None, None).await;
    let node = DerpNode { derp_port: listener.local_addr().unwrap().port(), ..relay.node() };
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    let accepting = tokio::spawn(async move {
        // None of them is ever answered.
        let mut open = Vec::new();
        loop {
            open.push(listener.accept().await.unwrap());
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    let regions: Vec<_> = (1..=12).map(|number| (RegionId(number), node.clone())).collect();
    let (a, _events) = pool(1);
    a.set_map(map(&regions));
    for (region, _) in &regions {
        assert_eq!(a.probe(*region), SendOutcome::Queued);
    }
    until("some are tried", || accepted.load(Ordering::SeqCst) == 4).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(accepted.load(Ordering::SeqCst), 4);
    assert_eq!(a.send(RegionId(12), secret(2).public(), Bytes::from_static(b"x"), 0), SendOutcome::Queued);
    until("traffic does not wait", || accepted.load(Ordering::SeqCst) == 5).await;
    accepting.abort();
}
