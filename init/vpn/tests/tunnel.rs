//! Two planes in two network namespaces, with real TUNs: what comes out is what went in, by every way of moving it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on may panic")]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use casemate_vpn::filter::Filter;
use casemate_vpn::key::{Node, Secret};
use casemate_vpn::plane::{Config, Network, PeerSpec, Plane, Reason, Receivers, Route, Traffic, channels};
use casemate_vpn::sys::{Features, Tun, Udp, UdpOptions, open};
use ipnet::IpNet;
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::value::RawValue;

const WAIT: Duration = Duration::from_secs(10);
/// More than any buffer holds, and no multiple of anything.
const BULK: usize = 8_000_001;
const PORT: u16 = 7000;

#[derive(Clone, Copy)]
struct Mode {
    tun: Features,
    udp: UdpOptions,
    queues: usize,
    /// Of the link between them.
    mtu: u16,
    v6: bool,
}

const FULL: Mode = Mode {
    tun: Features { tcp: true, udp: true },
    udp: UdpOptions { segment: true, gro: true, dont_fragment: false },
    queues: 1,
    mtu: 1500,
    v6: false,
};

/// One end.
struct End {
    netns: OwnedFd,
    plane: Plane,
    _receivers: Receivers,
}

fn secret(number: u8) -> Secret<Node> {
    Secret::new([number; 32])
}

fn inner(number: u8, v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, number.into()).into()
    } else {
        Ipv4Addr::new(100, 64, 0, number).into()
    }
}

fn outer(number: u8, v6: bool) -> SocketAddr {
    let ip = if v6 {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into()).into()
    } else {
        IpAddr::from([10, 9, 0, number])
    };
    SocketAddr::new(ip, 41641)
}

fn inside<T: Send>(netns: &OwnedFd, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).expect("setns");
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

fn namespace() -> OwnedFd {
    std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("unshare");
        File::open("/proc/thread-self/ns/net").unwrap().into()
    })
    .join()
    .unwrap()
}

fn end(netns: OwnedFd, number: u8, link: &str, mode: Mode) -> End {
    let other = 3 - number;
    let (plane, receivers) = inside(&netns, || {
        ip("link set lo up");
        ip(&format!("address add {}/24 dev {link}", outer(number, false).ip()));
        ip(&format!("address add {}/64 dev {link} nodad", outer(number, true).ip()));
        ip(&format!("link set {link} mtu {} up", mode.mtu));
        let (queues, features) = open("casemate0", mode.queues, mode.tun).unwrap();
        ip(&format!("address add {}/10 dev casemate0", inner(number, false)));
        ip(&format!("address add {}/48 dev casemate0 nodad", inner(number, true)));
        ip("link set casemate0 mtu 1280 up");
        let (channels, receivers) = channels();
        let config = Config {
            tun: queues.into_iter().map(|queue| Tun::adopt(queue).unwrap()).collect(),
            features,
            udp: [false, true].map(|v6| Arc::new(Udp::bind(v6, 41641, mode.udp).unwrap())).into(),
            key: secret(number),
            channels,
        };
        (Plane::start(config).unwrap(), receivers)
    });
    let addresses = |number| -> Vec<IpNet> { [false, true].map(|v6| inner(number, v6).into()).into() };
    let rules = r#"[{"SrcIPs":["*"],"DstPorts":[{"IP":"*","Ports":{"First":0,"Last":65535}}]}]"#;
    let rules: Box<RawValue> = serde_json::from_str(rules).unwrap();
    let key = secret(other).public();
    plane.set_network(&Network {
        addresses: addresses(number),
        peers: vec![PeerSpec { key, allowed: addresses(other) }],
        filter: Arc::new(Filter::compile(std::iter::once(("base", &*rules))).filter),
    });
    plane.set_route(&key, Route { direct: Some(outer(other, mode.v6)), relay: None });
    End { netns, plane, _receivers: receivers }
}

/// Two ends; `None`, said loudly, where the machine cannot do it.
fn joined(mode: Mode) -> Option<(End, End)> {
    let missing = if !nix::unistd::geteuid().is_root() {
        "needs root for network namespaces"
    } else if Command::new("ip").arg("-V").output().is_err() {
        "needs the ip command (iproute2)"
    } else if File::open("/dev/net/tun").is_err() {
        "needs /dev/net/tun"
    } else {
        let (one, two) = (namespace(), namespace());
        inside(&one, || {
            ip("link add eth0 type veth peer name eth1");
            // `ip` opens a name with a slash as a path.
            ip(&format!("link set eth1 netns /proc/{}/fd/{}", std::process::id(), two.as_raw_fd()));
        });
        return Some((end(one, 1, "eth0", mode), end(two, 2, "eth1", mode)));
    };
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "SKIPPED under CI=true: {missing}");
    eprintln!("SKIPPED: {missing}");
    None
}

fn bulk(seed: u8) -> Vec<u8> {
    (0..BULK).map(|at| (at / 251 + at).to_le_bytes().first().copied().unwrap_or(0) ^ seed).collect()
}

/// Sends much by TCP and compares what came.
fn transfer(from: &End, to: &End, to_number: u8, v6: bool) {
    let at = SocketAddr::new(inner(to_number, v6), PORT);
    let listener = inside(&to.netns, || TcpListener::bind(at).unwrap());
    let mut stream = inside(&from.netns, || TcpStream::connect_timeout(&at, WAIT).unwrap());
    let data = bulk(to_number);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(WAIT)).unwrap();
            let mut got = Vec::new();
            stream.read_to_end(&mut got).unwrap();
            got
        });
        stream.set_write_timeout(Some(WAIT)).unwrap();
        stream.write_all(&data).unwrap();
        drop(stream);
        assert!(reader.join().unwrap() == data, "the bytes differ");
    });
}

/// Datagrams of one size in quick succession, then of others.
fn datagrams(from: &End, to: &End, to_number: u8, v6: bool) {
    let at = SocketAddr::new(inner(to_number, v6), PORT);
    let receiver = inside(&to.netns, || UdpSocket::bind(at).unwrap());
    receiver.set_read_timeout(Some(WAIT)).unwrap();
    let sender = inside(&from.netns, || {
        UdpSocket::bind((if v6 { IpAddr::from(Ipv6Addr::UNSPECIFIED) } else { [0; 4].into() }, 0)).unwrap()
    });
    // The last is longer than the tunnel's MTU: the kernel sends it as fragments.
    let lengths = std::iter::repeat_n(1000, 50).chain([1, 0, 7, 1232, 1233, 9000]);
    for (number, length) in lengths.enumerate() {
        let sent: Vec<_> = (0..length).map(|at| (at + number).to_le_bytes()[0]).collect();
        sender.send_to(&sent, at).unwrap();
        let mut got = [0; 10_000];
        let got_length = receiver.recv(&mut got).unwrap();
        assert!(got.get(..got_length) == Some(&sent), "the datagram of {length} bytes differs");
    }
}

fn traffic(end: &End, other: u8) -> Traffic {
    end.plane.peer(&secret(other).public()).unwrap().traffic()
}

/// Moves everything everywhere, and accounts for every packet.
fn moves(mode: Mode) {
    let Some((one, two)) = joined(mode) else { return };
    for v6 in [false, true] {
        transfer(&one, &two, 2, v6);
        transfer(&two, &one, 1, v6);
        datagrams(&one, &two, 2, v6);
    }
    for end in [&one, &two] {
        // Router solicitations of the kernel's are for no peer.
        let dropped: Vec<_> =
            end.plane.counters().nonzero().filter(|(reason, _)| *reason != Reason::NoPeer).collect();
        assert_eq!(dropped, []);
    }
    let until = Instant::now() + WAIT;
    loop {
        let (ours, theirs) = (traffic(&one, 2), traffic(&two, 1));
        let account =
            |sent: Traffic, got: Traffic| (sent.tx_packets, sent.tx_bytes) == (got.rx_packets, got.rx_bytes);
        if account(ours, theirs) && account(theirs, ours) {
            assert!(ours.tx_bytes > 2 * BULK as u64 && theirs.tx_bytes > 2 * BULK as u64);
            break;
        }
        assert!(Instant::now() < until, "{ours:?} {theirs:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn with_all_offloads() {
    moves(FULL);
}

#[test]
fn over_ipv6_and_with_two_queues() {
    moves(Mode { v6: true, queues: 2, ..FULL });
}

#[test]
fn packet_by_packet() {
    moves(Mode {
        tun: Features { tcp: false, udp: false },
        udp: UdpOptions { segment: false, gro: false, dont_fragment: false },
        ..FULL
    });
}

#[test]
fn with_offloads_at_the_tun_alone() {
    moves(Mode { udp: UdpOptions { segment: false, gro: false, dont_fragment: false }, ..FULL });
}

#[test]
fn with_offloads_of_udp_alone() {
    moves(Mode { tun: Features { tcp: false, udp: false }, ..FULL });
}

#[test]
fn over_a_link_too_narrow_for_a_sealed_packet() {
    moves(Mode { mtu: 1300, ..FULL });
}
