//! What a service can send, in each mode, by traffic.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed assertion is what a test is for")]

mod support;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use casemate_egress::{Allow, Mode, Proto};
use support::traffic::{NOT, SOON, any, ask, ask_in_vain, datagram, echo, icmp, ipv4, listen, raw, udp};
use support::{Bench, GATEWAY, LISTED, OWN, UNLISTED, policy};

const WEB: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 2);
const DB: Ipv4Addr = Ipv4Addr::new(198, 18, 2, 2);

fn allowlist() -> Mode {
    Mode::Allowlist(vec![Allow { cidr: "10.9.0.2/32".parse().unwrap(), port: 443, proto: Proto::Tcp }])
}

/// Of every kind one packet to a host: TCP, UDP, ICMP, an unknown protocol. Returns how many must have been denied.
fn everything_to(host: Ipv4Addr) -> u64 {
    assert!(ask_in_vain((host, 443)).is_err(), "{host} answered");
    udp(any(), (host, 53));
    raw(&ipv4(WEB, host, 1, &icmp(8)));
    raw(&ipv4(WEB, host, 253, b"experiment"));
    4
}

#[test]
fn internal_only_lets_nothing_out() {
    let Some(mut bench) = Bench::new(&policy(Mode::InternalOnly)) else { return };
    let server = echo(&bench.outside, 0, (LISTED, 443).into());
    let ear = listen(&bench.outside);
    for host in [LISTED, UNLISTED, GATEWAY] {
        let before = bench.count("denied:web");
        let sent = bench.service(1).run(|| everything_to(host));
        assert!(bench.reaches("denied:web", before + sent), "{host}");
        ear.nothing_to(host);
    }
    assert_eq!(server.accepted(), 0);
    assert_eq!(bench.count("denied:db"), 0, "the other service is not blamed");
    bench.lock.verify().unwrap();
}

#[test]
fn an_allowlist_passes_what_it_lists_and_no_more() {
    let Some(mut bench) = Bench::new(&policy(allowlist())) else { return };
    let server = echo(&bench.outside, 0, (LISTED, 443).into());
    let answer = bench.service(1).run(|| ask((LISTED, 443))).unwrap();
    let seen: SocketAddr = answer.parse().unwrap();
    assert_eq!(seen.ip(), OWN, "translated to the link's address");
    assert!(seen.port() >= 32768, "{seen}");
    assert_eq!(server.accepted(), 1);
    assert_eq!(bench.count("denied:web"), 0);

    let other_port = echo(&bench.outside, 0, (LISTED, 444).into());
    let other_host = echo(&bench.outside, 0, (UNLISTED, 443).into());
    let ear = listen(&bench.outside);
    // The rest of the first connection.
    let _heard = ear.frames();
    bench.service(1).run(|| {
        assert!(ask_in_vain((LISTED, 444)).is_err());
        udp(any(), (LISTED, 443));
        raw(&ipv4(WEB, LISTED, 1, &icmp(8)));
        assert!(ask_in_vain((UNLISTED, 443)).is_err());
    });
    ear.nothing_to(LISTED);
    ear.nothing_to(UNLISTED);
    assert_eq!((other_port.accepted(), other_host.accepted()), (0, 0));
    assert!(bench.reaches("denied:web", 4));
}

#[test]
fn external_passes_what_is_not_refused_in_every_mode() {
    let Some(mut bench) = Bench::new(&policy(Mode::ExternalAllowed)) else { return };
    let server = echo(&bench.outside, 0, (UNLISTED, 8443).into());
    bench.service(1).run(|| ask((UNLISTED, 8443))).unwrap();
    assert_eq!(server.accepted(), 1);

    // UDP both ways, and an ICMP error about it.
    let peer = bench.outside.run(|| UdpSocket::bind((GATEWAY, 9000))).unwrap();
    peer.set_read_timeout(Some(SOON)).unwrap();
    let socket = bench.service(1).run(|| UdpSocket::bind(any())).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket.connect((GATEWAY, 9000)).unwrap();
    socket.send(b"ping").unwrap();
    let mut buffer = [0; 16];
    let (length, from) = peer.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from.ip()), (&b"ping"[..], OWN.into()));
    peer.send_to(b"pong", from).unwrap();
    assert_eq!(socket.recv(&mut buffer).unwrap(), 4);
    drop(peer);
    // A program that another test is just starting may hold a copy of the peer until its exec.
    socket.set_read_timeout(Some(NOT)).unwrap();
    let refused = (0..10).any(|_| {
        let _refused_last_time = socket.send(b"ping");
        let error = socket.recv(&mut buffer).unwrap_err();
        error.kind() == std::io::ErrorKind::ConnectionRefused
    });
    assert!(refused, "port unreachable reached the service");

    // A reset by the peer comes back too.
    let refused = bench.service(1).run(|| ask((UNLISTED, 1))).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(bench.count("denied:web"), 0);

    let ear = listen(&bench.outside);
    let never = ["0.0.0.1", "127.0.0.5", "169.254.169.254", "198.19.0.1", "224.0.0.251", "240.0.0.1"];
    for host in never.map(|host| host.parse::<Ipv4Addr>().unwrap()) {
        let before = bench.count("denied:web");
        bench.service(1).sysctl("ipv4/conf/all/route_localnet", "1");
        bench.service(1).ip(&format!("route replace {host} via 198.18.1.1"));
        bench.service(1).run(|| raw(&ipv4(WEB, host, 17, &datagram(1000, 2000, b"never"))));
        let denied = bench.count("denied:web") - before;
        // 127/8 and 0/8 are martians to the kernel's own routing, before our forward chain.
        let martian = matches!(host.octets()[0], 0 | 127 | 224 | 240);
        assert!(denied == 1 || martian, "{host}: {denied}");
        ear.nothing_to(host);
    }
    let before = bench.count("denied:web");
    bench.service(1).run(|| {
        udp(any(), (GATEWAY, 53));
        assert!(ask_in_vain((GATEWAY, 53)).is_err());
    });
    assert!(bench.reaches("denied:web", before + 2), "no DNS but the private network's");
    ear.nothing_to(GATEWAY);
}

#[test]
fn services_reach_neither_each_other_nor_us() {
    for mode in [Mode::InternalOnly, Mode::ExternalAllowed] {
        let mut policy = policy(mode);
        policy.inbound = vec![443, 8000];
        let Some(mut bench) = Bench::new(&policy) else { return };
        let db = echo(bench.service(2), 0, (DB, 8000).into());
        let us = echo(&bench.guest, 103, (Ipv4Addr::UNSPECIFIED, 443).into());
        let ear = listen(bench.service(2));
        bench.service(1).run(|| {
            assert!(ask_in_vain((DB, 8000)).is_err());
            raw(&ipv4(WEB, DB, 1, &icmp(8)));
            for own in [Ipv4Addr::new(198, 18, 1, 1), Ipv4Addr::new(198, 18, 2, 1), OWN] {
                assert!(ask_in_vain((own, 443)).is_err(), "{own}");
            }
        });
        ear.nothing_to(DB);
        assert_eq!((db.accepted(), us.accepted()), (0, 0));
        assert!(bench.reaches("denied:web", 5));
    }
}

#[test]
fn services_leave_by_the_link_only() {
    let Some(mut bench) = Bench::new(&policy(Mode::ExternalAllowed)) else { return };
    let ear = bench.second_link();
    bench.guest.ip("route add 10.8.0.0/24 dev eth1");
    bench.service(1).run(|| udp(any(), (Ipv4Addr::new(10, 8, 0, 1), 9)));
    assert_eq!(bench.count("denied:web"), 1);
    assert_eq!(ear.ipv4(), []);
    // And nothing comes in by an interface that the policy does not know.
    bench.outside.ip("route replace 198.18.0.0/15 dev wan2");
    bench.outside.ip("neigh replace 198.18.1.2 lladdr 02:00:00:00:00:11 nud permanent dev wan2");
    bench.outside.run(|| raw(&ipv4(GATEWAY, WEB, 1, &icmp(8))));
    assert!(bench.reaches("interface:unknown", 1));
}

#[test]
fn a_forged_source_goes_nowhere() {
    let Some(mut bench) = Bench::new(&policy(Mode::ExternalAllowed)) else { return };
    let ear = listen(&bench.outside);
    let forged = ["198.18.2.2", "198.18.1.1", "10.9.0.15", "10.9.0.77", "8.8.8.8", "0.0.0.0"];
    for (sent, source) in (1..).zip(forged) {
        let packet = ipv4(source.parse().unwrap(), UNLISTED, 17, &datagram(68, 9000, b"forged"));
        // IP_HDRINCL fills in a zero source, so that one goes as a frame.
        bench.service(1).run(|| match source {
            "0.0.0.0" => {
                let frame = support::traffic::ethernet("eth0", [0xff; 6], 0x0800, &packet);
                support::traffic::frame("eth0", None, &frame).unwrap();
            }
            _ => raw(&packet),
        });
        assert_eq!(bench.count("spoofed:web"), sent, "{source}");
    }
    ear.nothing_to(UNLISTED);
    assert_eq!(bench.count("spoofed:db"), 0);
}

#[test]
fn a_service_has_no_ipv6() {
    let Some(mut bench) = Bench::new(&policy(Mode::ExternalAllowed)) else { return };
    for host in [&bench.guest, bench.service(1)] {
        host.sysctl("ipv6/conf/all/disable_ipv6", "0");
        host.sysctl("ipv6/conf/all/forwarding", "1");
    }
    bench.guest.ip("addr add fd00:1::1/64 dev svc1 nodad");
    bench.guest.ip("addr add fd00:9::15/64 dev eth0 nodad");
    bench.outside.ip("addr add fd00:9::1/64 dev wan nodad");
    bench.outside.ip("route add fd00:1::/64 via fd00:9::15");
    bench.service(1).ip("addr add fd00:1::2/64 dev eth0 nodad");
    bench.service(1).ip("route add default via fd00:1::1");
    // Not even neighbour discovery: so the gateway's address is given.
    let shown = bench.guest.command("ip", &["-o", "link", "show", "svc1"]);
    let mac = shown.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    bench.service(1).ip(&format!("neigh replace fd00:1::1 lladdr {mac} dev eth0"));
    let ear = listen(&bench.outside);
    let before = bench.count("ipv6:web");
    bench.service(1).run(|| {
        for to in ["[fd00:9::1]:9", "[fd00:1::1]:9"] {
            udp("[::]:0".parse::<SocketAddr>().unwrap(), to.parse::<SocketAddr>().unwrap());
        }
    });
    assert!(bench.reaches("ipv6:web", before + 2));
    let from_service = |f: &Vec<u8>| f[12..14] == [0x86, 0xdd] && f[22..38].starts_with(&[0xfd, 0, 0, 1]);
    assert!(!ear.frames().iter().any(from_service));
}

#[test]
fn the_outside_opens_nothing_towards_services() {
    let Some(mut bench) = Bench::new(&policy(Mode::ExternalAllowed)) else { return };
    let web = echo(bench.service(1), 0, (WEB, 8000).into());
    let ear = listen(bench.service(1));
    bench.outside.run(|| {
        assert!(ask_in_vain((WEB, 8000)).is_err());
        raw(&ipv4(GATEWAY, WEB, 1, &icmp(8)));
    });
    assert!(bench.reaches("link:forward", 2));
    // Nor with a source of the services' own range, which would look like a reply.
    bench.outside.run(|| raw(&ipv4(DB, WEB, 17, &datagram(1, 2, b"inside?"))));
    assert_eq!(bench.count("link:spoofed"), 1);
    ear.nothing_to(WEB);
    assert_eq!(web.accepted(), 0);

    // The hole that a service's own flow makes is for that peer only.
    let socket = bench.service(1).run(|| UdpSocket::bind(any())).unwrap();
    let peer = bench.outside.run(|| UdpSocket::bind((LISTED, 9000))).unwrap();
    peer.set_read_timeout(Some(SOON)).unwrap();
    socket.send_to(b"hello", (LISTED, 9000)).unwrap();
    let (_, seen) = peer.recv_from(&mut [0; 16]).unwrap();
    let _heard = ear.frames();
    bench.outside.run(|| udp((UNLISTED, 9000), seen));
    ear.nothing_to(WEB);
    assert!(bench.reaches("link:inbound", 1));
}

#[test]
fn anothers_translation_does_not_lead_astray() {
    let Some(mut bench) = Bench::new(&policy(allowlist())) else { return };
    bench.guest.nft(
        "table ip evil { chain pre { type nat hook prerouting priority -100; ip daddr 10.9.0.2 dnat to 10.9.0.3; }; }",
    );
    let forbidden = echo(&bench.outside, 0, (UNLISTED, 443).into());
    let ear = listen(&bench.outside);
    bench.service(1).run(|| assert!(ask_in_vain((LISTED, 443)).is_err()));
    assert!(bench.reaches("denied:web", 1));
    ear.nothing_to(UNLISTED);
    assert_eq!(forbidden.accepted(), 0);
}
