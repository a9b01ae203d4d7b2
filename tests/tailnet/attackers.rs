//! Peers who are who they are, and say that they are somebody else.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use serde_json::json;

use crate::built::Release;
use crate::headscale::{Headscale, KeyFor, Options};
use crate::net::{Host, Net, Segment};
use crate::peer::{Kind, Peer, become_direct};
use crate::tailscaled::INTERFACE;
use crate::wait::{s, until};

/// How many datagrams are sent.
const TRIES: u64 = 3;

/// Of ours, how many packets it dropped that a peer sent with another's address inside.
fn spoofed(victim: &Peer) -> Option<u64> {
    match victim {
        Peer::Ours(node) => Some(node.status()?["drops"]["spoofed"].as_u64().unwrap_or_default()),
        Peer::Go(_) => None,
    }
}

/// Whether a datagram from one address of a host reaches another host's address.
fn reaches(from: &Host, source: &str, to: &Host, address: &str) -> bool {
    let [source, address] = [source, address].map(|one| one.parse::<IpAddr>().unwrap());
    let far = to.inside(|| UdpSocket::bind(SocketAddr::new(address, 7100)).unwrap());
    far.set_read_timeout(Some(s(1))).unwrap();
    let near = from.inside(|| UdpSocket::bind(SocketAddr::new(source, 0)).unwrap());
    let mut buffer = [0; 16];
    (0..TRIES).any(|_| {
        near.send_to(b"spoof", (address, 7100)).unwrap();
        far.recv_from(&mut buffer).is_ok_and(|(_, from)| from.ip() == source)
    })
}

/// A Go node sends with a third node's address inside of its own tunnel.
fn a_spoofer_gets_nowhere(victim: Kind) {
    let mut net = Net::new(Segment::Private);
    let server = Headscale::start(&net.host("headscale"), Release::V0_29, Options::default());
    let spoofer = Peer::join(Kind::Go, &net.host("node-spoofer"), &server);
    let honest = Peer::join(Kind::Go, &net.host("node-honest"), &server);
    let victim = Peer::join(victim, &net.host("node-victim"), &server);
    become_direct(&spoofer, &victim, s(30));
    become_direct(&honest, &victim, s(30));
    let (own, to) = (spoofer.addresses(), victim.addresses());
    let theirs = honest.addresses();
    // The third node itself must not get what is sent back.
    drop(honest);
    for (family, length) in [(0, 32), (1, 128)] {
        assert!(reaches(spoofer.host(), &own[family], victim.host(), &to[family]), "not even honestly");
        let flags = if family == 1 { "nodad" } else { "" };
        spoofer.host().ip(&format!("address add {}/{length} dev {INTERFACE} {flags}", theirs[family]));
        let before = spoofed(&victim);
        assert!(!reaches(spoofer.host(), &theirs[family], victim.host(), &to[family]), "spoofed");
        // Nor an address of nobody's.
        let nobody = ["100.64.77.77", "fd7a:115c:a1e0::7777"][family];
        spoofer.host().ip(&format!("address add {nobody}/{length} dev {INTERFACE} {flags}"));
        assert!(!reaches(spoofer.host(), nobody, victim.host(), &to[family]), "spoofed");
        if let Some(before) = before {
            // They came, each of them: it was not Go's own that held them back.
            let dropped = spoofed(&victim).unwrap() - before;
            assert!(dropped >= 2 * TRIES, "{dropped} spoofed packets came");
        }
        assert!(reaches(spoofer.host(), &own[family], victim.host(), &to[family]));
    }
}

#[test]
fn a_spoofer_gets_nowhere_at_go() {
    a_spoofer_gets_nowhere(Kind::Go);
}

#[test]
fn a_spoofer_gets_nowhere_at_ours() {
    a_spoofer_gets_nowhere(Kind::Ours);
}

/// How many packets the filter dropped so far.
fn filtered(node: &Peer) -> u64 {
    let Peer::Ours(node) = node else { panic!("not ours") };
    let status = node.status().unwrap();
    status["filter"]["dropped"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum()
}

/// A node that may not talk to ours sees nothing of it; one that may only be talked to gets no connection in.
#[test]
fn a_stranger_gets_nowhere_at_ours() {
    let mut net = Net::new(Segment::Private);
    let server = Headscale::start(&net.host("headscale"), Release::V0_29, Options::default());
    let [ours, called, stranger] =
        [(Kind::Ours, "ours"), (Kind::Go, "called"), (Kind::Go, "stranger")].map(|(kind, name)| {
            let key = server.key(KeyFor { tags: &[&format!("tag:{name}")], ..KeyFor::default() });
            Peer::join_with(kind, &net.host(&format!("node-{name}")), &server, &key)
        });
    server.policy(&json!({
        "tagOwners": { "tag:ours": ["alice@"], "tag:called": ["alice@"], "tag:stranger": ["alice@"] },
        "acls": [{ "action": "accept", "src": ["tag:ours"], "dst": ["tag:called:*"] }],
    }));
    // Until the server's answer is in force, everybody is let in.
    if let Peer::Ours(node) = &ours {
        until(s(20), "the policy", || (node.status()?["filter"]["allow_all"] == false).then_some(()));
    }
    let [v4, v6] = ours.addresses();
    for address in called.addresses() {
        ours.host().pings_soon(s(20), &address);
    }
    for address in [&v4, &v6] {
        for from in [&called, &stranger] {
            let before = filtered(&ours);
            assert!(!from.host().pings(address), "{} {address}", from.name());
            assert!(!crate::flow::connects(from.host(), ours.host(), address, 7000), "{}", from.name());
            // The server tells a stranger nothing of ours: nobody sends there. What the other one sent did come.
            let dropped = filtered(&ours) - before;
            assert!(dropped >= 4 || from.name() == stranger.name(), "{dropped} of {}", from.name());
        }
    }
}
