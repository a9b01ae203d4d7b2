#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on may panic"
)]

use std::net::UdpSocket;
use std::os::fd::OwnedFd;

use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde_json::value::RawValue;

mod bounds;

use super::*;
use crate::packet::{Packet, VnetHeader};
use crate::sys::UdpOptions;

const WAIT: Duration = Duration::from_secs(4);
const QUIET: Duration = Duration::from_millis(150);
const ALL: &str = r#"[{"SrcIPs":["*"],"DstPorts":[{"IP":"*","Ports":{"First":0,"Last":65535}}]}]"#;

fn filter(rules: &str) -> Arc<Filter> {
    let rules: Box<RawValue> = serde_json::from_str(rules).unwrap();
    Arc::new(Filter::compile(std::iter::once(("base", &*rules))).filter)
}

fn secret(number: u8) -> Secret<Node> {
    Secret::new([number; 32])
}

fn key(number: u8) -> Public<Node> {
    secret(number).public()
}

fn spec(number: u8) -> PeerSpec {
    PeerSpec { key: key(number), allowed: vec![format!("100.64.0.{number}/32").parse().unwrap()] }
}

/// A plane with a socket pair in the place of the TUN: what the kernel would read and write is at the other end.
struct Rig {
    plane: Plane,
    receivers: Receivers,
    os: OwnedFd,
    at: SocketAddr,
}

fn udp(v6: bool) -> io::Result<Arc<Udp>> {
    Udp::bind(v6, 0, UdpOptions { segment: true, gro: true, dont_fragment: false }).map(Arc::new)
}

fn rig(peers: &[u8], rules: &str) -> Rig {
    rig_at(vec![udp(false).unwrap()], peers, rules)
}

fn rig_at(sockets: Vec<Arc<Udp>>, peers: &[u8], rules: &str) -> Rig {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let (os, tun) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
    let at = SocketAddr::new([127, 0, 0, 1].into(), sockets[0].local_address().unwrap().port());
    let (channels, receivers) = channels();
    let config = Config {
        tun: vec![Tun::pretend(tun)],
        features: Features { tcp: true, udp: true },
        udp: sockets,
        key: secret(1),
        channels,
    };
    let plane = Plane::start(config).unwrap();
    plane.set_network(&network(peers, rules));
    Rig { plane, receivers, os, at }
}

fn network(peers: &[u8], rules: &str) -> Network {
    Network {
        addresses: vec!["100.64.0.1/32".parse().unwrap()],
        peers: peers.iter().map(|&number| spec(number)).collect(),
        filter: filter(rules),
    }
}

impl Rig {
    /// As the kernel: an IP packet into the TUN.
    fn os_sends(&self, packet: &[u8]) {
        let mut bytes = VnetHeader::PLAIN.to_bytes().to_vec();
        bytes.extend(packet);
        nix::unistd::write(&self.os, &bytes).unwrap();
    }

    /// What the plane gives the kernel in the time.
    fn os_gets(&self, time: Duration) -> Option<Vec<u8>> {
        let end = Instant::now() + time;
        let mut buffer = vec![0; 70_000];
        loop {
            match nix::unistd::read(&self.os, &mut buffer) {
                Ok(length) => return Some(buffer[VnetHeader::LEN..length].to_vec()),
                Err(_) if Instant::now() > end => return None,
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    fn dropped(&self, reason: Reason) -> u64 {
        self.plane.counters().get(reason)
    }

    /// Waits until as many were dropped for a reason.
    fn drops(&self, reason: Reason, count: u64) {
        let end = Instant::now() + WAIT;
        while self.dropped(reason) != count {
            assert!(
                Instant::now() < end,
                "{reason:?}: {:?}",
                self.plane.counters().nonzero().collect::<Vec<_>>()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// A peer that is nothing but boringtun and a socket.
struct Other {
    tunn: Tunn,
    socket: UdpSocket,
    to: SocketAddr,
}

impl Other {
    fn new(number: u8, to: SocketAddr) -> Self {
        Self::with(number, to, key(1))
    }

    fn with(number: u8, to: SocketAddr, us: Public<Node>) -> Self {
        let secret = StaticSecret::from([number; 32]);
        let tunn = Tunn::new(secret, PublicKey::from(*us.bytes()), None, None, number.into(), None);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(WAIT)).unwrap();
        Self { tunn, socket, to }
    }

    fn at(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    fn sealed(&mut self, packet: &[u8]) -> Vec<u8> {
        let mut slot = [0; 2048];
        match self.tunn.encapsulate(packet, &mut slot) {
            TunnResult::WriteToNetwork(bytes) => bytes.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    /// Sends a packet; without a session, what begins one.
    fn sends(&mut self, packet: &[u8]) {
        let sealed = self.sealed(packet);
        self.socket.send_to(&sealed, self.to).unwrap();
    }

    fn take(&mut self, datagram: &[u8]) -> Option<Vec<u8>> {
        let mut slot = [0; 2048];
        let mut datagram = Some(datagram);
        loop {
            match self.tunn.decapsulate(None, datagram.take().unwrap_or(&[]), &mut slot) {
                TunnResult::WriteToNetwork(bytes) => {
                    self.socket.send_to(bytes, self.to).unwrap();
                }
                TunnResult::WriteToTunnelV4(packet, _) => return Some(packet.to_vec()),
                _ => return None,
            }
        }
    }

    /// Answers what the protocol asks for, until an IP packet comes.
    fn gets(&mut self) -> Vec<u8> {
        let mut buffer = [0; 65_536];
        loop {
            let length = self.socket.recv(&mut buffer).unwrap();
            if let Some(packet) = self.take(&buffer[..length]) {
                return packet;
            }
        }
    }

    /// Makes a session with the plane as its first side.
    fn joins(&mut self) {
        self.sends(&udp_packet(9, 1, 9, b"waits"));
        let mut buffer = [0; 2048];
        let length = self.socket.recv(&mut buffer).unwrap();
        assert_eq!(self.take(&buffer[..length]), None);
    }
}

fn ip_packet(from: u8, to: u8, protocol: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend(u16::try_from(20 + body.len()).unwrap().to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, protocol, 0, 0, 100, 64, 0, from, 100, 64, 0, to]);
    packet.extend(body);
    packet
}

fn udp_packet(from: u8, to: u8, port: u16, data: &[u8]) -> Vec<u8> {
    let mut body = 5000_u16.to_be_bytes().to_vec();
    body.extend(port.to_be_bytes());
    body.extend(u16::try_from(8 + data.len()).unwrap().to_be_bytes());
    body.extend([0, 0]);
    body.extend(data);
    ip_packet(from, to, 17, &body)
}

#[test]
fn packets_wait_for_the_session_and_then_go_both_ways() {
    let mut rig = rig(&[2], ALL);
    let mut other = Other::new(2, rig.at);
    let (first, second) = (udp_packet(1, 2, 1, b"first"), udp_packet(1, 2, 1, b"second"));
    // No way yet: they wait, and the path is asked for.
    rig.os_sends(&first);
    rig.os_sends(&second);
    assert_eq!(rig.receivers.events.blocking_recv(), Some(Event::Wanted(key(2))));
    std::thread::sleep(QUIET);
    // The first way leads nowhere; the second is tried at once.
    let nowhere = UdpSocket::bind("127.0.0.1:0").unwrap();
    rig.plane.set_route(&key(2), Route { direct: nowhere.local_addr().ok(), relay: None });
    assert_eq!(nowhere.recv(&mut [0; 2048]).unwrap(), 148);
    let since = Instant::now();
    rig.plane.set_route(&key(2), Route { direct: Some(other.at()), relay: None });
    assert_eq!(other.gets(), first);
    assert!(since.elapsed() < WAIT, "a retry of its own takes five seconds");
    assert_eq!(other.gets(), second);
    let back = udp_packet(2, 1, 5000, b"back");
    other.sends(&back);
    assert_eq!(rig.os_gets(WAIT), Some(back));
    let traffic = rig.plane.peer(&key(2)).unwrap().traffic();
    assert_eq!((traffic.tx_packets, traffic.rx_packets), (2, 1));
    assert_eq!((traffic.tx_bytes, traffic.rx_bytes), (67, 32));
    assert_eq!(rig.plane.counters().nonzero().count(), 0);
    // It came by the way that ours go. Of another way that says nothing.
    assert!(traffic.last_direct > 0);
    rig.plane.set_route(&key(2), Route { direct: nowhere.local_addr().ok(), relay: None });
    other.sends(&udp_packet(2, 1, 5000, b"by the old way"));
    assert!(rig.os_gets(WAIT).is_some());
    assert_eq!(rig.plane.peer(&key(2)).unwrap().traffic().last_direct, 0);
}

#[test]
fn who_begins_is_answered_where_it_came_from_and_told_of() {
    let mut rig = rig(&[2], ALL);
    let mut other = Other::new(2, rig.at);
    let packet = udp_packet(2, 1, 7, b"hello");
    other.sends(&packet);
    let mut buffer = [0; 2048];
    let length = other.socket.recv(&mut buffer).unwrap();
    // Its own queue sends the packet.
    assert_eq!(other.take(&buffer[..length]), None);
    assert_eq!(rig.os_gets(WAIT), Some(packet));
    assert_eq!(rig.receivers.events.blocking_recv(), Some(Event::Authentic(key(2), Source::Udp(other.at()))));
}

#[test]
fn a_source_that_is_not_the_peers_gets_nowhere() {
    let rig = rig(&[2, 3], ALL);
    let mut other = Other::new(2, rig.at);
    other.joins();
    rig.drops(Reason::Spoofed, 1);
    other.sends(&udp_packet(3, 1, 7, b"as another peer"));
    other.sends(&udp_packet(1, 1, 7, b"as we"));
    rig.drops(Reason::Spoofed, 3);
    other.sends(&udp_packet(2, 3, 7, b"for another"));
    rig.drops(Reason::Filtered, 1);
    assert_eq!(rig.plane.counters().by_filter(crate::filter::Reason::NotOurs), 1);
    assert_eq!(rig.os_gets(QUIET), None);
}

#[test]
fn the_filter_rules_and_a_refused_connection_is_told_of() {
    let rig = rig(&[2], "[]");
    let mut other = Other::new(2, rig.at);
    rig.plane.set_route(&key(2), Route { direct: Some(other.at()), relay: None });
    other.joins();
    other.sends(&udp_packet(2, 1, 7, b"no rule"));
    let mut tcp = [0_u8; 20];
    tcp[..4].copy_from_slice(&[0x30, 0x39, 0, 80]);
    tcp[12..14].copy_from_slice(&[0x50, 2]);
    other.sends(&ip_packet(2, 1, 6, &tcp));
    let rejection = other.gets();
    let packet = Packet::parse(&rejection).unwrap();
    assert_eq!((packet.protocol(), packet.transport()), (99, &b"!\x06A\x30\x39\x00\x50"[..]));
    rig.drops(Reason::Filtered, 2);
    // What answers us comes in, and after a change what the rule says.
    rig.os_sends(&udp_packet(1, 2, 5000, b"ask"));
    assert_eq!(&other.gets()[28..], b"ask");
    other.sends(&udp_packet(2, 1, 5000, b"answer"));
    assert_eq!(&rig.os_gets(WAIT).unwrap()[28..], b"answer");
    rig.plane.set_filter(filter(ALL));
    other.sends(&udp_packet(2, 1, 7, b"a rule"));
    assert_eq!(&rig.os_gets(WAIT).unwrap()[28..], b"a rule");
}

#[test]
fn a_tsmp_ping_is_answered_and_never_handed_on() {
    let rig = rig(&[2], "[]");
    let mut other = Other::new(2, rig.at);
    rig.plane.set_route(&key(2), Route { direct: Some(other.at()), relay: None });
    other.joins();
    other.sends(&ip_packet(2, 1, 99, b"p12345678"));
    let answer = other.gets();
    let packet = Packet::parse(&answer).unwrap();
    assert_eq!(packet.transport(), b"o12345678\0\0");
    assert_eq!((packet.source(), packet.destination()), ([100, 64, 0, 1].into(), [100, 64, 0, 2].into()));
    for other_kind in [&b"o12345678\0\0"[..], b"!", b"p1234567", b""] {
        other.sends(&ip_packet(2, 1, 99, other_kind));
    }
    assert_eq!(rig.os_gets(QUIET), None);
}

#[test]
fn a_peer_that_is_gone_is_gone_at_once_and_another_has_its_address() {
    let rig = rig(&[2, 3], ALL);
    let mut other = Other::new(2, rig.at);
    other.joins();
    let packet = udp_packet(2, 1, 7, b"still");
    other.sends(&packet);
    assert_eq!(rig.os_gets(WAIT), Some(packet));
    let mut network = network(&[3], ALL);
    network.peers[0].allowed.push("100.64.0.2/32".parse().unwrap());
    rig.plane.set_network(&network);
    let before = rig.dropped(Reason::NoSession);
    other.sends(&udp_packet(2, 1, 7, b"no more"));
    rig.drops(Reason::NoSession, before + 1);
    // Nor does it begin again.
    let mut again = Other::new(2, rig.at);
    again.sends(&udp_packet(2, 1, 7, b"anew"));
    rig.drops(Reason::Stranger, 1);
    let mut third = Other::new(3, rig.at);
    third.joins();
    third.sends(&udp_packet(2, 1, 7, b"mine now"));
    assert_eq!(&rig.os_gets(WAIT).unwrap()[28..], b"mine now");
}

#[test]
fn another_key_of_ours_ends_all_sessions_and_begins_anew() {
    let rig = rig(&[2], ALL);
    let mut other = Other::new(2, rig.at);
    other.joins();
    rig.drops(Reason::Spoofed, 1);
    rig.plane.set_key(&secret(50));
    other.sends(&udp_packet(2, 1, 7, b"old key"));
    rig.drops(Reason::NoSession, 1);
    let mut other = Other::with(2, rig.at, key(50));
    other.joins();
    other.sends(&udp_packet(2, 1, 7, b"new key"));
    assert_eq!(&rig.os_gets(WAIT).unwrap()[28..], b"new key");
}

#[test]
fn a_relay_carries_it_both_ways() {
    let mut rig = rig(&[2], ALL);
    let mut delivery = rig.plane.delivery().unwrap();
    let region = RegionId(900);
    let mut other = Other::new(2, rig.at);
    rig.plane.set_route(&key(2), Route { direct: None, relay: Some(region) });
    let packet = udp_packet(1, 2, 1, b"by relay");
    rig.os_sends(&packet);
    let relayed = |rig: &mut Rig| {
        let batch = rig.receivers.relay.blocking_recv().unwrap();
        assert_eq!((batch.region, batch.peer), (region, key(2)));
        batch.bytes
    };
    let mut slot = [0; 2048];
    let begins = relayed(&mut rig);
    let TunnResult::WriteToNetwork(response) = other.tunn.decapsulate(None, &begins, &mut slot) else {
        panic!("no response")
    };
    delivery.deliver(key(2), region, [&*response]);
    let keepalive = relayed(&mut rig);
    assert!(matches!(other.tunn.decapsulate(None, &keepalive, &mut slot), TunnResult::Done));
    assert_eq!(other.take(&relayed(&mut rig)), Some(packet));
    let back = udp_packet(2, 1, 1, b"back");
    let sealed = other.sealed(&back);
    delivery.deliver(key(2), region, [&sealed[..]]);
    assert_eq!(rig.os_gets(WAIT), Some(back));
    // With both ways, both are taken, and the second copy is none.
    rig.plane.set_route(&key(2), Route { direct: Some(other.at()), relay: Some(region) });
    let packet = udp_packet(1, 2, 1, b"twice");
    rig.os_sends(&packet);
    assert_eq!(other.gets(), packet);
    assert_eq!(other.take(&relayed(&mut rig)), None);
    delivery.deliver(key(2), region, [&[0xff; 40][..]]);
    rig.drops(Reason::BadMessage, 1);
}

#[test]
fn what_is_not_wireguard_is_handed_on_and_unknown_sessions_are_told_of() {
    let mut rig = rig(&[2], ALL);
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    // As long as the shortest that has anything in its box.
    let message = [&b"TS\xf0\x9f\x92\xac"[..], &[7; 94]].concat();
    stranger.send_to(b"neither of them", rig.at).unwrap();
    rig.drops(Reason::UnknownKind, 1);
    stranger.send_to(&message, rig.at).unwrap();
    let outside = rig.receivers.outside.blocking_recv().unwrap();
    assert_eq!(outside.from, stranger.local_addr().unwrap());
    assert_eq!(outside.bytes, message);
    std::thread::sleep(Duration::from_millis(UNKNOWN_EVERY_MS));
    let mut data = vec![4, 0, 0, 0, 0, 0, 0, 9];
    data.resize(64, 0);
    stranger.send_to(&data, rig.at).unwrap();
    let told = Event::Unknown(Source::Udp(stranger.local_addr().unwrap()));
    assert_eq!(rig.receivers.events.blocking_recv(), Some(told));
    assert_eq!(rig.dropped(Reason::NoSession), 1);
}

#[test]
fn hostile_datagrams_are_counted_and_change_nothing() {
    let rig = rig(&[2], ALL);
    let mut other = Other::new(2, rig.at);
    other.joins();
    rig.drops(Reason::Spoofed, 1);
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut sealed = other.sealed(&udp_packet(2, 1, 7, b"forged"));
    sealed[20] ^= 1;
    stranger.send_to(&sealed, rig.at).unwrap();
    rig.drops(Reason::Forged, 1);
    for length in [1, 4, 31, 32, 64, 92, 148, 1400] {
        for kind in 1..=4 {
            let mut datagram = vec![0; length];
            datagram[0] = kind;
            stranger.send_to(&datagram, rig.at).unwrap();
        }
    }
    let good = udp_packet(2, 1, 7, b"good");
    let sealed = other.sealed(&good);
    other.socket.send_to(&sealed, rig.at).unwrap();
    assert_eq!(rig.os_gets(WAIT), Some(good));
    other.socket.send_to(&sealed, rig.at).unwrap();
    rig.drops(Reason::Replayed, 1);
    // A packet inside that is none.
    other.sends(&[0x55; 40]);
    rig.drops(Reason::BadMessage, 1);
    assert_eq!(rig.os_gets(QUIET), None);
}

/// A beginning that names peer 2, by somebody who has not its key: its static part is right, its time is not.
fn pretended_beginning(at: SocketAddr) -> Vec<u8> {
    use blake2::digest::{Digest as _, FixedOutput as _, KeyInit as _, Update as _};

    let mut message = Other::new(2, at).sealed(&[]);
    message[100] ^= 1;
    let mac_key = blake2::Blake2s256::new().chain_update(b"mac1----").chain_update(key(1).bytes()).finalize();
    let mut mac = blake2::Blake2sMac::<blake2::digest::consts::U16>::new_from_slice(&mac_key).unwrap();
    mac.update(&message[..116]);
    message[116..132].copy_from_slice(&mac.finalize_fixed());
    message
}

#[test]
fn memory_is_for_who_has_the_key() {
    let rig = rig(&[2], ALL);
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut data = vec![4, 0, 0, 0, 1, 0, 0, 0];
    data.resize(64, 0);
    stranger.send_to(&data, rig.at).unwrap();
    rig.drops(Reason::NoSession, 1);
    stranger.send_to(&pretended_beginning(rig.at), rig.at).unwrap();
    rig.drops(Reason::Forged, 1);
    assert!(rig.plane.shared.active().is_empty());
    assert!(rig.plane.peer(&key(2)).unwrap().tunnel().is_none());
}

#[test]
fn an_old_beginning_is_refused_although_the_session_it_made_is_long_gone() {
    let rig = rig(&[2], ALL);
    let mut other = Other::new(2, rig.at);
    let begins = other.sealed(&udp_packet(2, 1, 7, b"waits"));
    other.socket.send_to(&begins, rig.at).unwrap();
    let mut buffer = [0; 2048];
    assert_eq!(other.socket.recv(&mut buffer).unwrap(), 92);
    let peer = rig.plane.peer(&key(2)).unwrap();
    rig.plane.shared.forget(&peer);
    assert!(peer.tunnel().is_some(), "it is not over");
    peer.drop_tunnel(|_| true, || rig.plane.shared.active().clear());
    other.socket.send_to(&begins, rig.at).unwrap();
    rig.drops(Reason::Replayed, 1);
    assert!(peer.tunnel().is_none());
    // A new one is none of that.
    let mut again = Other::new(2, rig.at);
    again.joins();
    rig.drops(Reason::Spoofed, 1);
}

#[test]
fn our_times_go_on_where_they_were_kept_also_under_another_key() {
    let rig = rig(&[2], ALL);
    let nowhere = UdpSocket::bind("127.0.0.1:0").unwrap();
    // Later than any clock of this test.
    rig.plane.stamper().raise(1 << 63);
    rig.plane.set_route(&key(2), Route { direct: nowhere.local_addr().ok(), relay: None });
    rig.plane.initiate(&key(2));
    assert_eq!(rig.plane.stamper().last(), (1 << 63) + 1);
    rig.plane.set_key(&secret(50));
    rig.plane.initiate(&key(2));
    assert_eq!(rig.plane.stamper().last(), (1 << 63) + 2);
}

#[test]
fn one_thread_receives_from_both_families() {
    let sockets = vec![udp(false).unwrap(), udp(true).unwrap()];
    let to =
        SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), sockets[1].local_address().unwrap().port());
    let rig = rig_at(sockets, &[2], ALL);
    // It, the TUN's, and the clock's.
    assert_eq!(rig.plane.threads.len(), 3);
    assert!(rig.plane.runs());
    let mut other = Other::new(2, rig.at);
    other.joins();
    rig.drops(Reason::Spoofed, 1);
    let v6 = UdpSocket::bind("[::1]:0").unwrap();
    for number in 0..20_u8 {
        let packet = udp_packet(2, 1, 7, &[number]);
        let sealed = other.sealed(&packet);
        if number % 2 == 0 {
            v6.send_to(&sealed, to).unwrap();
        } else {
            other.socket.send_to(&sealed, rig.at).unwrap();
        }
        assert_eq!(rig.os_gets(WAIT), Some(packet));
    }
}

#[test]
fn three_thousand_peers_are_cheap_until_they_are_used() {
    let rig = rig(&[], ALL);
    let peers = |count: u16| Network {
        peers: (0..count)
            .map(|number| {
                let mut bytes = [9; 32];
                bytes[..2].copy_from_slice(&number.to_be_bytes());
                let [high, low] = number.to_be_bytes();
                PeerSpec {
                    key: Public::new(bytes),
                    allowed: vec![format!("100.65.{high}.{low}/32").parse().unwrap()],
                }
            })
            .collect(),
        ..network(&[], ALL)
    };
    rig.plane.set_network(&peers(3000));
    let kept = rig.plane.peer(&peers(1).peers[0].key).unwrap();
    rig.plane.set_network(&peers(2999));
    assert_eq!(rig.plane.peers().len(), 2999);
    assert!(Arc::ptr_eq(&kept, &rig.plane.peer(&kept.key()).unwrap()));
    assert!(rig.plane.peers().iter().all(|peer| !rig.plane.has_session(peer)));
    assert!(size_of::<Peer>() <= 512, "{}", size_of::<Peer>());
}

#[test]
fn it_stops() {
    let mut rig = rig(&[2], ALL);
    rig.plane.stop();
    assert!(rig.plane.threads.is_empty());
}
