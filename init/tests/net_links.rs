//! The links of a namespace, read back through another program (`ip -j`).

mod net_rig;

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use casemate_init::net::{NetError, links};
use net_rig::{HOST, LINK, Rig, addresses, ip, routes, sysctl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

const OURS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 7);

#[test]
fn loopback_comes_up() {
    let Some(rig) = Rig::new() else { return };
    rig.in_guest(|| {
        assert!(!ip("link show dev lo").contains("LOOPBACK,UP"));
        links::bring_up_loopback().unwrap();
        assert!(ip("link show dev lo").contains("LOOPBACK,UP"));
        assert_eq!(addresses("lo"), ["127.0.0.1/8"]);
    });
}

#[test]
fn settings_are_as_promised_before_the_link_is_up() {
    let Some(rig) = Rig::new() else { return };
    rig.in_guest(|| {
        for conf in ["all", LINK] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{conf}/accept_redirects"), "1").unwrap();
        }
        links::prepare_sysctls(LINK).unwrap();
        for (name, value) in [
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "1"),
            ("ipv4/conf/eth0/rp_filter", "0"),
            ("ipv4/conf/all/accept_redirects", "0"),
            ("ipv4/conf/eth0/accept_redirects", "0"),
            ("ipv4/conf/default/accept_source_route", "0"),
            ("ipv4/conf/eth0/arp_ignore", "1"),
            ("ipv6/conf/all/disable_ipv6", "1"),
            ("ipv6/conf/default/disable_ipv6", "1"),
            ("ipv6/conf/eth0/disable_ipv6", "1"),
            ("ipv6/conf/eth0/accept_ra", "0"),
            ("ipv4/ip_unprivileged_port_start", "0"),
            ("ipv4/ip_forward", "0"),
        ] {
            assert_eq!(sysctl(name), value, "{name}");
        }
        links::up(LINK).unwrap();
        assert_eq!(ip("-6 address show").trim(), "", "no link-local address: no IPv6 packet");
        // A link that is made later inherits the filter.
        ip("link add later type veth peer name peer");
        assert_eq!(sysctl("ipv4/conf/later/rp_filter"), "1");

        links::enable_forwarding().unwrap();
        assert_eq!(sysctl("ipv4/ip_forward"), "1");
        assert_eq!(sysctl("ipv4/conf/all/accept_redirects"), "0");
    });
}

#[test]
fn an_address_is_a_host_route_and_a_gateway_and_can_be_reached() {
    let Some(rig) = Rig::new() else { return };
    rig.in_guest(|| {
        links::prepare_sysctls(LINK).unwrap();
        links::up(LINK).unwrap();
        // What a hostile predecessor could have left.
        ip("address add 10.9.0.99/24 dev eth0");
        ip("route add 192.0.2.0/24 via 10.9.0.66 dev eth0");
        links::set_address(LINK, OURS, HOST).unwrap();
        assert_eq!(addresses(LINK), ["10.9.0.7/32"]);
        assert_eq!(
            routes(),
            ["10.9.0.1 dev eth0 src 10.9.0.7", "default via 10.9.0.1 dev eth0 src 10.9.0.7"]
        );
        assert_eq!(sysctl("ipv4/conf/eth0/rp_filter"), "1");
        assert_eq!(sysctl("ipv4/conf/all/rp_filter"), "0");
        // Again: a renewal changes nothing.
        links::set_address(LINK, OURS, HOST).unwrap();
        assert_eq!((addresses(LINK).len(), routes().len()), (1, 2));
    });
    let reached = rig.in_host(|| std::net::TcpListener::bind((HOST, 7000)).unwrap());
    rig.in_guest(|| {
        let stream = std::net::TcpStream::connect((HOST, 7000)).unwrap();
        assert_eq!(stream.local_addr().unwrap().ip(), OURS);
    });
    assert_eq!(reached.accept().unwrap().1.ip(), OURS);
}

#[test]
fn a_new_lease_replaces_address_and_routes_and_a_lost_one_removes_them() {
    let Some(rig) = Rig::new() else { return };
    rig.in_guest(|| {
        links::prepare_sysctls(LINK).unwrap();
        links::up(LINK).unwrap();
        links::set_address(LINK, OURS, HOST).unwrap();
        links::set_address(LINK, Ipv4Addr::new(10, 9, 1, 8), Ipv4Addr::new(10, 9, 1, 1)).unwrap();
        assert_eq!(addresses(LINK), ["10.9.1.8/32"]);
        assert_eq!(
            routes(),
            ["10.9.1.1 dev eth0 src 10.9.1.8", "default via 10.9.1.1 dev eth0 src 10.9.1.8"]
        );
        links::clear_address(LINK).unwrap();
        assert_eq!((addresses(LINK).len(), routes().len()), (0, 0));
        assert_eq!(sysctl("ipv4/conf/eth0/rp_filter"), "0");
    });
}

#[test]
fn only_the_links_own_addresses_are_answered_for() {
    let Some(rig) = Rig::new() else { return };
    rig.in_guest(|| {
        links::prepare_sysctls(LINK).unwrap();
        links::up(LINK).unwrap();
        links::set_address(LINK, OURS, HOST).unwrap();
        ip("link add svc9 type veth peer name peer9");
        ip("address add 198.18.9.1/30 dev svc9");
        ip("link set svc9 up");
    });
    let neighbour = |address: &str| {
        rig.in_host(|| {
            ip("route replace 198.18.9.1/32 dev host0");
            // A datagram to nobody makes the kernel ask for the hardware address.
            UdpSocket::bind((HOST, 0)).unwrap().send_to(b"?", (address, 9)).unwrap();
            std::thread::sleep(Duration::from_millis(500));
            ip(&format!("neighbour show {address}"))
        })
    };
    assert!(neighbour("10.9.0.7").contains("lladdr"), "the control: our own address");
    let other = neighbour("198.18.9.1");
    assert!(!other.contains("lladdr"), "{other}");
}

#[test]
fn errors_name_the_link_and_carry_the_errno() {
    let Some(rig) = Rig::new() else { return };
    rig.in_guest(|| {
        let error = links::up("eth7").unwrap_err();
        assert_eq!(error.to_string(), "eth7: could not look up");
        assert_eq!(error.errno(), Some(nix::errno::Errno::ENODEV as i32));
        let error = links::prepare_sysctls("eth7").unwrap_err();
        assert_eq!(error.to_string(), "/proc/sys/net/ipv4/conf/eth7/rp_filter: could not write");
        assert_eq!(error.errno(), Some(nix::errno::Errno::ENOENT as i32));
        let error = links::set_address(LINK, HOST, HOST).unwrap_err();
        assert!(matches!(error, NetError::GatewayIsSelf { .. }), "{error}");
        assert_eq!(addresses(LINK).len(), 0);
        let mac = links::hardware_address(LINK).unwrap();
        let printed: Vec<_> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(ip("link show dev eth0").contains(&printed.join(":")));
    });
}

#[test]
fn packet_sockets_are_counted_in_this_namespace() {
    let Some(rig) = Rig::new() else { return };
    rig.in_guest(|| {
        assert_eq!(links::packet_sockets().unwrap(), 0);
        let open = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None).unwrap();
        assert_eq!(links::packet_sockets().unwrap(), 1);
        drop(open);
        assert_eq!(links::packet_sockets().unwrap(), 0);
    });
}
