//! The private network: who reaches it, whom it reaches, and that the link never sees its addresses. A veth pair stands for the TUN:
//! its other end is a node of the network.

#![expect(clippy::unwrap_used, reason = "a failed assertion is what a test is for")]

mod support;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use casemate_egress::{LockError, LoginServer, Mode, Policy, Tunnel};
use support::traffic::{any, ask, ask_in_vain, echo, ipv4, listen, raw, segment, udp};
use support::{AGENT, Bench, LISTED, MESH, Netns, OWN, TIME, TIMES, UNLISTED, policy};

const VPN: u32 = 102;
const NODE: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 2);
const OURS: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 7);
const NAMES: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 100);
const PORT: u16 = 31641;
const SYN: u8 = 0x02;

fn with_tunnel(mode: Mode) -> Policy {
    let tunnel = Tunnel {
        interface: "tailnet0".parse().unwrap(),
        prefixes: vec!["100.64.0.0/10".parse().unwrap()],
        names: NAMES,
        port: PORT,
        login_server: LoginServer::At((LISTED, 8080).into()),
        resolvers: Vec::new(),
        relay_ports: vec![443],
    };
    let policy = policy(mode);
    Policy { tunnel: Some(tunnel), mesh_targets: vec![(NODE, 443).into()], ..policy }
}

/// The same, but the document has the server's name.
fn with_a_name(mode: Mode) -> Policy {
    let mut policy = with_tunnel(mode);
    let tunnel = policy.tunnel.as_mut().unwrap();
    tunnel.login_server = LoginServer::Named { port: 8443 };
    tunnel.resolvers = vec![(TIMES, 853).into()];
    tunnel.relay_ports = vec![443, 8444];
    policy
}

/// The bench, with a node of the network. `None`: skipped, and said so.
fn bench(mode: Mode) -> Option<(Bench, Netns)> {
    bench_of(&with_tunnel(mode))
}

fn bench_of(policy: &Policy) -> Option<(Bench, Netns)> {
    let bench = Bench::new(policy)?;
    let node = Netns::new()?;
    bench.guest.ip(&format!("link add tailnet0 type veth peer name node0 netns {}", node.id()));
    bench.guest.ip("addr add 100.100.100.100/32 dev tailnet0 scope host");
    bench.guest.ip("addr add 100.64.0.7/32 dev tailnet0");
    bench.guest.ip("link set tailnet0 up");
    bench.guest.ip("route add 100.64.0.0/10 dev tailnet0 scope link src 100.64.0.7");
    node.ip("addr add 100.64.0.2/10 dev node0");
    node.ip("link set node0 up");
    // Whatever leaks would find its way.
    node.ip("route add default via 100.64.0.7");
    Some((bench, node))
}

#[test]
fn services_reach_the_network_with_the_nodes_address_and_nothing_else() {
    let Some((mut bench, node)) = bench(Mode::InternalOnly) else { return };
    let server = echo(&node, 0, (NODE, 8000).into());
    let answer: SocketAddr = bench.service(1).run(|| ask((NODE, 8000))).unwrap().parse().unwrap();
    assert_eq!(answer.ip(), OURS);
    assert_eq!(server.accepted(), 1);
    assert_eq!(bench.count("denied:web"), 0);

    let outside = echo(&bench.outside, 0, (LISTED, 443).into());
    let dns = echo(&node, 0, (NODE, 53).into());
    bench.service(1).run(|| {
        assert!(ask_in_vain((LISTED, 443)).is_err());
        assert!(ask_in_vain((NODE, 53)).is_err(), "another node's names");
    });
    assert_eq!((outside.accepted(), dns.accepted()), (0, 0));
    assert!(bench.reaches("denied:web", 2));
    bench.lock.verify().unwrap();
}

#[test]
fn without_a_route_nothing_of_the_network_leaves_by_the_link() {
    let Some((mut bench, _node)) = bench(Mode::ExternalAllowed) else { return };
    bench.guest.ip("route del 100.64.0.0/10 dev tailnet0");
    let ear = listen(&bench.outside);
    bench.service(1).run(|| {
        assert!(ask_in_vain((NODE, 8000)).is_err());
        udp(any(), (NODE, 9));
    });
    bench.guest.run_as(MESH, || assert!(ask_in_vain((NODE, 443)).is_err()));
    bench.guest.run_as(VPN, || udp((Ipv4Addr::UNSPECIFIED, PORT), (NODE, 41641)));
    ear.nothing_to(NODE);
    assert!(bench.reaches("denied:web", 2));
    assert!(bench.reaches("process:vpn", 1) && bench.reaches("process:mesh", 1));
}

/// Nor in a flow that was allowed, and by an address that the link may send from.
#[test]
fn what_came_through_the_tun_is_not_answered_by_the_link_when_the_route_is_gone() {
    let Some((mut bench, node)) = bench(Mode::InternalOnly) else { return };
    let listener = bench.guest.run_as(MESH, || TcpListener::bind((OWN, 443)).unwrap());
    let mut theirs = node.run(|| TcpStream::connect((OWN, 443)).unwrap());
    // accept(2) makes the new socket the acceptor's.
    let (mut ours, _) = bench.guest.run_as(MESH, || listener.accept().unwrap());
    let mut bytes = [0; 4];
    ours.write_all(b"ping").unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    theirs.read_exact(&mut bytes).unwrap();
    bench.guest.ip("route del 100.64.0.0/10 dev tailnet0");
    let ear = listen(&bench.outside);
    ours.write_all(b"pong").unwrap();
    assert!(bench.reaches("process:mesh", 1));
    // What a closed socket still has to send is nobody's.
    drop(ours);
    assert!(bench.reaches("process:none", 1));
    ear.nothing_to(NODE);
}

#[test]
fn names_are_answered_by_the_vpn_process_to_services_alone() {
    let Some((mut bench, node)) = bench(Mode::InternalOnly) else { return };
    let server = bench.guest.run_as(VPN, || UdpSocket::bind((NAMES, 53)).unwrap());
    server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let question = bench.service(1).run(|| {
        let socket = UdpSocket::bind(any()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket.send_to(b"question", (NAMES, 53)).unwrap();
        socket
    });
    let mut bytes = [0; 16];
    let (length, from) = server.recv_from(&mut bytes).unwrap();
    assert_eq!(
        (bytes.get(..length).unwrap(), from.ip()),
        (&b"question"[..], Ipv4Addr::new(198, 18, 1, 2).into())
    );
    server.send_to(b"answer", from).unwrap();
    let (length, from) = question.recv_from(&mut bytes).unwrap();
    assert_eq!((bytes.get(..length).unwrap(), from), (&b"answer"[..], (NAMES, 53).into()));

    let tcp = echo(&bench.guest, VPN, (NAMES, 53).into());
    assert!(bench.service(2).run(|| ask((NAMES, 53))).is_ok());
    assert_eq!(tcp.accepted(), 1);

    // Another port, the network, and the link.
    let (other, again) =
        (echo(&bench.guest, VPN, (NAMES, 54).into()), echo(&bench.guest, VPN, (NAMES, 53).into()));
    bench.service(1).run(|| assert!(ask_in_vain((NAMES, 54)).is_err()));
    node.run(|| assert!(ask_in_vain((NAMES, 53)).is_err()));
    bench.outside.ip("route add 100.100.100.100/32 via 10.9.0.15");
    bench.outside.run(|| assert!(ask_in_vain((NAMES, 53)).is_err()));
    assert_eq!((other.accepted(), again.accepted()), (0, 0));
    assert!(bench.reaches("tunnel:spoofed", 1) && bench.reaches("link:spoofed", 1));
}

#[test]
fn the_network_reaches_the_meshs_ports_and_a_ping() {
    let Some((mut bench, node)) = bench(Mode::InternalOnly) else { return };
    let mesh = echo(&bench.guest, MESH, (Ipv4Addr::UNSPECIFIED, 443).into());
    let other = echo(&bench.guest, MESH, (Ipv4Addr::UNSPECIFIED, 444).into());
    assert!(node.run(|| ask((OURS, 443))).is_ok());
    node.run(|| assert!(ask_in_vain((OURS, 444)).is_err()));
    assert_eq!((mesh.accepted(), other.accepted()), (1, 0));
    assert!(bench.reaches("tunnel:inbound", 1));
    let ping =
        node.run(|| std::process::Command::new("ping").args(["-c", "1", "-W", "2", "100.64.0.7"]).output());
    if let Ok(ping) = ping {
        assert!(ping.status.success(), "{}", String::from_utf8_lossy(&ping.stdout));
    }
    // Past the node's own address: to a service, and through us to the outside.
    let service = echo(bench.service(1), 0, (Ipv4Addr::new(198, 18, 1, 2), 8000).into());
    let outside = echo(&bench.outside, 0, (LISTED, 443).into());
    node.run(|| {
        assert!(ask_in_vain((Ipv4Addr::new(198, 18, 1, 2), 8000)).is_err());
        assert!(ask_in_vain((LISTED, 443)).is_err());
    });
    assert_eq!((service.accepted(), outside.accepted()), (0, 0));
    assert!(bench.reaches("tunnel:forward", 2));
    // The mesh itself calls a measured target there.
    let target = echo(&node, 0, (NODE, 443).into());
    let seen: SocketAddr = bench.guest.run_as(MESH, || ask((NODE, 443))).unwrap().parse().unwrap();
    assert_eq!((seen.ip(), target.accepted()), (OURS.into(), 1));
}

#[test]
fn forged_sources_are_dropped_on_either_side() {
    let Some((mut bench, node)) = bench(Mode::InternalOnly) else { return };
    node.run(|| {
        raw(&ipv4(Ipv4Addr::new(10, 1, 2, 3), OURS, 6, &segment(Ipv4Addr::new(10, 1, 2, 3), OURS, 443, SYN)))
    });
    assert!(bench.reaches("tunnel:spoofed", 1));
    bench.outside.run(|| raw(&ipv4(NODE, OWN, 6, &segment(NODE, OWN, 443, SYN))));
    bench.outside.ip("route add 100.64.0.0/10 via 10.9.0.15");
    bench.outside.run(|| raw(&ipv4(LISTED, OURS, 6, &segment(LISTED, OURS, 443, SYN))));
    assert!(bench.reaches("link:spoofed", 2));
}

#[test]
fn the_vpn_process_sends_from_its_port_and_to_its_server_and_relays() {
    let Some((mut bench, _node)) = bench(Mode::InternalOnly) else { return };
    let (server, relay) =
        (echo(&bench.outside, 0, (LISTED, 8080).into()), echo(&bench.outside, 0, (UNLISTED, 443).into()));
    bench.guest.run_as(VPN, || {
        ask((LISTED, 8080)).unwrap();
        ask((UNLISTED, 443)).unwrap();
    });
    assert_eq!((server.accepted(), relay.accepted()), (1, 1));
    let ours = bench.guest.run_as(VPN, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap());
    let peer = bench.outside.run(|| UdpSocket::bind((UNLISTED, 41641)).unwrap());
    for socket in [&ours, &peer] {
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    }
    // The peer begins, then we to another.
    peer.send_to(b"in", (OWN, PORT)).unwrap();
    let mut bytes = [0; 8];
    let (_, from) = ours.recv_from(&mut bytes).unwrap();
    ours.send_to(b"out", from).unwrap();
    assert_eq!(peer.recv_from(&mut bytes).unwrap().1, (OWN, PORT).into());
    let other = bench.outside.run(|| UdpSocket::bind((LISTED, 3478)).unwrap());
    other.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    ours.send_to(b"stun", (LISTED, 3478)).unwrap();
    assert_eq!(other.recv_from(&mut bytes).unwrap().0, 4);
    assert_eq!(bench.count("process:vpn"), 0);

    let ear = listen(&bench.outside);
    let others = echo(&bench.outside, 0, (UNLISTED, 8080).into());
    bench.guest.run_as(VPN, || {
        assert!(ask_in_vain((UNLISTED, 8080)).is_err(), "another server");
        udp(any(), (Ipv4Addr::new(10, 9, 0, 9), 9));
    });
    // Of the right port: DNS, a service's link, loopback's range.
    for to in [(Ipv4Addr::new(10, 9, 0, 9), 53), (Ipv4Addr::new(198, 18, 1, 2), 9)] {
        drop(ours.send_to(b"x", to));
    }
    ear.nothing_to(Ipv4Addr::new(10, 9, 0, 9));
    assert_eq!(others.accepted(), 0);
    assert!(bench.reaches("process:vpn", 4));
    // And nobody else uses that port.
    drop(ours);
    bench.guest.run_as(MESH, || udp((Ipv4Addr::UNSPECIFIED, PORT), (LISTED, 9)));
    assert!(bench.reaches("process:mesh", 1));
}

/// In every mode: before anybody knows where the name leads, nothing; then there and on that port, for the VPN process alone; and
/// where it led before, no more.
#[test]
fn a_named_server_is_reached_where_its_name_leads_and_by_the_vpn_process_alone() {
    for mode in [Mode::InternalOnly, Mode::Allowlist(Vec::new()), Mode::ExternalAllowed] {
        let external = mode == Mode::ExternalAllowed;
        let Some((mut bench, _node)) = bench_of(&with_a_name(mode)) else { return };
        let refused = |bench: &mut Bench, uid: u32, name: &str, to: SocketAddr| {
            let before = bench.count(&format!("process:{name}"));
            bench.guest.run_as(uid, || assert!(ask_in_vain(to).is_err(), "uid {uid} to {to}"));
            assert!(bench.count(&format!("process:{name}")) > before, "uid {uid} to {to}");
        };
        let (old, new) = (
            echo(&bench.outside, 0, (LISTED, 8443).into()),
            echo(&bench.outside, 0, (UNLISTED, 8443).into()),
        );
        let other = echo(&bench.outside, 0, (LISTED, 8080).into());
        refused(&mut bench, VPN, "vpn", (LISTED, 8443).into());
        bench.lock.set_login_server(&[LISTED]).unwrap();
        bench.guest.run_as(VPN, || ask((LISTED, 8443))).unwrap();
        refused(&mut bench, VPN, "vpn", (UNLISTED, 8443).into());
        refused(&mut bench, VPN, "vpn", (LISTED, 8080).into());
        for (uid, name) in [
            (0, "init"),
            (AGENT, "agent"),
            (MESH, "mesh"),
            (104, "vpc"),
            (105, "dhcp"),
            (TIME, "time"),
            (1000, "other"),
        ] {
            refused(&mut bench, uid, name, (LISTED, 8443).into());
        }
        if !external {
            bench.service(1).run(|| assert!(ask_in_vain((LISTED, 8443)).is_err()));
            assert!(bench.reaches("denied:web", 1));
        }
        assert_eq!((old.accepted(), new.accepted(), other.accepted()), (1, 0, 0));
        // The name leads elsewhere now.
        let (old, new) = (
            echo(&bench.outside, 0, (LISTED, 8443).into()),
            echo(&bench.outside, 0, (UNLISTED, 8443).into()),
        );
        bench.lock.set_login_server(&[UNLISTED]).unwrap();
        bench.guest.run_as(VPN, || ask((UNLISTED, 8443))).unwrap();
        refused(&mut bench, VPN, "vpn", (LISTED, 8443).into());
        bench.lock.set_login_server(&[]).unwrap();
        refused(&mut bench, VPN, "vpn", (UNLISTED, 8443).into());
        assert_eq!((old.accepted(), new.accepted()), (0, 1));
        bench.lock.verify().unwrap();
    }
}

#[test]
fn a_connection_outlives_what_its_name_meant() {
    let Some((mut bench, _node)) = bench_of(&with_a_name(Mode::InternalOnly)) else { return };
    bench.lock.set_login_server(&[LISTED]).unwrap();
    let listener = bench.outside.run(|| TcpListener::bind((LISTED, 8443)).unwrap());
    let mut ours = bench.guest.run_as(VPN, || TcpStream::connect((LISTED, 8443)).unwrap());
    let (mut theirs, _) = listener.accept().unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    ours.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    bench.lock.set_login_server(&[UNLISTED]).unwrap();
    let mut bytes = [0; 4];
    ours.write_all(b"ping").unwrap();
    theirs.read_exact(&mut bytes).unwrap();
    theirs.write_all(b"pong").unwrap();
    ours.read_exact(&mut bytes).unwrap();
    assert_eq!((&bytes, bench.count("process:vpn")), (b"pong", 0));
    bench.guest.run_as(VPN, || assert!(ask_in_vain((LISTED, 8443)).is_err(), "a new one"));
}

#[test]
fn relays_have_the_documents_ports_and_resolvers_their_own() {
    let Some((mut bench, _node)) = bench_of(&with_a_name(Mode::InternalOnly)) else { return };
    for to in [(UNLISTED, 443), (UNLISTED, 8444), (TIMES, 853)] {
        let server = echo(&bench.outside, 0, to.into());
        bench.guest.run_as(VPN, || ask(to)).unwrap();
        assert_eq!(server.accepted(), 1, "{to:?}");
        let again = echo(&bench.outside, 0, (to.0, to.1 + 1000).into());
        bench.guest.run_as(MESH, || assert!(ask_in_vain(to).is_err(), "{to:?}"));
        bench.guest.run_as(VPN, || assert!(ask_in_vain((to.0, to.1 + 1000)).is_err(), "{to:?}"));
        assert_eq!(again.accepted(), 0, "{to:?}");
    }
    let before = bench.count("process:vpn");
    bench.guest.run_as(VPN, || {
        assert!(ask_in_vain((UNLISTED, 853)).is_err(), "another resolver");
        udp(any(), (TIMES, 853));
        // Not even on a relay's port: a service, and a node.
        assert!(ask_in_vain((Ipv4Addr::new(198, 18, 1, 2), 8444)).is_err());
        assert!(ask_in_vain((NODE, 8444)).is_err());
    });
    assert!(bench.reaches("process:vpn", before + 4));
}

/// Whoever says where a name leads does not move the lock's walls.
#[test]
fn a_name_that_leads_nowhere_outside_changes_nothing() {
    let Some((mut bench, _node)) = bench_of(&with_a_name(Mode::InternalOnly)) else { return };
    bench.lock.set_login_server(&[LISTED]).unwrap();
    for inside in
        [[127, 0, 0, 1], [0, 0, 0, 0], [198, 18, 1, 2], [169, 254, 169, 254], [224, 0, 0, 1], [255; 4]]
    {
        let refused = bench.lock.set_login_server(&[UNLISTED, inside.into()]).unwrap_err();
        assert!(
            matches!(refused, LockError::ServerAddress(address) if address == Ipv4Addr::from(inside)),
            "{refused}"
        );
    }
    let many = bench.lock.set_login_server(&[UNLISTED; 9]).unwrap_err();
    assert!(matches!(many, LockError::TooManyServers(9)), "{many}");
    let server = echo(&bench.outside, 0, (LISTED, 8443).into());
    bench.guest.run_as(VPN, || ask((LISTED, 8443))).unwrap();
    assert_eq!(server.accepted(), 1);
    bench.lock.verify().unwrap();

    let Some((mut fixed, _node)) = self::bench(Mode::InternalOnly) else { return };
    assert!(matches!(fixed.lock.set_login_server(&[UNLISTED]), Err(LockError::NoNamedServer)));
    fixed.lock.verify().unwrap();
}
