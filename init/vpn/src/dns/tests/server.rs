//! The server and the resolvers that it asks.

use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::super::forward::answers;
use super::*;
use crate::published::Published;

/// A resolver's answer to a message.
pub(super) fn reply_to(query: &[u8], address: [u8; 4]) -> Message {
    let mut reply = Message::from_vec(query).unwrap();
    reply.metadata.message_type = MessageType::Response;
    reply.metadata.authentic_data = true;
    let name = reply.queries[0].name.clone();
    reply.add_answer(Record::from_rdata(name, 60, RData::A(A::from(Ipv4Addr::from(address)))));
    reply
}

#[test]
fn only_the_answer_to_the_question_is_one() {
    let asked = query("www.example.com.", RecordType::A);
    let question = &asked.queries[0];
    let good = reply_to(&asked.to_vec().unwrap(), [1, 2, 3, 4]);
    assert!(answers(&good.to_vec().unwrap(), 0x1234, question));
    assert!(!answers(&good.to_vec().unwrap(), 0x1235, question));
    assert!(!answers(&good.to_vec().unwrap()[..40], 0x1234, question));
    assert!(!answers(&asked.to_vec().unwrap(), 0x1234, question));
    for change in [
        |m: &mut Message| m.queries[0].name = Name::from_ascii("ww2.example.com.").unwrap(),
        |m: &mut Message| m.queries[0].query_type = RecordType::AAAA,
        |m: &mut Message| m.queries[0].query_class = DNSClass::CH,
        |m: &mut Message| m.queries.clear(),
        |m: &mut Message| m.metadata.op_code = OpCode::Status,
    ] {
        let mut bad = good.clone();
        change(&mut bad);
        assert!(!answers(&bad.to_vec().unwrap(), 0x1234, question));
    }
}

pub(super) struct Running {
    pub(super) udp: SocketAddr,
    pub(super) tcp: SocketAddr,
    pub(super) counters: Arc<Counters>,
    pub(super) zone: Arc<Published<Zone>>,
    pub(super) server: tokio::task::JoinHandle<()>,
}

async fn start(resolvers: Vec<SocketAddr>) -> Running {
    start_with(zone_of(dns("t.internal"), Policy { resolvers, ..policy() })).await
}

pub(super) async fn start_with(zone: Zone) -> Running {
    let zone = Published::new(zone);
    let counters = Arc::new(Counters::default());
    let listeners = Listeners {
        udp: vec![UdpSocket::bind("127.0.0.1:0").await.unwrap()],
        tcp: vec![TcpListener::bind("127.0.0.1:0").await.unwrap()],
    };
    let (udp, tcp) = (listeners.udp[0].local_addr().unwrap(), listeners.tcp[0].local_addr().unwrap());
    let server = tokio::spawn(serve(listeners, Arc::clone(&zone), Arc::clone(&counters)));
    Running { udp, tcp, counters, zone, server }
}

pub(super) async fn ask_udp(server: SocketAddr, message: &Message) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&message.to_vec().unwrap(), server).await.unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).await.unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

pub(super) async fn ask_tcp(stream: &mut TcpStream, message: &Message) -> Message {
    let bytes = message.to_vec().unwrap();
    stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut reply = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut reply).await.unwrap();
    Message::from_vec(&reply).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

pub(super) fn addresses(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

#[test]
fn the_server_answers_by_udp_and_tcp_and_sees_a_new_zone() {
    runtime().block_on(async {
        let running = start(Vec::new()).await;
        let asked = query("node-2.t.internal.", RecordType::A);
        assert_eq!(addresses(&ask_udp(running.udp, &asked).await), ["100.64.0.2"]);
        let mut stream = TcpStream::connect(running.tcp).await.unwrap();
        for _ in 0..3 {
            assert_eq!(addresses(&ask_tcp(&mut stream, &asked).await), ["100.64.0.2"]);
        }
        running.zone.publish(Zone::new(&map(dns("t.internal"), &[]), &Arc::new(policy())));
        assert_eq!(ask_tcp(&mut stream, &asked).await.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(
            ask_udp(running.udp, &query("www.example.com.", RecordType::AXFR)).await.metadata.response_code,
            ResponseCode::Refused
        );
        assert_eq!(running.counters.counts(), Counts { answered: 5, refused: 1, forwarded: 0, failed: 0 });
        // A message that is too long ends the connection.
        stream.write_all(&[0xff; 40]).await.unwrap();
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0);
        running.server.abort();
    });
}

#[test]
fn a_resolver_that_answers_something_else_is_not_believed() {
    runtime().block_on(async {
        let resolver = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = resolver.local_addr().unwrap();
        let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let running = start(vec![address]).await;
        let lies = tokio::spawn(async move {
            let mut buffer = [0; 4096];
            let (length, from) = resolver.recv_from(&mut buffer).await.unwrap();
            let query = &buffer[..length];
            let evil = reply_to(query, [6, 6, 6, 6]);
            // From another port; with another id; to another question; damaged; and then the answer.
            stranger.send_to(&evil.to_vec().unwrap(), from).await.unwrap();
            let mut other = evil.clone();
            other.metadata.id ^= 1;
            resolver.send_to(&other.to_vec().unwrap(), from).await.unwrap();
            let mut other = evil.clone();
            other.queries[0].name = Name::from_ascii("bank.example.").unwrap();
            resolver.send_to(&other.to_vec().unwrap(), from).await.unwrap();
            resolver.send_to(&evil.to_vec().unwrap()[..30], from).await.unwrap();
            resolver.send_to(&reply_to(query, [1, 2, 3, 4]).to_vec().unwrap(), from).await.unwrap();
        });
        let reply = ask_udp(running.udp, &with_edns(query("www.example.com.", RecordType::A), 1232)).await;
        lies.await.unwrap();
        assert_eq!((reply.metadata.id, addresses(&reply)), (0x1234, vec!["1.2.3.4".to_owned()]));
        assert!(!reply.metadata.authentic_data);
        assert_eq!(running.counters.counts().forwarded, 1);
    });
}

#[test]
fn long_answers_of_a_resolver_come_by_tcp() {
    runtime().block_on(async {
        let resolver = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = resolver.local_addr().unwrap();
        let datagrams = UdpSocket::bind(address).await.unwrap();
        let long = |query: &[u8]| {
            let mut reply = reply_to(query, [1, 2, 3, 4]);
            for n in 0..50 {
                let record = reply.answers[0].clone();
                reply.add_answer(record);
                reply.answers[n].ttl = u32::try_from(n).unwrap();
            }
            reply.to_vec().unwrap()
        };
        let running = start(vec![address]).await;
        let fake = tokio::spawn(async move {
            let mut buffer = [0; 4096];
            let (length, from) = datagrams.recv_from(&mut buffer).await.unwrap();
            datagrams.send_to(&long(&buffer[..length]), from).await.unwrap();
            let (mut stream, _) = resolver.accept().await.unwrap();
            let mut query = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut query).await.unwrap();
            let reply = long(&query);
            stream.write_u16(u16::try_from(reply.len()).unwrap()).await.unwrap();
            stream.write_all(&reply).await.unwrap();
        });
        let asked = query("www.example.com.", RecordType::A);
        let cut = ask_udp(running.udp, &asked).await;
        assert!(cut.metadata.truncation && cut.answers.is_empty());
        let mut stream = TcpStream::connect(running.tcp).await.unwrap();
        let whole = ask_tcp(&mut stream, &asked).await;
        assert_eq!((whole.metadata.id, whole.answers.len()), (0x1234, 51));
        fake.await.unwrap();
        assert_eq!(running.counters.counts().forwarded, 2);
    });
}

#[tokio::test]
async fn one_asker_does_not_keep_the_resolvers_from_the_others() {
    let resolver = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let running = start(vec![resolver.local_addr().unwrap()]).await;
    let good = query("good.example.", RecordType::A);
    let name = good.queries[0].name.clone();
    let serving = tokio::spawn(async move {
        let mut buffer = [0; 512];
        loop {
            let (length, from) = resolver.recv_from(&mut buffer).await.unwrap();
            let reply = reply_to(&buffer[..length], [192, 0, 2, 9]);
            if reply.queries[0].name == name {
                resolver.send_to(&reply.to_vec().unwrap(), from).await.unwrap();
            }
        }
    });
    // More than there are places, about what nobody answers.
    let greedy = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    let silent = query("silent.example.", RecordType::A).to_vec().unwrap();
    for _ in 0..300 {
        greedy.send_to(&silent, running.udp).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut buffer = [0; 512];
    let length = greedy.recv(&mut buffer).await.unwrap();
    let reply = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail, "it has all that it gets");
    // From 127.0.0.1.
    assert_eq!(addresses(&ask_udp(running.udp, &good).await), ["192.0.2.9"]);
    serving.abort();
    running.server.abort();
}

#[test]
fn resolvers_that_do_not_answer_fail_the_query() {
    runtime().block_on(async {
        // A port that is closed answers with an error at once.
        let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let running = start(vec![closed]).await;
        let reply = ask_udp(running.udp, &with_edns(query("www.example.com.", RecordType::A), 1232)).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        assert!(reply.edns.unwrap().option(EdnsCode::Unknown(15)).is_some());
        assert_eq!(running.counters.counts(), Counts { failed: 1, ..Counts::default() });
    });
}

#[tokio::test]
async fn a_family_that_is_never_answered_holds_up_no_look_up() {
    let resolver = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = resolver.local_addr().unwrap();
    let unanswered = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&unanswered);
    let serving = tokio::spawn(async move {
        let mut buffer = [0; 512];
        loop {
            let (length, from) = resolver.recv_from(&mut buffer).await.unwrap();
            let reply = reply_to(&buffer[..length], [192, 0, 2, 9]);
            if reply.queries[0].query_type == RecordType::A {
                resolver.send_to(&reply.to_vec().unwrap(), from).await.unwrap();
            } else {
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let found = lookup(&[address], "relay.example.com").await;
    serving.abort();
    assert_eq!(found, [IpAddr::from([192, 0, 2, 9])]);
    assert!(unanswered.load(Ordering::SeqCst) <= 1, "it was asked again before the look-up ended");
}
