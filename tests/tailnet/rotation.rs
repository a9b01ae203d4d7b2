//! Node keys end while nodes run. With another pre-auth key a node gets another one and goes on; without, it keeps what it has.

use std::fs;

use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::built::Release;
use crate::flow::{Flow, Protocol};
use crate::headscale::{Headscale, KeyFor, Node, Options};
use crate::net::{Net, Segment};
use crate::ours::{INTERFACE, Ours};
use crate::peer::{Kind, Peer, become_direct, direct};
use crate::wait::{never, s, until};

/// From what the operator says to when it is so: all learn of it before.
const NOTICE: u64 = 20;
/// When a key has ended, that is seen within 30 s by the clock (`init/vpn/src/control/session/mod.rs`, `EXPIRY_INTERVAL`), or said by the
/// server; a request to join takes Headscale a second or so, and is a minute after the last one at the earliest.
const ROTATED: std::time::Duration = s(NOTICE + 30 + 60);

/// Keys of nodes with a tag do not end.
const OF_A_USER: KeyFor<'static> = KeyFor { tags: &[], reusable: false, expires: "1h" };

struct Rig {
    server: Headscale,
    node: Ours,
    others: [Peer; 2],
    before: Node,
    address: String,
    _net: Net,
}

fn rig() -> Rig {
    let mut net = Net::new(Segment::Private);
    let server = Headscale::start(&net.host("headscale"), Release::V0_29, Options::default());
    let node = Peer::join_with(Kind::Ours, &net.host("node-a"), &server, &server.key(OF_A_USER));
    let others = [Kind::Go, Kind::Ours].map(|kind| {
        let name = format!("node-{kind:?}").to_lowercase();
        Peer::join(kind, &net.host(&name), &server)
    });
    for other in &others {
        become_direct(other, &node, s(30));
    }
    let before = server.node("node-a").unwrap();
    let address = node.addresses()[0].clone();
    let Peer::Ours(node) = node else { panic!("not ours") };
    fs::remove_file(node.host.folder.join("authkey")).unwrap();
    Rig { server, node, others, before, address, _net: net }
}

impl Rig {
    fn own(&self) -> Value {
        self.node.status().unwrap()["self"].clone()
    }

    /// The node's key ends in a while; all are told now.
    fn ends_soon(&self) {
        let end = OffsetDateTime::now_utc() + Duration::seconds(i64::try_from(NOTICE).unwrap());
        self.server.expire_at(&self.before, &end.format(&Rfc3339).unwrap());
        until(s(10), "the end to be known", || (!self.own()["key_expiry"].is_null()).then_some(()));
        assert_eq!(self.own()["key"], json!(self.before.key), "it did not wait for the end");
    }

    fn flows(&self) -> Vec<Flow> {
        let to = &self.node.host;
        self.others
            .iter()
            .map(|other| Flow::begin(Protocol::Udp, other.host(), to, &self.address, 0))
            .collect()
    }

    fn new_key(&self) -> Node {
        until(ROTATED, "another node key", || {
            self.server.node("node-a").filter(|node| node.key != self.before.key)
        })
    }

    /// Everything is as it was, under another key.
    fn goes_on(&self, after: &Node) {
        assert_eq!((after.id, &after.addresses), (self.before.id, &self.before.addresses));
        self.node.comes_in(s(30));
        // What it says of itself is the map's: the first under the new key comes after it is let in.
        until(s(15), "the map of the new key", || (self.own()["key"] == json!(after.key)).then_some(()));
        for other in &self.others {
            other.host().pings_soon(s(20), &self.address);
            self.node.host.pings_soon(s(20), &other.addresses()[1]);
            until(s(30), "a direct path", || direct(other, &self.address));
        }
    }
}

#[test]
fn a_node_key_that_ends_is_rotated_at_run_time() {
    let rig = rig();
    let child = rig.node.child();
    rig.node.rekey(&rig.server.key(OF_A_USER));
    let flows = rig.flows();
    rig.ends_soon();
    // Having another pre-auth key is no reason to use it.
    for flow in &flows {
        flow.assert_went_on(s(1));
    }
    let after = rig.new_key();
    rig.goes_on(&after);
    for flow in &flows {
        flow.forget();
    }
    std::thread::sleep(s(3));
    for flow in &flows {
        flow.assert_went_on(s(1));
    }
    assert_eq!(rig.node.child(), child, "it was started again");
}

#[test]
fn a_node_key_that_ends_stays_where_there_is_no_other() {
    let rig = rig();
    let flows = rig.flows();
    rig.ends_soon();
    for flow in &flows {
        flow.assert_went_on(s(1));
    }
    let status = rig.node.waits_for_a_key(ROTATED);
    assert_eq!(status["self"]["key"], json!(rig.before.key), "{status}");
    // It has what it had: only others no longer believe its key.
    let peers = status["peers"].as_array().unwrap().len();
    assert_eq!(peers, rig.others.len(), "{status}");
    let shown = rig.node.host.ip(&format!("-json address show dev {INTERFACE}"));
    assert!(rig.before.addresses.iter().all(|address| shown.contains(address.as_str())), "{shown}");
    never(s(10), "another node key without a pre-auth key", || {
        rig.server.node("node-a").filter(|node| node.key != rig.before.key)
    });
    for flow in &flows {
        flow.stops(s(30));
    }
    rig.node.rekey(&rig.server.key(OF_A_USER));
    let after = rig.new_key();
    rig.goes_on(&after);
}
