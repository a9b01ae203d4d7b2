//! Many nodes of one server.

use crate::built::Release;
use crate::headscale::{Headscale, KeyFor, Options};
use crate::net::{Net, Segment};
use crate::ours::{Ours, config};
use crate::peer::{Kind, Peer};
use crate::wait::{s, until};

/// How many of ours there are, beside one of Go's.
const OWN: usize = 29;

fn peers(node: &Ours) -> Option<usize> {
    Some(node.status()?["peers"].as_array()?.len())
}

/// All start at once; each gets to know all others, and loses one that is deleted.
#[test]
fn thirty_nodes_know_each_other() {
    let mut net = Net::new(Segment::Private);
    let server = Headscale::start(&net.host("headscale"), Release::V0_29, Options::default());
    let key = server.key(KeyFor { reusable: true, ..KeyFor::default() });
    let go = Peer::join_with(Kind::Go, &net.host("node-go"), &server, &key);
    let nodes: Vec<_> = (0..OWN)
        .map(|number| {
            let host = net.host(&format!("node-{number}"));
            Ours::start(&host, &config(&host, &server, &key))
        })
        .collect();
    for node in &nodes {
        node.running(s(120));
    }
    for node in &nodes {
        until(s(60), "all peers", || (peers(node)? == OWN).then_some(()));
    }
    let [first, others @ ..] = &nodes[..] else { panic!("none") };
    for node in others {
        first.host.pings_soon(s(20), &node.addresses()[0]);
    }
    let [last @ .., deleted] = others else { panic!("one") };
    for node in [first, &last[0]] {
        go.host().pings_soon(s(20), &node.addresses()[1]);
        node.host.pings_soon(s(20), &go.addresses()[0]);
    }
    server.delete(&server.node(&deleted.host.name).unwrap());
    for node in nodes.iter().filter(|node| node.host.name != deleted.host.name) {
        until(s(30), "one peer less", || (peers(node)? == OWN - 1).then_some(()));
    }
    assert!(!first.host.pings(&deleted.addresses()[0]));
}
