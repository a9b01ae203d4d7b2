//! What the time process can send and receive, by traffic.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed assertion is what a test is for")]

mod support;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use casemate_egress::{Allow, Mode, Proto};
use support::traffic::{Ear, NOT, SOON, any, ask, ask_in_vain, echo, listen, udp};
use support::{AGENT, Bench, GATEWAY, LISTED, MESH, OWN, TIME, TIMES, UNLISTED, policy};

fn modes() -> [Mode; 3] {
    let list = vec![Allow { cidr: "10.9.0.2/32".parse().unwrap(), port: 443, proto: Proto::Tcp }];
    [Mode::InternalOnly, Mode::Allowlist(list), Mode::ExternalAllowed]
}

/// Fails if any TCP or UDP packet of ours went to this host.
fn nothing_of_ours_to(ear: &Ear, host: Ipv4Addr) {
    let seen = ear.ipv4();
    assert!(!seen.contains(&(OWN, host)), "packets to {host}: {seen:?}");
}

/// A request and its answer by UDP: whether the server saw the one, and the client the other.
fn asks_by_udp(bench: &Bench, uid: u32, to: SocketAddr) -> (bool, bool) {
    let server = bench.outside.run(|| UdpSocket::bind(to)).unwrap();
    let client = bench.guest.run_as(uid, || UdpSocket::bind(any())).unwrap();
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(SOON)).unwrap();
    }
    let _refused = client.send_to(b"request", to);
    let Ok((_, from)) = server.recv_from(&mut [0; 64]) else { return (false, false) };
    assert_eq!(from.ip(), OWN);
    server.send_to(b"answer", from).unwrap();
    (true, client.recv_from(&mut [0; 64]).is_ok())
}

#[test]
fn in_every_mode_the_named_server_is_reached_by_the_time_process() {
    for mode in modes() {
        let Some(mut bench) = Bench::new(&policy(mode.clone())) else { return };
        let server = echo(&bench.outside, 0, (TIMES, 4460).into());
        bench.guest.run_as(TIME, || ask((TIMES, 4460))).unwrap();
        assert_eq!(server.accepted(), 1);
        assert_eq!(asks_by_udp(&bench, TIME, (TIMES, 123).into()), (true, true), "{mode:?}");
        assert_eq!((bench.count("process:time"), bench.count("link:inbound")), (0, 0), "{mode:?}");
    }
}

#[test]
fn and_by_nobody_else() {
    for mode in modes() {
        let Some(mut bench) = Bench::new(&policy(mode.clone())) else { return };
        let server = echo(&bench.outside, 0, (TIMES, 4460).into());
        let ear = listen(&bench.outside);
        let others = [
            (0, "init"),
            (AGENT, "agent"),
            (102, "vpn"),
            (MESH, "mesh"),
            (104, "vpc"),
            (105, "dhcp"),
            (106, "other"),
            (1000, "other"),
        ];
        for (uid, name) in others {
            let counter = format!("process:{name}");
            let before = bench.count(&counter);
            bench.guest.run_as(uid, || {
                udp(any(), (TIMES, 123));
                assert!(ask_in_vain((TIMES, 4460)).is_err(), "uid {uid}");
            });
            assert!(bench.reaches(&counter, before + 2), "uid {uid}, {mode:?}");
        }
        nothing_of_ours_to(&ear, TIMES);
        assert_eq!(server.accepted(), 0, "{mode:?}");
        assert_eq!(bench.count("process:time"), 0);
    }
}

#[test]
fn the_time_process_reaches_nothing_else() {
    for mode in modes() {
        let Some(mut bench) = Bench::new(&policy(mode.clone())) else { return };
        let tcp: [SocketAddr; 5] = [
            (LISTED, 443).into(),
            (UNLISTED, 4460).into(),
            (GATEWAY, 4460).into(),
            (TIMES, 443).into(),
            (TIMES, 123).into(),
        ];
        let by_udp: [SocketAddr; 5] = [
            (UNLISTED, 123).into(),
            (GATEWAY, 123).into(),
            (TIMES, 4460).into(),
            (TIMES, 53).into(),
            (Ipv4Addr::BROADCAST, 67).into(),
        ];
        let ear = listen(&bench.outside);
        let mut before = bench.count("process:time");
        for to in tcp {
            let server = echo(&bench.outside, 0, to);
            bench.guest.run_as(TIME, || assert!(ask_in_vain(to).is_err(), "TCP to {to}, {mode:?}"));
            assert_eq!(server.accepted(), 0, "{to}");
            let now = bench.count("process:time");
            assert!(now > before, "TCP to {to}, {mode:?}");
            before = now;
        }
        for to in by_udp {
            bench.guest.run_as(TIME, || udp(any(), to));
            let now = bench.count("process:time");
            assert_eq!(now, before + 1, "UDP to {to}, {mode:?}");
            before = now;
        }
        let seen = ear.ipv4();
        assert!(seen.iter().all(|(from, _)| *from != OWN), "{seen:?}");
        // And the way is open: the control.
        assert_eq!(asks_by_udp(&bench, TIME, (TIMES, 123).into()), (true, true));
    }
}

/// A server cannot speak first, and its answer comes only where the question came from.
#[test]
fn nothing_but_answers_comes_in() {
    let Some(mut bench) = Bench::new(&policy(Mode::InternalOnly)) else { return };
    let client = bench.guest.run_as(TIME, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 40123))).unwrap();
    client.set_read_timeout(Some(NOT)).unwrap();
    bench.outside.run(|| udp((TIMES, 123), (OWN, 40123)));
    assert!(client.recv_from(&mut [0; 64]).is_err());
    assert_eq!(bench.count("link:inbound"), 1);

    client.send_to(b"request", (TIMES, 123)).unwrap();
    bench.outside.run(|| {
        udp((UNLISTED, 123), (OWN, 40123));
        udp((TIMES, 124), (OWN, 40123));
        udp((TIMES, 123), (OWN, 40124));
    });
    assert!(client.recv_from(&mut [0; 64]).is_err());
    assert_eq!(bench.count("link:inbound"), 4);
    bench.outside.run(|| udp((TIMES, 123), (OWN, 40123)));
    assert!(client.recv_from(&mut [0; 64]).is_ok(), "the control");
}

/// A socket is judged by who created it: root's is root's also in the hands of the time process.
#[test]
fn a_handed_over_socket_does_not_help() {
    let Some(mut bench) = Bench::new(&policy(Mode::InternalOnly)) else { return };
    let ear = listen(&bench.outside);
    let roots = bench.guest.run(|| UdpSocket::bind(any())).unwrap();
    bench.guest.run_as(TIME, || {
        let _refused = roots.send_to(b"request", (TIMES, 123));
    });
    assert_eq!((bench.count("process:init"), bench.count("process:time")), (1, 0));
    nothing_of_ours_to(&ear, TIMES);
}
