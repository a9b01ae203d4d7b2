//! The policy changes while nodes talk: what is revoked ends, what is not goes on.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::built::Release;
use crate::flow::{Flow, Protocol, connects};
use crate::headscale::{Headscale, KeyFor, Options};
use crate::net::{Net, Segment};
use crate::peer::{Kind, Peer, become_direct};
use crate::wait::{s, until};

const TAG_A: &str = "tag:node-a";
const TAG_B: &str = "tag:node-b";
/// How soon a rule must be in force.
const SOON: Duration = s(5);

/// Rules from A to B, and back: protocol, and the ports of the other.
///
/// And one for somebody else: to nodes that connect under a policy without any rule, Headscale 0.29.2 names all others, with
/// a filter that lets nothing new through; then what there was goes on with Go.
fn policy(there: &[(&str, &str)], back: &[(&str, &str)]) -> Value {
    let ways = [(there, TAG_A, TAG_B), (back, TAG_B, TAG_A)];
    let mut rules: Vec<_> = ways
        .iter()
        .flat_map(|(rules, from, to)| rules.iter().map(move |rule| (rule, from, to)))
        .map(|((protocol, ports), from, to)| {
            json!({ "action": "accept", "proto": protocol, "src": [from], "dst": [format!("{to}:{ports}")] })
        })
        .collect();
    rules.push(json!({ "action": "accept", "proto": "tcp", "src": ["100.64.50.1/32"], "dst": ["100.64.50.2/32:22"] }));
    json!({ "tagOwners": { TAG_A: ["alice@"], TAG_B: ["alice@"] }, "acls": rules })
}

fn a_policy_changes(release: Release, kinds: [Kind; 2]) {
    let mut net = Net::new(Segment::Private);
    let server = Headscale::start(&net.host("headscale"), release, Options::default());
    let [a, b] = [("node-a", TAG_A), ("node-b", TAG_B)].map(|(name, tag)| {
        let kind = kinds[usize::from(tag == TAG_B)];
        let key = server.key(KeyFor { tags: &[tag], ..KeyFor::default() });
        Peer::join_with(kind, &net.host(name), &server, &key)
    });
    become_direct(&a, &b, s(30));
    let [to_a, to_b] = [&a.addresses()[0], &b.addresses()[0]].map(String::clone);
    let (a, b) = (a.host(), b.host());

    // Without a policy: everybody to everybody.
    assert!(connects(b, a, &to_a, 6000));
    server.policy(&policy(&[("tcp", "7000,7001"), ("udp", "7000"), ("icmp", "*")], &[]));
    until(SOON, "no way back", || (!b.pings(&to_a)).then_some(()));
    let tcp = Flow::begin(Protocol::Tcp, a, b, &to_b, 7000);
    let udp = Flow::begin(Protocol::Udp, a, b, &to_b, 7000);
    assert!(connects(a, b, &to_b, 7001) && !connects(a, b, &to_b, 6000) && !connects(b, a, &to_a, 7000));
    assert!(a.pings(&to_b));

    // Port 7000 is revoked: no new TCP, no UDP from outside; the stream that there is lives on.
    server.policy(&policy(&[("tcp", "7001"), ("udp", "7003")], &[("udp", "7003")]));
    if kinds[1] == Kind::Ours {
        udp.stops(SOON);
    } else {
        // Go takes it for the answer to what the other end answered, as long as it goes on.
        std::thread::sleep(SOON);
        udp.forget();
        std::thread::sleep(s(1));
        assert!(udp.came());
    }
    // Whoever may have any port may ping: Go's filter looks at nothing but addresses there.
    assert!(!connects(a, b, &to_b, 7002) && connects(a, b, &to_b, 7001) && a.pings(&to_b));
    tcp.forget();
    std::thread::sleep(s(2));
    tcp.assert_went_on(s(1));

    // What may still begin, does, from both ends.
    let there = Flow::begin(Protocol::Udp, a, b, &to_b, 7003);
    let back = Flow::begin(Protocol::Udp, b, a, &to_a, 7003);

    // The last rule between the two is revoked: they are strangers.
    server.policy(&policy(&[], &[]));
    let end = Instant::now() + SOON;
    // To 0.26.1 they are not: both stay in each other's maps, and a filter without rules lets go on what there is.
    if release > Release::V0_26 {
        for flow in [&tcp, &udp, &there, &back] {
            flow.stops(end.saturating_duration_since(Instant::now()));
        }
    }
    until(SOON, "no connection", || (!connects(a, b, &to_b, 7001)).then_some(()));
    assert!(!a.pings(&to_b) && !b.pings(&to_a));

    // And back.
    server.policy(&policy(&[("tcp", "7001")], &[]));
    until(s(20), "a connection", || connects(a, b, &to_b, 7001).then_some(()));
}

#[test]
fn a_policy_changes_between_a_go_pair() {
    a_policy_changes(Release::V0_29, [Kind::Go, Kind::Go]);
}

#[test]
fn a_policy_changes_for_ours_as_receiver_0_29() {
    a_policy_changes(Release::V0_29, [Kind::Go, Kind::Ours]);
}

#[test]
fn a_policy_changes_for_ours_as_receiver_0_28() {
    a_policy_changes(Release::V0_28, [Kind::Ours, Kind::Ours]);
}

#[test]
fn a_policy_changes_for_ours_as_receiver_0_26() {
    a_policy_changes(Release::V0_26, [Kind::Go, Kind::Ours]);
}

#[test]
fn a_policy_changes_for_ours_as_sender() {
    a_policy_changes(Release::V0_29, [Kind::Ours, Kind::Go]);
}
