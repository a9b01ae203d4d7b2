//! What a server can do with maps that it should not.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on may panic")]

use std::time::Duration;

use serde_json::{Value, json};

use super::*;

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
