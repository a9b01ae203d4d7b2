//! A coordinator that lies about names. Nothing of it gets through, by UDP or TCP, and what is refused is counted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use serde_json::{Value, json};

use crate::net::{Host, Net, Segment};
use crate::ours::Ours;
use crate::resolver::{Over, Resolver, addresses, ask, extended_error};
use crate::scripted::{Scripted, first_map};
use crate::wait::{s, until};

/// Where the lies lead.
const LIE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 66);
/// What the measured resolver says of every name.
const TRUTH: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// What the coordinator may say: a record of its own domain.
const GOOD: Ipv4Addr = Ipv4Addr::new(100, 64, 9, 9);
/// A name of the egress allowlist, which is one of the coordinator's domain too, and another that is not.
const ALLOWED: &str = "api.t.internal";
const ALLOWED_OUTSIDE: &str = "registry.example.com";
/// RFC 8914: prohibited.
const PROHIBITED: u16 = 18;

const SERVERS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 100)),
    IpAddr::V6(Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0x53)),
];

/// Names that the coordinator has no word on, each of which it lies about.
const LIED_ABOUT: [&str; 9] = [
    "www.example.org",
    "t.internal.example.org",
    "nott.internal",
    ALLOWED,
    "API.T.Internal",
    "below.api.t.internal",
    ALLOWED_OUTSIDE,
    "host.corp.example",
    "66.113.0.203.in-addr.arpa",
];

fn names(base: &str, liar: Ipv4Addr) -> Value {
    let lies = LIED_ABOUT.iter().map(|name| json!({ "Name": name, "Type": "A", "Value": LIE }));
    let mut records: Vec<_> = lies.collect();
    records.extend([
        json!({ "Name": "good.t.internal", "Type": "A", "Value": GOOD }),
        json!({ "Name": format!("www.{base}"), "Type": "A", "Value": LIE }),
        json!({ "Name": "loop.t.internal", "Type": "A", "Value": "127.0.0.1" }),
        json!({ "Name": "meta.t.internal", "Type": "A", "Value": "169.254.169.254" }),
    ]);
    let upstream = json!([{ "Addr": liar }]);
    json!({
        "Proxied": true, "Domains": [base], "ExtraRecords": records, "Resolvers": upstream,
        "FallbackResolvers": upstream,
        "Routes": {
            "corp.example": upstream, "example.org": upstream, (ALLOWED): upstream, (ALLOWED_OUTSIDE): upstream,
            "internal": upstream, "t.internal": upstream, ".": upstream,
        },
    })
}

/// A peer by any name.
fn peer(id: u64, name: &str) -> Value {
    let addresses = [format!("100.64.0.{id}/32"), format!("fd7a:115c:a1e0::{id:x}/128")];
    json!({
        "ID": id, "Name": format!("{name}."), "Key": format!("nodekey:{id:064x}"), "Addresses": addresses,
        "AllowedIPs": addresses, "Online": true,
    })
}

/// Peers of whom two say that they are hosts of the allowlist, and one that it is somebody else's.
fn peers() -> Vec<Value> {
    let names = ["honest.t.internal", ALLOWED, ALLOWED_OUTSIDE, "www.example.org"];
    (20..).zip(names).map(|(id, name)| peer(id, name)).collect()
}

fn refused(node: &Ours) -> u64 {
    node.status().unwrap()["dns"]["refused"].as_u64().unwrap()
}

/// That each of these is refused, in each way that there is to ask, and counted.
fn all_refused(node: &Ours, names: &[&str]) {
    let before = refused(node);
    let mut questions = 0;
    for name in names {
        for (server, over) in SERVERS.into_iter().flat_map(|one| [(one, Over::Udp), (one, Over::Tcp)]) {
            for kind in [RecordType::A, RecordType::AAAA, RecordType::TXT, RecordType::ANY] {
                let reply = ask(&node.host, server, over, name, kind);
                assert_eq!(reply.metadata.response_code, ResponseCode::Refused, "{name} {kind} {over:?}");
                assert_eq!(extended_error(&reply), Some(PROHIBITED), "{name} {kind} {over:?}");
                assert!(reply.answers.is_empty() && reply.additionals.is_empty(), "{reply}");
                questions += 1;
            }
        }
    }
    assert_eq!(refused(node) - before, questions, "not all are counted");
}

/// What is the coordinator's to say is believed: else nothing would be shown by the rest.
fn honest_names_hold(node: &Ours) {
    for over in [Over::Udp, Over::Tcp] {
        let address = |name: &str| addresses(&ask(&node.host, SERVERS[0], over, name, RecordType::A));
        assert_eq!(address("good.t.internal"), [GOOD]);
        assert_eq!(address("honest.t.internal"), [Ipv4Addr::new(100, 64, 0, 20)]);
        // Of its own domain, but no machine of the tailnet's or of anybody's: there is no such record.
        for name in ["loop.t.internal", "meta.t.internal"] {
            assert_eq!(address(name), [Ipv4Addr::UNSPECIFIED; 0], "{name}");
        }
        // No address of a liar's has a name.
        for number in [21, 22, 23] {
            let name = format!("{number}.0.64.100.in-addr.arpa");
            let reply = ask(&node.host, SERVERS[0], over, &name, RecordType::PTR);
            assert!(reply.answers.is_empty(), "{reply}");
        }
        let reply = ask(&node.host, SERVERS[0], over, "20.0.64.100.in-addr.arpa", RecordType::PTR);
        assert_eq!(reply.answers.len(), 1, "{reply}");
    }
}

/// Names follow the map by so much (`init/vpn/src/node/mod.rs`, `NAMES`).
const NAMES: std::time::Duration = s(1);

/// Until a map is in force that has this peer, and its names are.
fn knows(node: &Ours, name: &str) {
    until(s(20), "the map", || {
        let status = node.status()?;
        status["peers"].as_array()?.iter().any(|peer| peer["name"] == name).then_some(())
    });
    std::thread::sleep(NAMES + NAMES / 10);
}

struct Rig {
    server: Scripted,
    node: Host,
    liar: (Host, Resolver),
    measured: (Host, Resolver),
    _net: Net,
}

fn rig() -> Rig {
    let mut net = Net::new(Segment::Private);
    let server = Scripted::start(&net.host("control"));
    let resolver = |host: Host, says| {
        let resolver = Resolver::open(&host, says);
        (host, resolver)
    };
    let liar = resolver(net.host("liar"), LIE);
    let measured = resolver(net.host("measured"), TRUTH);
    let node = net.host("node-1");
    // The way to both is there: that they are not asked is the node's doing.
    for (host, says) in [(&liar.0, LIE), (&measured.0, TRUTH)] {
        let reply = ask(&node, host.v4.into(), Over::Udp, "way.example", RecordType::A);
        assert_eq!(addresses(&reply), [says]);
    }
    Rig { server, node, liar, measured, _net: net }
}

/// What a resolver was asked by the node: not by the rig.
fn asked(resolver: &Resolver) -> Vec<String> {
    resolver.asked().into_iter().filter(|name| name != "way.example").collect()
}

#[test]
fn a_liar_gets_nothing_through_where_only_the_tailnet_has_names() {
    let rig = rig();
    let mut config = rig.server.config(&rig.node);
    config["dns"] = json!({
        "listen": true, "internal_only": true, "allowlist": [ALLOWED, ALLOWED_OUTSIDE],
        "resolvers": [format!("{}:53", rig.measured.0.v4)],
    });
    let first = first_map(1, &peers(), &names("t.internal", rig.liar.0.v4));
    let (node, maps) = rig.server.admit(|| Ours::start(&rig.node, &config), first);
    knows(&node, "honest.t.internal");
    honest_names_hold(&node);
    all_refused(&node, &LIED_ABOUT);

    // A base domain that is a host of the allowlist, below one, or everybody's, is none at all.
    let bases = [ALLOWED, ALLOWED_OUTSIDE, "below.registry.example.com", "com", "local", "in-addr.arpa"];
    for (number, base) in (40..).zip(bases) {
        let marker = format!("round-{number}.t.internal");
        maps.map(
            &json!({ "DNSConfig": names(base, rig.liar.0.v4), "PeersChanged": [peer(number, &marker)] }),
        );
        knows(&node, &marker);
        all_refused(&node, &[&format!("www.{base}"), base, ALLOWED, ALLOWED_OUTSIDE, "good.t.internal"]);
    }
    // One above it is a domain, without those of the allowlist in it.
    let above = names("example.com", rig.liar.0.v4);
    maps.map(&json!({ "DNSConfig": above, "PeersChanged": [peer(60, "round-60.example.com")] }));
    knows(&node, "round-60.example.com");
    all_refused(&node, &[ALLOWED_OUTSIDE, "below.registry.example.com", "good.t.internal"]);
    let reply = ask(&node.host, SERVERS[0], Over::Udp, "round-60.example.com", RecordType::A);
    assert_eq!(addresses(&reply), [Ipv4Addr::new(100, 64, 0, 60)]);

    assert_eq!(asked(&rig.liar.1), [""; 0]);
    assert_eq!(asked(&rig.measured.1), [""; 0]);
    let status = node.status().unwrap();
    assert_eq!(status["dns"]["forwarded"], 0, "{status}");
}

/// Where other names are asked for as well, those that were measured answer, whatever the coordinator says.
#[test]
fn a_liar_gets_nothing_through_where_other_resolvers_answer() {
    let rig = rig();
    let mut config = rig.server.config(&rig.node);
    config["dns"] = json!({
        "listen": true, "internal_only": false, "allowlist": [ALLOWED, ALLOWED_OUTSIDE],
        "resolvers": [format!("{}:53", rig.measured.0.v4)],
    });
    let first = first_map(1, &peers(), &names("t.internal", rig.liar.0.v4));
    let (node, _maps) = rig.server.admit(|| Ours::start(&rig.node, &config), first);
    knows(&node, "honest.t.internal");
    honest_names_hold(&node);
    let mut questions = Vec::new();
    for name in LIED_ABOUT {
        for (server, over) in SERVERS.into_iter().flat_map(|one| [(one, Over::Udp), (one, Over::Tcp)]) {
            let reply = ask(&node.host, server, over, name, RecordType::A);
            assert_eq!(reply.metadata.response_code, ResponseCode::NoError, "{name} {over:?}");
            assert_eq!(addresses(&reply), [TRUTH], "{name} {over:?}");
            questions.push(name.to_ascii_lowercase());
        }
    }
    let measured: Vec<_> = asked(&rig.measured.1).iter().map(|name| name.to_ascii_lowercase()).collect();
    assert_eq!(measured, questions);
    assert_eq!(asked(&rig.liar.1), [""; 0]);
    assert_eq!(node.status().unwrap()["dns"]["forwarded"], json!(questions.len()));
}
