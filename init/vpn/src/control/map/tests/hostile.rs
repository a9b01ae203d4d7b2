//! What a server can do with maps that it should not, and what time does to them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on may panic")]

use std::time::Duration;

use serde_json::{Value, json};

use super::super::*;

fn public(n: u8) -> Public<Node> {
    Public::new([n; 32])
}

fn node(n: u8) -> Value {
    let address = format!("100.64.0.{n}/32");
    json!({ "ID": n, "Name": format!("n{n}.t.internal."), "Key": public(n), "Addresses": [address] })
}

fn apply(state: &mut MapState, now: Instant, message: &Value) -> Option<Update> {
    state.apply(serde_json::from_str(&message.to_string()).unwrap(), now).unwrap()
}

/// A state after a first map with these peers.
fn begun(now: Instant, peers: &[Value]) -> MapState {
    let prefixes = vec!["100.64.0.0/10".parse().unwrap()];
    let mut state = MapState::new(MapSettings { prefixes, require_policy: false }, public(1), None);
    apply(&mut state, now, &json!({ "Node": node(1), "Peers": peers })).unwrap();
    state
}

fn rules(ports: &[u16]) -> Value {
    let ports: Vec<Value> = ports
        .iter()
        .map(|port| json!({ "IP": "100.64.0.1", "Ports": { "First": port, "Last": port } }))
        .collect();
    json!([{ "SrcIPs": ["100.64.0.2"], "DstPorts": ports }])
}

#[test]
fn one_filter_that_does_not_read_denies_and_a_revocation_beside_it_is_told() {
    let now = Instant::now();
    let mut state = begun(now, &[node(2)]);
    apply(&mut state, now, &json!({ "PacketFilters": { "b": rules(&[1, 2]) } })).unwrap();
    let update = apply(&mut state, now, &json!({ "PacketFilters": { "a": 7 } })).unwrap();
    assert_eq!((update.policy, update.map.filter.rules()), (PolicyState::Unreadable, 0));
    // Nothing of a set that denies changes what is in force.
    assert!(apply(&mut state, now, &json!({ "PacketFilters": { "b": rules(&[1]) } })).is_none());
    let update = apply(&mut state, now, &json!({ "PacketFilters": { "a": null } })).unwrap();
    assert!(update.changes.filter);
    assert_eq!((update.policy, update.map.filter.rules()), (PolicyState::Policy, 1));
    let mut only = begun(now, &[node(2)]);
    let only = apply(&mut only, now, &json!({ "PacketFilters": { "b": rules(&[1]) } })).unwrap();
    assert_eq!(update.map.filter, only.map.filter, "what was revoked meanwhile stays revoked");
}

fn wall(text: &str) -> OffsetDateTime {
    convert::time(text).unwrap()
}

#[test]
fn the_end_of_an_earlier_node_key_says_nothing_of_the_one_that_was_admitted() {
    let now = Instant::now();
    for admitted in [false, true] {
        let mut own = node(1);
        own["KeyExpiry"] = "2029-01-01T00:00:00Z".into();
        let mut ended = node(2);
        ended["KeyExpiry"] = "2029-01-01T00:00:00Z".into();
        let mut state = begun(now, &[]);
        let kept = apply(&mut state, now, &json!({ "Node": own, "PeersChanged": [ended] })).unwrap().map;
        let mut state = MapState::new(state.settings, public(1), Some(kept));
        if admitted {
            state.set_own(public(9));
        }
        let update = state.expire(now, wall("2030-01-01T00:00:00Z")).unwrap();
        assert_eq!((update.changes.node, update.map.node.expired), (!admitted, !admitted));
        assert_eq!(update.changes.changed, [public(2)], "a peer's end is its own");
    }
}

#[test]
fn a_later_end_revives_a_peer_also_where_no_server_has_said_the_time() {
    let now = Instant::now();
    let patch = |expiry: &str| json!({ "PeersChangedPatch": [{ "NodeID": 2, "KeyExpiry": expiry }] });
    let mut ending = node(2);
    ending["KeyExpiry"] = "2029-01-01T00:00:00Z".into();
    let mut state = begun(now, &[ending]);
    state.expire(now, wall("2029-06-01T00:00:00Z")).unwrap();
    let expired = |state: &MapState| state.current().unwrap().peers[&NodeId(2)].expired;
    assert!(expired(&state));
    apply(&mut state, now, &patch("2029-01-01T00:00:00Z"));
    assert!(expired(&state), "the same end is no new one");
    let update = apply(&mut state, now, &patch("2030-01-01T00:00:00Z")).unwrap();
    assert_eq!(update.changes.changed, [public(2)]);
    let peer = &update.map.peers[&NodeId(2)];
    assert!(!peer.expired && peer.allowed == ["100.64.0.2/32".parse().unwrap()]);
    assert!(state.expire(now, wall("2030-06-01T00:00:00Z")).is_some(), "and that one is an end as well");
}

#[test]
fn no_number_of_messages_floods_the_log() {
    let start = Instant::now();
    let mut state = begun(start, &[]);
    state.begin_stream(public(1));
    // Nothing needs a first map, or more than two bytes, to be told of.
    for n in 0..5000 {
        assert!(apply(&mut state, start + Duration::from_millis(n), &json!({})).is_none());
    }
    assert_eq!((state.drops().of(DropReason::BeforeFirst), state.drops.line()), (5000, None));
    state.drops.begin_message(start + Duration::from_secs(15));
    assert_eq!(state.drops.line(), Some(5000 - 8 + 1), "all but the first eight");
    // Nor do filters, each of which is another.
    let mut state = begun(start, &[]);
    for n in 0..1000 {
        let bad =
            json!({ "PacketFilters": { "x": [{ "SrcIPs": [format!("nobody {n}")], "DstPorts": [] }] } });
        apply(&mut state, start + Duration::from_millis(n), &bad);
    }
    assert_eq!((state.policy.state(), state.drops.line()), (PolicyState::Unreadable, None));
    state.drops.begin_message(start + Duration::from_secs(15));
    assert_eq!(state.drops.line(), Some(1000 - 8 + 1));
}
