//! What packet sockets can put on the link: past every `inet` hook, not past the link's own chain.

#![expect(clippy::indexing_slicing, reason = "a failed assertion is what a test is for")]

mod support;

use std::net::{IpAddr, Ipv4Addr};

use casemate_egress::{LockError, Mode};
use support::traffic::{arp, ask, ask_in_vain, datagram, echo, ethernet, frame, ipv4, listen};
use support::{Bench, GATEWAY, LISTED, MESH, OWN, UNLISTED, link, policy};

/// The mark of judged packets, which a packet socket of somebody with CAP_NET_RAW could set.
const JUDGED: u32 = 0xca5e;
const EVERYBODY: [u8; 6] = [0xff; 6];

#[test]
fn a_packet_socket_sends_nothing() {
    let Some(mut bench) = Bench::new(&policy(Mode::ExternalAllowed)) else { return };
    let ear = listen(&bench.outside);
    let sent = |bench: &Bench, source, mark| {
        bench.guest.run(|| {
            let packet = ipv4(source, UNLISTED, 17, &datagram(1000, 2000, b"past inet"));
            frame("eth0", mark, &ethernet("eth0", EVERYBODY, 0x0800, &packet))
        })
    };
    assert!(sent(&bench, OWN, None).is_err(), "our own address");
    assert!(sent(&bench, LISTED, None).is_err(), "another's address");
    assert_eq!(bench.count("frame:eth0:unjudged"), 2);
    assert!(sent(&bench, LISTED, Some(JUDGED)).is_err(), "with the mark");
    assert_eq!(bench.count("frame:eth0:source"), 1);
    assert!(sent(&bench, Ipv4Addr::UNSPECIFIED, Some(support::DHCP_MARK)).is_err(), "DHCP's mark, not DHCP");
    assert_eq!(bench.count("frame:eth0:unjudged"), 3);
    let lldp =
        bench.guest.run(|| frame("eth0", Some(JUDGED), &ethernet("eth0", EVERYBODY, 0x88cc, b"hello")));
    assert!(lldp.is_err());
    assert_eq!(bench.count("frame:eth0:other"), 1);
    ear.nothing_to(UNLISTED);
    assert!(ear.frames().iter().all(|f| f[12..14] != [0x88, 0xcc]));
}

#[test]
fn arp_for_the_gateway_and_about_ourselves() {
    let Some(mut bench) = Bench::new(&policy(Mode::InternalOnly)) else { return };
    let ear = listen(&bench.outside);
    let mut denied = 0;
    let cases = [
        ("request for the gateway", arp(1, OWN, GATEWAY), true),
        ("reply to the gateway", arp(2, OWN, GATEWAY), true),
        ("reply to a neighbour", arp(2, OWN, UNLISTED), true),
        ("request for a neighbour", arp(1, OWN, UNLISTED), false),
        ("request in another's name", arp(1, LISTED, GATEWAY), false),
        ("reply in the gateway's name", arp(2, GATEWAY, UNLISTED), false),
        ("an unknown operation", arp(3, OWN, GATEWAY), false),
        ("a request with luggage", [arp(1, OWN, GATEWAY), b"secret".to_vec()].concat(), false),
    ];
    for (what, packet, passes) in cases {
        let _heard = ear.frames();
        let sent = bench.guest.run(|| frame("eth0", None, &ethernet("eth0", EVERYBODY, 0x0806, &packet)));
        assert_eq!(sent.is_ok(), passes, "{what}");
        let arrived = ear.frames().iter().any(|f| f[12..14] == [8, 6] && f[14..].starts_with(&packet));
        assert_eq!(arrived, passes, "{what}");
        denied += u64::from(!passes);
        assert_eq!(bench.count("frame:eth0:arp"), denied, "{what}");
    }
}

#[test]
fn addresses_follow_the_lease() {
    let Some(mut bench) = Bench::new(&policy(Mode::InternalOnly)) else { return };
    let reach = |bench: &Bench, expected: bool| {
        let server = echo(&bench.outside, 0, (LISTED, 443).into());
        let to = (LISTED, 443);
        let answer = bench.guest.run_as(MESH, || if expected { ask(to) } else { ask_in_vain(to) });
        assert_eq!(server.accepted() == 1, answer.is_ok());
        answer.is_ok()
    };
    assert!(reach(&bench, true));
    bench.lock.set_own_addresses(&link(), &[], None).unwrap();
    assert!(!reach(&bench, false), "the lease is over");
    assert!(bench.reaches("frame:eth0:source", 1) || bench.reaches("frame:eth0:arp", 1));
    let other = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 16));
    bench.lock.set_own_addresses(&link(), &[other], Some(IpAddr::V4(GATEWAY))).unwrap();
    assert!(!reach(&bench, false), "another address is ours now");
    bench.lock.set_own_addresses(&link(), &[IpAddr::V4(OWN)], Some(IpAddr::V4(GATEWAY))).unwrap();
    assert!(reach(&bench, true));
    bench.lock.verify().unwrap();
}

#[test]
fn a_hostile_lease_is_refused_and_changes_nothing() {
    let Some(mut bench) = Bench::new(&policy(Mode::InternalOnly)) else { return };
    let gateway = Some(IpAddr::V4(GATEWAY));
    for bad in [
        "0.0.0.0",
        "127.0.0.1",
        "198.18.1.2",
        "198.19.255.255",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "ff02::1",
        "::ffff:10.9.0.15",
    ] {
        let bad: IpAddr = bad.parse().unwrap();
        let error = bench.lock.set_own_addresses(&link(), &[IpAddr::V4(OWN), bad], gateway).unwrap_err();
        assert!(
            matches!(error, LockError::Address { address, role: "our own address", .. } if address == bad)
        );
        let error = bench.lock.set_own_addresses(&link(), &[IpAddr::V4(OWN)], Some(bad)).unwrap_err();
        assert!(matches!(error, LockError::Address { address, role: "the gateway", .. } if address == bad));
    }
    let many = [IpAddr::V4(OWN); 17];
    let error = bench.lock.set_own_addresses(&link(), &many, gateway).unwrap_err();
    assert!(matches!(error, LockError::TooManyAddresses { found: 17, .. }), "{error}");
    let error = bench.lock.set_own_addresses(&"eth1".parse().unwrap(), &[], None).unwrap_err();
    assert_eq!(error.to_string(), "link eth1: not attached to the lock");
    bench.lock.verify().unwrap();
}
