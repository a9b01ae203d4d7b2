//! The TUN's addresses and routes, read back through another program (`ip`).

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod net_rig;

use std::net::{IpAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use casemate_init::net::tailnet::{self, Tailnet};
use casemate_init::sys::open_tun;
use ipnet::IpNet;
use net_rig::{Rig, ip, sysctl};

const LINK: &str = "tun0";

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// The rig's namespaces begin with a loopback that is down.
fn made(mtu: u16, names: bool) -> (Vec<OwnedFd>, Tailnet) {
    ip("link set lo up");
    let tun = open_tun(LINK, 2).unwrap();
    let prefixes = nets(&["100.64.0.0/10", "fd7a:115c:a1e0::/48"]);
    (tun, Tailnet::bring_up(LINK, &prefixes, mtu, names).unwrap())
}

fn shown(family: &str) -> Vec<String> {
    let text = ip(&format!("-o {family} address show dev {LINK}"));
    let address = |line: &str| line.split_whitespace().nth(3).unwrap().to_owned();
    let mut found: Vec<String> = text.lines().map(address).filter(|a| !a.starts_with("fe80")).collect();
    found.sort();
    found
}

fn routes(family: &str) -> Vec<String> {
    let text = ip(&format!("{family} route show table main dev {LINK}"));
    let ours = |line: &&str| !line.starts_with("fe80") && !line.starts_with("multicast");
    text.lines().filter(ours).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn source(to: &str) -> IpAddr {
    let socket = UdpSocket::bind(if to.contains("::") { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
    socket.connect(to).unwrap();
    socket.local_addr().unwrap().ip()
}

#[test]
fn addresses_and_routes_are_what_was_asked_for_and_nothing_of_before() {
    let Some(rig) = Rig::new() else { return };
    rig.in_guest(|| {
        let (_tun, tailnet) = made(1300, true);
        assert!(ip(&format!("link show dev {LINK}")).contains("mtu 1300"));
        assert!(tailnet.ipv6() && tailnet.names().len() == 2);
        assert_eq!(shown("-4"), ["100.100.100.100/32"]);
        assert_eq!(shown("-6"), ["fd7a:115c:a1e0::53/128"]);
        assert_eq!((routes("-4"), routes("-6")), (vec![], vec![]));

        tailnet.set(&nets(&["100.64.0.7/32", "fd7a:115c:a1e0::7/128"])).unwrap();
        assert_eq!(shown("-4"), ["100.100.100.100/32", "100.64.0.7/32"]);
        assert_eq!(shown("-6"), ["fd7a:115c:a1e0::53/128", "fd7a:115c:a1e0::7/128"]);
        assert_eq!(routes("-4"), ["100.64.0.0/10 proto static scope link src 100.64.0.7"]);
        assert!(
            routes("-6")[0].contains("fd7a:115c:a1e0::/48 proto static src fd7a:115c:a1e0::7"),
            "{:?}",
            routes("-6")
        );
        assert_eq!(source("100.64.1.1:9"), "100.64.0.7".parse::<IpAddr>().unwrap());
        assert_eq!(source("[fd7a:115c:a1e0::99]:9"), "fd7a:115c:a1e0::7".parse::<IpAddr>().unwrap());

        // The same again changes nothing; another one replaces it; an address that stays is not touched.
        tailnet.set(&nets(&["100.64.0.7/32", "fd7a:115c:a1e0::7/128"])).unwrap();
        tailnet.set(&nets(&["100.64.0.8/32", "fd7a:115c:a1e0::7/128"])).unwrap();
        assert_eq!(shown("-4"), ["100.100.100.100/32", "100.64.0.8/32"]);
        assert_eq!(routes("-4"), ["100.64.0.0/10 proto static scope link src 100.64.0.8"]);
        assert_eq!(source("100.64.1.1:9"), "100.64.0.8".parse::<IpAddr>().unwrap());
        tailnet.set(&nets(&["100.64.0.8/32"])).unwrap();
        assert_eq!((shown("-6"), routes("-6")), (vec!["fd7a:115c:a1e0::53/128".to_owned()], vec![]));
        tailnet.set(&[]).unwrap();
        assert_eq!(shown("-4"), ["100.100.100.100/32"]);
        assert_eq!((routes("-4"), routes("-6")), (vec![], vec![]));
    });
}

#[test]
fn what_somebody_else_put_there_goes() {
    let Some(rig) = Rig::new() else { return };
    rig.in_guest(|| {
        let (_tun, tailnet) = made(1280, false);
        assert!(shown("-4").is_empty());
        ip(&format!("address add 10.1.2.3/24 dev {LINK}"));
        ip(&format!("route add 10.7.0.0/16 dev {LINK}"));
        ip("route add blackhole 10.8.0.0/16");
        tailnet.set(&nets(&["100.64.0.7/32"])).unwrap();
        assert_eq!(shown("-4"), ["100.64.0.7/32"]);
        assert_eq!(routes("-4").len(), 1);
        assert!(ip("route").contains("blackhole 10.8.0.0/16"), "other routes are not touched");
    });
}

#[test]
fn without_ipv6_there_is_none() {
    let Some(rig) = Rig::new() else { return };
    rig.in_guest(|| {
        let _tun = open_tun(LINK, 1).unwrap();
        let tailnet = Tailnet::bring_up(LINK, &nets(&["100.64.0.0/10"]), 1280, true).unwrap();
        assert!(!tailnet.ipv6());
        tailnet.set(&nets(&["100.64.0.7/32", "fd7a:115c:a1e0::7/128"])).unwrap();
        assert!(shown("-6").is_empty());
    });
    let Some(rig) = Rig::new() else { return };
    rig.in_guest(|| {
        // As in a machine whose default is off: turned on for this link alone.
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        let (_tun, tailnet) = made(1280, true);
        assert!(tailnet.ipv6());
        assert_eq!(sysctl("ipv6/conf/tun0/disable_ipv6"), "0");
        assert_eq!(sysctl("ipv6/conf/default/disable_ipv6"), "1");
    });
}

#[test]
fn who_answers_for_names_already_is_found_by_address_and_by_route() {
    let Some(rig) = Rig::new() else { return };
    rig.in_guest(|| {
        assert_eq!(tailnet::who_has_names().unwrap(), None);
        ip("link add other type veth peer name another");
        ip("link set other up");
        ip("route add 100.64.0.0/10 dev other");
        assert_eq!(tailnet::who_has_names().unwrap(), None, "a wider route is nobody's claim");
        ip("route add 100.100.100.100/32 dev other table 52");
        assert_eq!(tailnet::who_has_names().unwrap().as_deref(), Some("other"));
        ip("link delete other");
        let (tun, _tailnet) = made(1280, true);
        assert_eq!(tailnet::who_has_names().unwrap().as_deref(), Some(LINK));
        drop(tun);
        // A program that another test is just starting may hold a copy of it until its exec.
        let gone = || tailnet::who_has_names().unwrap().is_none();
        assert!((0..200).any(|_| gone() || {
            std::thread::sleep(Duration::from_millis(10));
            false
        }));
    });
}

#[test]
fn who_is_inside_the_prefixes_is_found_by_address_and_by_route() {
    let Some(rig) = Rig::new() else { return };
    rig.in_guest(|| {
        let prefixes = nets(&["100.64.0.0/10", "fd7a:115c:a1e0::/48"]);
        let found = || tailnet::who_is_inside(&prefixes).unwrap();
        ip("link add other type veth peer name another");
        ip("link set other up");
        ip("addr add 192.0.2.7/24 dev other");
        ip("route add 100.0.0.0/8 dev other");
        assert_eq!(found(), None, "a wider route leads elsewhere");
        ip("route add 100.70.0.0/16 dev other");
        assert_eq!(found(), Some(("other".to_owned(), nets(&["100.70.0.0/16"])[0])));
        ip("route del 100.70.0.0/16 dev other");
        ip("addr add 100.99.0.1/24 dev another");
        assert_eq!(found(), Some(("another".to_owned(), nets(&["100.99.0.1/32"])[0])));
    });
}
