//! The table around a tunnel on any machine: `host` has a link, a tunnel and a container; a veth pair stands for the tunnel.

#![expect(clippy::unwrap_used, reason = "a failed assertion is what a test is for")]

mod support;

use std::net::{IpAddr, Ipv4Addr};

use casemate_egress::{Lock, guard_ruleset};
use support::Netns;
use support::traffic::{ask, ask_in_vain, echo};

const OURS: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 7);
const NODE: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 2);
const NAMES: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 100);
const HOST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 15);
const CONTAINER: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 2);

struct Machine {
    host: Netns,
    lan: Netns,
    node: Netns,
    container: Netns,
    guard: Lock,
}

/// `None`: skipped, and said so.
fn machine() -> Option<Machine> {
    let [host, lan, node, container] = [Netns::new()?, Netns::new()?, Netns::new()?, Netns::new()?];
    let prefixes = ["100.64.0.0/10".parse().unwrap()];
    let guard = guard_ruleset(&"casemate0".parse().unwrap(), &prefixes, &[IpAddr::V4(NAMES)]);
    let guard = host.run(|| Lock::install(&guard)).unwrap();
    host.sysctl("ipv4/ip_forward", "1");
    for (link, other, address) in [
        ("eth0", &lan, "10.9.0.15/24"),
        ("casemate0", &node, "100.64.0.7/32"),
        ("docker0", &container, "172.30.0.1/24"),
    ] {
        host.ip(&format!("link add {link} type veth peer name far netns {}", other.id()));
        host.ip(&format!("addr add {address} dev {link}"));
        host.ip(&format!("link set {link} up"));
        other.ip("link set far up");
    }
    host.ip("addr add 100.100.100.100/32 dev casemate0");
    host.ip("route add 100.64.0.0/10 dev casemate0 src 100.64.0.7");
    lan.ip("addr add 10.9.0.1/24 dev far");
    lan.ip("addr add 100.64.0.9/32 dev lo");
    lan.ip("route add 100.64.0.0/10 via 10.9.0.15");
    node.ip("addr add 100.64.0.2/10 dev far");
    container.ip("addr add 172.30.0.2/24 dev far");
    container.ip("route add default via 172.30.0.1");
    // As dockerd publishes a port, on all addresses, and lets containers out.
    host.nft("add table ip docker; add chain ip docker in { type nat hook prerouting priority dstnat ; }; add rule ip docker in fib daddr type local tcp dport 8080 dnat to 172.30.0.2:80; add chain ip docker out { type nat hook postrouting priority srcnat ; }; add rule ip docker out ip saddr 172.30.0.0/24 masquerade");
    Some(Machine { host, lan, node, container, guard })
}

#[test]
fn our_addresses_are_the_networks_alone() {
    let Some(machine) = machine() else { return };
    let Machine { host, lan, node, container, mut guard } = machine;
    let served = [(OURS, 7001), (NAMES, 53), (HOST, 7003)].map(|at| (at, echo(&host, 0, at.into())));
    let published = echo(&container, 0, (CONTAINER, 80).into());
    lan.run(|| {
        for at in [(OURS, 7001), (NAMES, 53), (OURS, 8080)] {
            assert!(ask_in_vain(at).is_err(), "{at:?}");
        }
        // What is not the network's is none of our business.
        ask((HOST, 7003)).unwrap();
    });
    node.run(|| {
        ask((OURS, 7001)).unwrap();
        ask((OURS, 8080)).unwrap();
    });
    assert_eq!(published.accepted(), 1, "the node's");
    let accepted = served.map(|(at, server)| (at, server.accepted()));
    assert_eq!(accepted, [((OURS, 7001), 1), ((NAMES, 53), 0), ((HOST, 7003), 1)]);
    let beside = guard.counters().unwrap().into_iter().find(|counter| counter.name == "beside").unwrap();
    assert!(beside.packets >= 3, "{beside:?}");
    guard.verify().unwrap();

    // It was the table: without it they are the link's as well.
    drop(guard);
    let server = echo(&host, 0, (OURS, 7001).into());
    lan.run(|| ask((OURS, 7001)).unwrap());
    assert_eq!(server.accepted(), 1);
}

#[test]
fn nobody_speaks_in_the_name_of_a_node_and_containers_speak_to_nodes() {
    let Some(machine) = machine() else { return };
    let Machine { host, lan, node, container, mut guard } = machine;
    let at_host = echo(&host, 0, (HOST, 7003).into());
    let published = echo(&container, 0, (CONTAINER, 80).into());
    // The source that the route gives is a node's.
    lan.ip("route replace 10.9.0.15/32 dev far src 100.64.0.9");
    // Its answers would come back here.
    host.ip("route add 100.64.0.9/32 dev eth0");
    lan.run(|| {
        assert!(ask_in_vain((HOST, 7003)).is_err());
        assert!(ask_in_vain((HOST, 8080)).is_err());
    });
    assert_eq!((at_host.accepted(), published.accepted()), (0, 0));
    let spoofed = guard.counters().unwrap().into_iter().find(|counter| counter.name == "spoofed").unwrap();
    assert!(spoofed.packets >= 2, "{spoofed:?}");

    let server = echo(&node, 0, (NODE, 8000).into());
    let seen = container.run(|| ask((NODE, 8000)).unwrap());
    assert!(seen.starts_with("100.64.0.7:"), "{seen}");
    assert_eq!(server.accepted(), 1);
}
