//! What the guest's own processes can send and receive, by traffic.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed assertion is what a test is for")]

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use casemate_egress::{Mode, Policy};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, setsockopt, socket, sockopt};
use support::traffic::{
    NOT, SOON, any, ask, ask_in_vain, echo, icmp, ipv4, listen, patiently, raw, segment, udp,
};
use support::{AGENT, Bench, DHCP_MARK, GATEWAY, LISTED, MESH, OWN, UNLISTED, link, policy};

const WEB: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 2);
const DB: Ipv4Addr = Ipv4Addr::new(198, 18, 2, 2);

/// TCP flags (RFC 9293 section 3.1).
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

fn internal() -> Policy {
    policy(Mode::InternalOnly)
}

#[test]
fn only_mesh_and_only_its_targets() {
    let Some(mut bench) = Bench::new(&internal()) else { return };
    let server = echo(&bench.outside, 0, (LISTED, 443).into());
    let answer = bench.guest.run_as(MESH, || ask((LISTED, 443))).unwrap();
    assert_eq!(answer.parse::<SocketAddr>().unwrap().ip(), IpAddr::V4(OWN));
    assert_eq!(server.accepted(), 1);
    assert_eq!(bench.count("process:mesh"), 0);

    let server = echo(&bench.outside, 0, (LISTED, 443).into());
    let ear = listen(&bench.outside);
    // The rest of the first connection.
    let _heard = ear.frames();
    let others = [
        (0, "init"),
        (AGENT, "agent"),
        (102, "vpn"),
        (104, "vpc"),
        (105, "dhcp"),
        (1000, "other"),
        (65534, "other"),
    ];
    for (uid, name) in others {
        let counter = format!("process:{name}");
        let before = bench.count(&counter);
        bench.guest.run_as(uid, || {
            assert!(ask_in_vain((LISTED, 443)).is_err(), "uid {uid}");
            udp(any(), (LISTED, 443));
        });
        assert!(bench.reaches(&counter, before + 2), "uid {uid}");
    }
    let before = bench.count("process:mesh");
    bench.guest.run_as(MESH, || {
        assert!(ask_in_vain((LISTED, 444)).is_err());
        assert!(ask_in_vain((UNLISTED, 443)).is_err());
        udp(any(), (LISTED, 443));
    });
    assert!(bench.reaches("process:mesh", before + 3));
    ear.nothing_to(LISTED);
    ear.nothing_to(UNLISTED);
    assert_eq!(server.accepted(), 0);
}

/// A socket whose connect(2) waits so long.
fn tcp_socket(patience: Duration) -> OwnedFd {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let (seconds, micros) = (patience.as_secs(), patience.subsec_micros());
    let limit = nix::sys::time::TimeVal::new(seconds.try_into().unwrap(), micros.into());
    setsockopt(&fd, sockopt::SendTimeout, &limit).unwrap();
    fd
}

fn connects(fd: &OwnedFd) -> bool {
    connect(fd.as_raw_fd(), &SockaddrIn::from(std::net::SocketAddrV4::new(LISTED, 443))).is_ok()
}

#[test]
fn a_socket_is_judged_by_who_created_it() {
    let Some(mut bench) = Bench::new(&internal()) else { return };
    let server = echo(&bench.outside, 0, (LISTED, 443).into());
    let roots = bench.guest.run(|| tcp_socket(NOT));
    assert!(!bench.guest.run_as(MESH, || connects(&roots)), "root's socket in mesh's hands");
    assert!(bench.reaches("process:init", 1));
    assert_eq!(bench.count("process:mesh"), 0);

    let meshs = bench.guest.run_as(MESH, || tcp_socket(SOON));
    assert!(bench.guest.run(|| connects(&meshs)), "mesh's socket in root's hands");
    assert_eq!(server.accepted(), 1);
}

fn dhcp_socket(mark: Option<u32>) -> UdpSocket {
    let socket = patiently(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 68)));
    setsockopt(&socket, sockopt::BindToDevice, &"eth0".into()).unwrap();
    if let Some(mark) = mark {
        setsockopt(&socket, sockopt::Mark, &mark).unwrap();
    }
    socket.set_broadcast(true).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

#[test]
fn dhcp_is_known_by_its_mark() {
    let Some(mut bench) = Bench::without_address(&internal()) else { return };
    bench.guest.sysctl("ipv4/conf/all/rp_filter", "0");
    bench.guest.sysctl("ipv4/conf/eth0/rp_filter", "0");
    let ear = listen(&bench.outside);
    let everybody = Ipv4Addr::BROADCAST;
    let requests = || {
        let seen = ear.ipv4();
        seen.iter().filter(|(from, to)| from.is_unspecified() && *to == everybody).count()
    };
    // Opened and marked by root, used by the child.
    let socket = bench.guest.run(|| dhcp_socket(Some(DHCP_MARK)));
    bench.guest.run_as(105, || socket.send_to(b"discover", (everybody, 67))).unwrap();
    assert_eq!(requests(), 1);
    assert_eq!((bench.count("process:init"), bench.count("process:dhcp")), (0, 0));
    // The offer comes back, broadcast.
    bench.outside.run(|| {
        let server = UdpSocket::bind((GATEWAY, 67)).unwrap();
        setsockopt(&server, sockopt::BindToDevice, &"wan".into()).unwrap();
        server.set_broadcast(true).unwrap();
        server.send_to(b"offer", (everybody, 68)).unwrap();
    });
    assert_eq!(socket.recv(&mut [0; 64]).unwrap(), 5);

    // The mark is for DHCP only.
    let _heard = ear.frames();
    let _refused = bench.guest.run(|| socket.send_to(b"elsewhere", (everybody, 69)));
    assert_eq!(bench.count("process:init"), 1);
    drop(socket);
    let unmarked = bench.guest.run(|| dhcp_socket(None));
    let _refused = unmarked.send_to(b"discover", (everybody, 67));
    assert_eq!(bench.count("process:init"), 2);
    drop(unmarked);
    let own = bench.guest.run_as(105, || dhcp_socket(None));
    let _refused = own.send_to(b"discover", (everybody, 67));
    assert_eq!(bench.count("process:dhcp"), 1);
    assert_eq!(requests(), 0);
}

#[test]
fn a_renewal_goes_from_the_leased_address_and_no_static_address_opens_dhcp() {
    let Some(bench) = Bench::new(&internal()) else { return };
    let server = bench.outside.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 67))).unwrap();
    server.set_read_timeout(Some(SOON)).unwrap();
    let socket = bench.guest.run(|| dhcp_socket(Some(DHCP_MARK)));
    // To one server by name of its address: not even there, or a client that was taken over could reach any address.
    let ear = listen(&bench.outside);
    let _refused = socket.send_to(b"renew", (GATEWAY, 67));
    ear.nothing_to(GATEWAY);
    socket.send_to(b"renew", (Ipv4Addr::BROADCAST, 67)).unwrap();
    let (_, from) = server.recv_from(&mut [0; 64]).unwrap();
    assert_eq!(from, (OWN, 68).into());

    let mut fixed = internal();
    fixed.dhcp_mark = None;
    let Some(mut bench) = Bench::new(&fixed) else { return };
    let ear = listen(&bench.outside);
    let socket = bench.guest.run(|| dhcp_socket(Some(DHCP_MARK)));
    let _refused = socket.send_to(b"renew", (GATEWAY, 67));
    assert_eq!(bench.count("process:init"), 1);
    ear.nothing_to(GATEWAY);
    bench.outside.run(|| udp((GATEWAY, 67), (OWN, 68)));
    assert!(bench.reaches("link:inbound", 1));
}

#[test]
fn inbound_on_the_served_ports_only() {
    let Some(mut bench) = Bench::new(&internal()) else { return };
    let everywhere = Ipv4Addr::UNSPECIFIED;
    let mesh = echo(&bench.guest, MESH, (everywhere, 443).into());
    bench.outside.run(|| ask((OWN, 443))).unwrap();
    assert_eq!(mesh.accepted(), 1);
    assert_eq!((bench.count("process:none"), bench.count("link:inbound")), (0, 0));

    let other = echo(&bench.guest, MESH, (everywhere, 8443).into());
    bench.outside.run(|| {
        assert!(ask_in_vain((OWN, 8443)).is_err());
        udp(any(), (OWN, 443));
        raw(&ipv4(GATEWAY, OWN, 1, &icmp(8)));
    });
    assert_eq!(other.accepted(), 0);
    assert!(bench.reaches("link:inbound", 3));

    // A listener of somebody else on that port: its SYN-ACK carries the listener's owner.
    let roots = echo(&bench.guest, 0, (everywhere, 443).into());
    bench.outside.run(|| assert!(ask_in_vain((OWN, 443)).is_err()));
    assert_eq!(roots.accepted(), 0);
    assert!(bench.reaches("process:init", 1));

    // A segment out of nowhere opens no flow, and is answered by no reset.
    let ear = listen(&bench.outside);
    let before = bench.count("link:inbound");
    bench.outside.run(|| raw(&segment(UNLISTED, OWN, 443, ACK)));
    ear.nothing_to(UNLISTED);
    assert_eq!(bench.count("link:inbound"), before + 1);
    bench.outside.run(|| raw(&segment(UNLISTED, OWN, 443, SYN)));
    assert!(ear.ipv4().contains(&(OWN, UNLISTED)), "the control");

    // Nobody listens: the reset has no socket, and a rule of its own.
    let refused = bench.outside.run(|| ask((OWN, 443))).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn what_a_closed_socket_still_has_to_send_arrives() {
    const BYTES: usize = 1 << 20;
    let Some(mut bench) = Bench::new(&internal()) else { return };
    let listener = bench.guest.run_as(MESH, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 443))).unwrap();
    setsockopt(&listener, sockopt::SndBuf, &(2 * BYTES)).unwrap();
    let mut client = bench.outside.run(|| TcpStream::connect((OWN, 443))).unwrap();
    bench.guest.run_as(MESH, || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let sent = stream.write(&vec![7; BYTES]).unwrap();
        assert!(sent > 100_000, "more than the peer's window, so that some is left: {sent}");
    });
    client.set_read_timeout(Some(SOON)).unwrap();
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    assert!(received.len() > 100_000);
    drop(client);
    assert_eq!((bench.count("process:none"), bench.count("process:mesh")), (0, 0));
}

#[test]
fn mesh_reaches_the_backends() {
    let Some(mut bench) = Bench::new(&internal()) else { return };
    let web = echo(bench.service(1), 0, (WEB, 8000).into());
    assert!(bench.guest.run_as(MESH, || ask((WEB, 8000))).unwrap().starts_with("198.18.1.1:"));
    assert_eq!(web.accepted(), 1);
    let refused = bench.guest.run_as(MESH, || ask((WEB, 8000))).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "the service's reset comes back");

    let other_port = echo(bench.service(1), 0, (WEB, 8001).into());
    let other_service = echo(bench.service(2), 0, (DB, 8000).into());
    let other_uid = echo(bench.service(1), 0, (WEB, 8000).into());
    bench.guest.run_as(MESH, || {
        assert!(ask_in_vain((WEB, 8001)).is_err());
        assert!(ask_in_vain((DB, 8000)).is_err());
    });
    bench.guest.run_as(AGENT, || assert!(ask_in_vain((WEB, 8000)).is_err()));
    assert_eq!((other_port.accepted(), other_service.accepted(), other_uid.accepted()), (0, 0, 0));
    assert!(bench.reaches("process:mesh", 2));
    assert!(bench.reaches("process:agent", 1));
}

#[test]
fn anothers_translation_does_not_lead_astray() {
    for (elsewhere, host) in [("10.9.0.3", UNLISTED), ("10.9.0.2:444", LISTED), ("198.18.1.2:9000", WEB)] {
        let Some(mut bench) = Bench::new(&internal()) else { return };
        bench.guest.nft(&format!(
            "table ip evil {{ chain out {{ type nat hook output priority -100; ip daddr 10.9.0.2 tcp dport 443 dnat to {elsewhere}; }}; }}",
        ));
        let ear = listen(if host == WEB { bench.service(1) } else { &bench.outside });
        bench.guest.run_as(MESH, || assert!(ask_in_vain((LISTED, 443)).is_err()));
        ear.nothing_to(host);
        assert!(bench.reaches("process:mesh", 1), "{elsewhere}");
    }
}

/// Later than our `output`, where no translation happens any more but any change still may: `postrouting` judges again.
#[test]
fn a_change_after_the_first_judgement_is_judged_too() {
    let Some(mut bench) = Bench::new(&internal()) else { return };
    bench.guest.nft(
        "table ip evil { chain out { type filter hook output priority 300; ip daddr 10.9.0.2 ip daddr set 10.9.0.3; }; }",
    );
    let ear = listen(&bench.outside);
    bench.guest.run_as(MESH, || assert!(ask_in_vain((LISTED, 443)).is_err()));
    ear.nothing_to(UNLISTED);
    assert!(bench.reaches("process:mesh", 1));
}

#[test]
fn a_target_is_reached_over_the_link_only() {
    let Some(mut bench) = Bench::new(&internal()) else { return };
    let ear = bench.second_link();
    bench.guest.ip(&format!("route add {LISTED} dev eth1"));
    bench.guest.run_as(MESH, || assert!(ask_in_vain((LISTED, 443)).is_err()));
    ear.nothing_to(LISTED);
    assert!(bench.reaches("process:mesh", 1));
}

#[test]
fn loopback_is_for_loopback_addresses() {
    let Some(mut bench) = Bench::new(&internal()) else { return };
    bench.guest.sysctl("ipv6/conf/lo/disable_ipv6", "0");
    for own in ["127.0.0.1:7000", "[::1]:7001"].map(|a| a.parse::<SocketAddr>().unwrap()) {
        let server = echo(&bench.guest, 0, own);
        bench.guest.run_as(AGENT, || ask(own)).unwrap();
        assert_eq!(server.accepted(), 1);
    }
    assert_eq!(bench.count("loopback:denied"), 0);
    let server = echo(&bench.guest, MESH, (OWN, 443).into());
    bench.guest.run_as(MESH, || assert!(ask_in_vain((OWN, 443)).is_err()));
    assert_eq!(server.accepted(), 0);
    assert!(bench.reaches("loopback:denied", 1));
}

#[test]
fn ipv6_is_locked_alike() {
    let target: SocketAddr = "[fd00:9::1]:443".parse().unwrap();
    let mut policy = internal();
    policy.mesh_targets.push(target);
    let Some(mut bench) = Bench::without_address(&policy) else { return };
    bench.guest.sysctl("ipv6/conf/all/disable_ipv6", "0");
    bench.outside.ip("addr add fd00:9::1/64 dev wan nodad");
    bench.outside.ip("addr add fd00:9::2/64 dev wan nodad");
    bench.outside.ip("route add fd00:9::15 dev wan");
    bench.guest.ip("addr add fd00:9::15/128 dev eth0 nodad");
    bench.guest.ip("route add fd00:9::1 dev eth0");
    bench.guest.ip("route add default via fd00:9::1 dev eth0");
    let server = echo(&bench.outside, 0, target);
    assert!(bench.guest.run_as(MESH, || ask_in_vain(target)).is_err(), "not before the address is ours");
    assert!(bench.reaches("frame:eth0:neighbour", 1));
    let own = ["fd00:9::15".parse().unwrap()];
    bench.lock.set_own_addresses(&link(), &own, Some("fd00:9::1".parse().unwrap())).unwrap();
    bench.guest.ip("neigh flush all");
    bench.guest.run_as(MESH, || ask(target)).unwrap();
    assert_eq!(server.accepted(), 1);
    bench.guest.run_as(MESH, || {
        assert!(ask_in_vain("[fd00:9::2]:443".parse::<SocketAddr>().unwrap()).is_err());
    });
    assert!(bench.reaches("process:mesh", 1));
    bench.guest.run_as(AGENT, || assert!(ask_in_vain(target).is_err()));
    assert!(bench.reaches("process:agent", 1));
}
