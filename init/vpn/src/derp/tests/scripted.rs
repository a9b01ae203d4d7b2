//! Relays that do what a good one does not, or not at that moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::super::connection::next_frame;
use super::super::frame::{Decoder, Frame, GoneReason, encode};
use super::super::handshake::{ServerInfo, server_info};
use super::super::*;
use super::client::{QUICK, REGION, Relay, connected, lost, map, packets, pool, secret, until};
use crate::netmap::{DerpNode, RegionId};

const END: &[u8] = b"\r\n\r\n";
const BATCH: usize = 60_000;

/// Somebody connects.
async fn accept(listener: &TcpListener) -> TcpStream {
    timeout(Duration::from_secs(20), listener.accept()).await.expect("nobody connects in 20 s").unwrap().0
}

/// Greets, and sends what is to follow with the last word of it.
async fn greet(stream: &mut TcpStream, follows: &[u8]) -> Decoder {
    let ours = secret(42);
    let mut decoder = Decoder::default();
    let head = loop {
        let buffer = decoder.buffer();
        if let Some(at) = buffer.windows(END.len()).position(|window| window == END) {
            break at + END.len();
        }
        assert!(stream.read_buf(buffer).await.unwrap() > 0);
    };
    decoder.buffer().advance(head);
    let mut out = BytesMut::from(&b"HTTP/1.1 101 X\r\nUpgrade: DERP\r\n\r\n"[..]);
    encode(&Frame::ServerKey(ours.public()), &mut out);
    stream.write_all(&out).await.unwrap();
    let Frame::ClientInfo { key, .. } = next_frame(stream, &mut decoder).await.unwrap() else { panic!() };
    out.clear();
    encode(&server_info(&ours, &key, &ServerInfo { version: 2, ..ServerInfo::default() }).unwrap(), &mut out);
    out.extend_from_slice(follows);
    stream.write_all(&out).await.unwrap();
    decoder
}

async fn node(name: &str, listener: &TcpListener) -> DerpNode {
    let other = Relay::start(None, None).await;
    DerpNode { name: name.to_owned(), derp_port: listener.local_addr().unwrap().port(), ..other.node() }
}

#[tokio::test]
async fn the_relays_pings_are_answered_and_odd_frames_are_not_minded() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (a, mut events) = pool(1);
    a.set_map(map(&[(REGION, node("1a", &listener).await)]));
    a.set_home(Some(REGION));
    let mut stream = accept(&listener).await;
    let mut decoder = greet(&mut stream, &[]).await;
    connected(&mut events).await;
    let mut out = BytesMut::new();
    for frame in [
        Frame::Health("clock\nskew".to_owned()),
        Frame::Restarting { after_millis: 5, try_for_millis: 6 },
        Frame::Unknown(0x55),
        Frame::KeepAlive,
        Frame::Pong([1; 8]),
        Frame::Ping([2; 8]),
        Frame::RecvPacket { from: secret(3).public(), packet: Bytes::from_static(b"still here") },
    ] {
        encode(&frame, &mut out);
    }
    stream.write_all(&out).await.unwrap();
    assert_eq!(packets(&mut events, 1).await[0].packet, "still here");
    for wanted in [Frame::NotePreferred(true), Frame::Pong([2; 8])] {
        let read = timeout(Duration::from_secs(20), next_frame(&mut stream, &mut decoder)).await;
        assert_eq!(read.expect("no frame in 20 s").unwrap(), wanted);
    }
}

#[tokio::test]
async fn what_waits_goes_to_the_servers_that_the_map_has_when_they_greet() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let maps = [node("1a", &listener).await, node("1b", &listener).await].map(|node| map(&[(REGION, node)]));
    let (a, _events) = pool(1);
    a.set_map(Arc::clone(&maps[0]));
    // More rounds than would fit into the queue if each left its bytes there.
    for round in 0..10 {
        let batch = Bytes::from(vec![round; BATCH]);
        assert_eq!(a.send(REGION, secret(2).public(), batch.clone(), 0), SendOutcome::Queued, "{round}");
        let mut first = accept(&listener).await;
        a.set_map(Arc::clone(&maps[1]));
        greet(&mut first, &[]).await;
        let mut second = accept(&listener).await;
        let mut decoder = greet(&mut second, &[]).await;
        let read = timeout(Duration::from_secs(20), next_frame(&mut second, &mut decoder)).await;
        let wanted = Frame::SendPacket { to: secret(2).public(), packet: batch };
        assert_eq!(read.expect("no frame in 20 s").unwrap(), wanted, "{round}");
        a.set_map(Arc::clone(&maps[0]));
        until("it is left", || a.status().connected.is_empty()).await;
    }
    assert_eq!(a.status().dropped_out, 0);
}

#[tokio::test]
async fn a_relay_that_greets_and_then_breaks_leaves_no_bytes_in_the_queue() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (a, _events) = pool(1);
    a.set_map(map(&[(REGION, node("1a", &listener).await)]));
    let greeted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&greeted);
    let relay = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            // A packet of four gigabytes.
            greet(&mut stream, &[5, 0xff, 0xff, 0xff, 0xff]).await;
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    let batch = Bytes::from(vec![0; BATCH]);
    while greeted.load(Ordering::SeqCst) < 40 {
        let before = (a.status().dropped_out, greeted.load(Ordering::SeqCst));
        assert_eq!(a.send(REGION, secret(2).public(), batch.clone(), 0), SendOutcome::Queued, "{before:?}");
        let moved = || (a.status().dropped_out, greeted.load(Ordering::SeqCst)) != before;
        until("it is dropped, or makes us connect", moved).await;
    }
    relay.abort();
}

#[tokio::test]
async fn a_relay_that_floods_takes_no_other_relays_room() {
    let (floods, other) = (Relay::start(None, None).await, TcpListener::bind("127.0.0.1:0").await.unwrap());
    let second = RegionId(2);
    let (a, mut events) = pool(1);
    a.set_map(map(&[(REGION, node("2a", &other).await), (second, floods.node())]));
    a.set_home(Some(REGION));
    let mut stream = accept(&other).await;
    greet(&mut stream, &[]).await;
    assert_eq!(connected(&mut events).await, REGION);
    assert_eq!(a.send(second, secret(2).public(), Bytes::from_static(b"x"), 0), SendOutcome::Queued);
    assert_eq!(connected(&mut events).await, second);
    // Nobody takes what comes, until there is no room.
    let gone = Frame::PeerGone { peer: secret(3).public(), reason: GoneReason::NotHere };
    until("there is no room", || {
        while floods.server.push(&secret(1).public(), gone.clone()) {}
        events.len() == events.max_capacity()
    })
    .await;
    let before = a.last_frame(REGION);
    let mut out = BytesMut::new();
    encode(&Frame::RecvPacket { from: secret(2).public(), packet: Bytes::from_static(b"ours") }, &mut out);
    stream.write_all(&out).await.unwrap();
    until("it is read", || a.last_frame(REGION) > before).await;
    assert_eq!(packets(&mut events, 1).await[0].packet, "ours");
}

#[test]
fn what_a_relay_says_of_its_restart_makes_no_wait_shorter() {
    let waits = |failures, said: Option<u64>| QUICK.back_off(failures, said.map(Duration::from_millis));
    for _ in 0..100 {
        assert!(waits(1, None) <= QUICK.min_back_off);
        for said in [None, Some(0), Some(1)] {
            assert!(waits(30, said) >= QUICK.max_back_off / 2, "{said:?}");
        }
        assert!((30..=60).contains(&waits(1, Some(60)).as_millis()));
        assert!(waits(1, Some(3_600_000)) <= QUICK.max_back_off);
    }
}

#[tokio::test]
async fn of_a_region_that_leaves_the_map_it_is_told() {
    let relay = Relay::start(None, None).await;
    let (a, mut events) = pool(1);
    a.set_map(map(&[(REGION, relay.node())]));
    a.set_home(Some(REGION));
    assert_eq!(connected(&mut events).await, REGION);
    a.set_map(map(&[]));
    assert_eq!(lost(&mut events).await, None);
    assert_eq!(a.send(REGION, secret(2).public(), Bytes::from_static(b"x"), 0), SendOutcome::NoRegion);
    assert_eq!(a.probe(REGION), SendOutcome::NoRegion);
    assert_eq!(a.status().dropped_out, 1, "a probe has nothing in it");
}
