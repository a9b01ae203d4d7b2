//! Resolvers that are peers: how they are asked, and what they may say. Here the network is 127.0.0.0/8, and the kernel sends from
//! 127.0.0.1.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::server::{addresses, ask_tcp, ask_udp, reply_to, start_with};
use super::*;

/// The zone of a node with this address, in whose map the resolver is the peer for `corp.example`.
fn zone(own: &str, resolver: SocketAddr) -> Zone {
    let routes = BTreeMap::from([("corp.example".to_owned(), vec![resolver.to_string()])]);
    let config = DnsConfig { routes, ..dns("t.internal") };
    let peer = node(2, "node-2.t.internal", &[&resolver.ip().to_string()]);
    let map = Netmap { node: node(1, "node-1.t.internal", &[own]), ..map(config, &[peer]) };
    Zone::new(&map, &Arc::new(Policy { prefixes: vec!["127.0.0.0/8".parse().unwrap()], ..policy() }))
}

type Change = fn(&mut Message);

/// A peer that answers every question with the same words; and how many it heard.
fn answering(socket: UdpSocket, change: Change) -> Arc<AtomicUsize> {
    let heard = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&heard);
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            count.fetch_add(1, Ordering::SeqCst);
            let mut reply = reply_to(&buffer[..length], [192, 0, 2, 9]);
            change(&mut reply);
            socket.send_to(&reply.to_vec().unwrap(), from).await.unwrap();
        }
    });
    heard
}

#[tokio::test]
async fn a_peer_is_asked_from_our_address_in_the_network_or_not_at_all() {
    let socket = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    let resolver = socket.local_addr().unwrap();
    let listener = TcpListener::bind(resolver).await.unwrap();
    let heard = answering(socket, |_| ());
    let asked = query("a.corp.example.", RecordType::A);

    let running = start_with(zone("127.0.0.1", resolver)).await;
    assert_eq!(addresses(&ask_udp(running.udp, &asked).await), ["192.0.2.9"]);
    assert_eq!(heard.load(Ordering::SeqCst), 1);

    // The address is not set: the kernel would ask from another, on another link.
    running.zone.publish(zone("127.0.0.9", resolver));
    assert_eq!(ask_udp(running.udp, &asked).await.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(heard.load(Ordering::SeqCst), 1);
    let mut stream = TcpStream::connect(running.tcp).await.unwrap();
    assert_eq!(ask_tcp(&mut stream, &asked).await.metadata.response_code, ResponseCode::ServFail);
    let (mut attempt, _) = listener.accept().await.unwrap();
    assert_eq!(attempt.read(&mut [0; 8]).await.unwrap(), 0, "a question was sent");
    running.server.abort();
}

#[tokio::test]
async fn a_peer_says_nothing_of_a_name_on_the_allowlist() {
    let asked = query("a.corp.example.", RecordType::A);
    let says: [(Change, ResponseCode); 4] = [
        (|reply| add(reply, Section::Answers, "api.example.com."), ResponseCode::ServFail),
        (|reply| add(reply, Section::Additionals, "x.API.example.com."), ResponseCode::ServFail),
        (|reply| add(reply, Section::Authorities, "wild.example."), ResponseCode::ServFail),
        (|reply| add(reply, Section::Answers, "www.example.com."), ResponseCode::NoError),
    ];
    for (change, code) in says {
        let socket = UdpSocket::bind("127.0.0.2:0").await.unwrap();
        let resolver = socket.local_addr().unwrap();
        answering(socket, change);
        let running = start_with(zone("127.0.0.1", resolver)).await;
        let reply = ask_udp(running.udp, &asked).await;
        assert_eq!(reply.metadata.response_code, code);
        assert_eq!(reply.answers.is_empty(), code == ResponseCode::ServFail);
        running.server.abort();
    }
}

enum Section {
    Answers,
    Authorities,
    Additionals,
}

fn add(reply: &mut Message, section: Section, name: &str) {
    let record = Record::from_rdata(Name::from_ascii(name).unwrap(), 60, RData::A(A::new(192, 0, 2, 66)));
    match section {
        Section::Answers => reply.answers.push(record),
        Section::Authorities => reply.authorities.push(record),
        Section::Additionals => reply.additionals.push(record),
    }
}
