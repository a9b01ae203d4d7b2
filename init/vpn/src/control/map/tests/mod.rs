#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on may panic")]

mod bounds;
mod expiry;
mod hostile;
mod policy;

use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::netmap::{NodeId, RegionId};

const VERSIONS: [&str; 3] = ["0.26.1", "0.28.0", "0.29.2"];

fn recorded(version: &str, name: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/headscale").join(version);
    serde_json::from_slice(&std::fs::read(folder.join(format!("{name}.json"))).unwrap()).unwrap()
}

fn settings(require_policy: bool) -> MapSettings {
    MapSettings {
        prefixes: vec!["100.64.0.0/10".parse().unwrap(), "fd7a:115c:a1e0::/48".parse().unwrap()],
        require_policy,
    }
}

fn key(n: u8) -> String {
    Public::<Node>::new([n; 32]).to_string()
}

fn public(n: u8) -> Public<Node> {
    Public::new([n; 32])
}

/// A node as Headscale writes it, without what may be absent.
fn node(id: u8, addresses: &[&str]) -> Value {
    json!({ "ID": id, "Name": format!("N{id}.t.internal."), "Key": key(id), "Addresses": addresses })
}

fn peer(id: u8) -> Value {
    let v4 = format!("100.64.0.{id}/32");
    node(id, &[&v4])
}

fn state() -> MapState {
    MapState::new(settings(false), public(1), None)
}

fn try_apply(state: &mut MapState, message: &Value) -> Result<Option<Update>, MapError> {
    state.apply(serde_json::from_str(&message.to_string()).unwrap(), Instant::now())
}

/// Ends keys of a state that no server has told the time.
fn expire(state: &mut MapState, wall: &str) -> Option<Update> {
    state.expire(Instant::now(), convert::time(wall).unwrap())
}

fn apply(state: &mut MapState, message: Value) -> Option<Update> {
    try_apply(state, &message).unwrap()
}

/// A state after a first map with these peers.
fn begun(peers: &[Value]) -> MapState {
    let mut state = state();
    apply(&mut state, json!({ "Node": peer(1), "Peers": peers })).unwrap();
    state
}

fn ids(state: &MapState) -> Vec<u64> {
    state.current().unwrap().peers.keys().map(|id| id.0).collect()
}

fn addresses(state: &MapState, id: u64) -> Vec<String> {
    state.current().unwrap().peers[&NodeId(id)].addresses.iter().map(ToString::to_string).collect()
}

fn own_key(message: &Value) -> Public<Node> {
    message["Node"]["Key"].as_str().unwrap().parse().unwrap()
}

/// Plays recorded messages from the first map on.
fn replay(version: &str, names: &[&str], require_policy: bool) -> (MapState, Vec<Option<Update>>) {
    let mut state = MapState::new(settings(require_policy), own_key(&recorded(version, names[0])), None);
    let updates = names.iter().map(|name| apply(&mut state, recorded(version, name))).collect();
    (state, updates)
}

#[test]
fn every_recorded_message_reads() {
    for version in VERSIONS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/headscale").join(version);
        let mut seen = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.starts_with("map-") && !name.contains("request") {
                let message = recorded(version, name.strip_suffix(".json").unwrap());
                let read: MapResponse = serde_json::from_str(&message.to_string()).unwrap();
                assert_eq!(read.node.is_some(), message.get("Node").is_some(), "{version} {name}");
                seen += 1;
            }
        }
        assert!(seen > 15, "{version}");
    }
}

#[test]
fn the_first_map_of_each_version_is_ourselves_alone_under_no_policy() {
    for version in VERSIONS {
        let (state, updates) = replay(version, &["map-first-0", "map-first-1"], false);
        let update = updates[0].as_ref().unwrap();
        assert!(update.changes.node && update.changes.filter && update.changes.derp && update.changes.dns);
        assert_eq!(update.policy, PolicyState::AllowAll);
        let map = state.current().unwrap();
        assert_eq!(map.node.name, "node-1.t.internal");
        assert_eq!(map.node.addresses.len(), 2);
        assert_eq!((map.node.key_expiry, map.node.expired), (None, false), "the zero time is never");
        assert!(map.peers.is_empty());
        let relay = &map.derp.regions[&RegionId(999)].nodes[0];
        assert_eq!((relay.derp_port, relay.stun_port), (8080, Some(3478)));
        assert!(map.dns.magic && map.dns.domains == ["t.internal"]);

        let (state, updates) = replay(version, &["map-first-0"], true);
        assert_eq!(updates[0].as_ref().unwrap().policy, PolicyState::AllowAllRefused);
        assert!(state.current().unwrap().filters.is_empty(), "nothing that a restart could compile");
    }
}

#[test]
fn peers_join_change_and_leave_in_each_version() {
    for version in VERSIONS {
        let joined = if version == "0.26.1" { "map-delta-peer-joined-0" } else { "map-delta-peer-joined-1" };
        let names = ["map-first-0", joined, "map-delta-endpoints-0", "map-delta-disco-0", "map-delta-derp-0"];
        let (mut state, updates) = replay(version, &names, false);
        let peer = &state.current().unwrap().peers[&NodeId(2)];
        assert_eq!(peer.home, Some(RegionId(998)), "{version}");
        assert!(peer.disco.is_some() && !peer.endpoints.is_empty());
        for update in &updates[1..] {
            let changes = &update.as_ref().unwrap().changes;
            assert_eq!(
                (changes.changed.as_slice(), changes.removed.len()),
                (&[peer.key][..], 0),
                "{version}"
            );
            assert!(!changes.filter && !changes.derp && !changes.dns, "{version}: told again, unchanged");
        }
        let gone = peer.key;
        apply(&mut state, recorded(version, "map-policy-set-0"));
        assert!(!ids(&state).contains(&4), "{version}");
        let name = if version == "0.26.1" { "map-peer-deleted-1" } else { "map-peer-deleted-0" };
        let update = apply(&mut state, recorded(version, name)).unwrap();
        assert!(update.changes.removed.contains(&gone), "{version}");
        assert!(!ids(&state).contains(&2), "{version}");
        assert_eq!(update.policy, PolicyState::Policy);
    }
}

#[test]
fn the_last_right_revoked_denies_in_each_version() {
    for (version, name) in
        [("0.26.1", "map-node2-later-05"), ("0.28.0", "map-node2-later-12"), ("0.29.2", "map-node2-later-12")]
    {
        let (state, updates) = replay(version, &["map-zstd-0", name], true);
        let update = updates[1].as_ref().unwrap();
        assert_eq!((update.policy, update.changes.filter), (PolicyState::Policy, true), "{version}");
        assert_eq!(state.current().unwrap().filters["base"].get(), "[]");
    }
}

#[test]
fn our_own_end_is_seen_in_each_version() {
    for version in VERSIONS {
        let (state, updates) = replay(version, &["map-zstd-0", "map-zstd-1", "map-self-expired-0"], false);
        assert!(state.current().unwrap().node.expired, "{version}");
        assert!(updates[2].as_ref().unwrap().changes.node);
    }
}

#[test]
fn real_tailscaled_peers_and_pinned_relays_read() {
    let (state, _) = replay("0.29.2", &["map-with-two-tailscaled-1.102.5-peers"], false);
    let peer = &state.current().unwrap().peers[&NodeId(1)];
    assert_eq!((peer.endpoints.len(), peer.tags.as_slice()), (2, &["tag:internal-only".to_owned()][..]));
    assert_eq!(state.drops(), &MapDrops::default());

    let (state, _) = replay("0.29.2", &["map-derp-paths-null-region"], false);
    let map = state.current().unwrap();
    assert!(map.derp.regions.values().flat_map(|region| &region.nodes).any(|node| node.pin.is_some()));
    assert_eq!(map.dns.extra_records[1].name, "evil.example.com", "judged where it is used, not here");
    assert_eq!(map.dns.routes["corp.example"], ["192.0.2.54"]);
}

#[test]
fn until_a_streams_first_map_the_old_one_stays_and_then_it_is_replaced_whole() {
    let mut state = begun(&[peer(2), peer(3)]);
    let rule = json!([{ "SrcIPs": ["100.64.0.2"], "DstPorts": [{ "IP": "*", "Ports": { "First": 1, "Last": 2 } }] }]);
    apply(
        &mut state,
        json!({ "PacketFilters": { "base": rule }, "DERPMap": { "Regions": { "7": { "Nodes": [] } } } }),
    );
    state.begin_stream(public(1));
    for early in [
        json!({ "KeepAlive": true }),
        json!({ "PeersRemoved": [2] }),
        json!({ "PacketFilters": { "*": null } }),
        json!({}),
    ] {
        assert!(apply(&mut state, early).is_none());
    }
    assert_eq!(ids(&state), [2, 3]);
    assert_eq!(state.current().unwrap().filters.len(), 1);
    let changes = apply(&mut state, json!({ "Node": peer(1), "Peers": [peer(3)] })).unwrap().changes;
    assert_eq!((changes.removed, changes.changed), (vec![public(2)], vec![]), "peer 3 did not change");
    assert!(changes.filter && changes.derp && !changes.node);
    assert!(state.current().unwrap().filters.is_empty());
    assert_eq!(ids(&state), [3]);
    // Absent peers are none.
    state.begin_stream(public(1));
    let changes = apply(&mut state, json!({ "Node": peer(1) })).unwrap().changes;
    assert_eq!(changes.removed, [public(3)]);
    // The same again is a map, and no change.
    state.begin_stream(public(1));
    assert!(apply(&mut state, json!({ "Node": peer(1) })).unwrap().changes.is_empty());
}

#[test]
fn deltas_do_what_the_protocol_says() {
    let mut state = begun(&[peer(2), peer(3), peer(4)]);
    assert!(apply(&mut state, json!({ "Peers": [] })).is_none(), "an empty list is no change");
    assert!(apply(&mut state, json!({ "Peers": null, "PeersRemoved": null, "PeersChanged": null, "Node": null, "OnlineChange": null, "PeersChangedPatch": null, "PeerSeenChange": null, "DERPMap": null, "DNSConfig": null, "Unknown": {"x": [1]} })).is_none());
    apply(&mut state, json!({ "PeersRemoved": [3, 99] }));
    assert_eq!(ids(&state), [2, 4]);
    apply(&mut state, json!({ "PeersChanged": [peer(5)], "PeersRemoved": [2] }));
    assert_eq!(ids(&state), [4, 5]);
    let update =
        apply(&mut state, json!({ "OnlineChange": { "4": false }, "PeerSeenChange": { "5": true } }))
            .unwrap();
    assert_eq!(update.changes.changed, [public(4)]);
    let disco = Public::<crate::key::Disco>::new([9; 32]).to_string();
    let patch = json!({ "NodeID": 5, "DERPRegion": 3, "Endpoints": ["192.0.2.1:1", "nonsense"], "DiscoKey": disco, "Online": true });
    apply(
        &mut state,
        json!({ "PeersChangedPatch": [patch, null, { "NodeID": 77 }, { "NodeID": 5, "DERPRegion": 0, "Endpoints": [] }] }),
    );
    let peer5 = state.current().unwrap().peers[&NodeId(5)].clone();
    assert_eq!((peer5.home, peer5.endpoints.len(), peer5.online), (Some(RegionId(3)), 1, Some(true)));
    assert_eq!(peer5.disco.unwrap().to_string(), disco);
    assert_eq!(state.drops().of(DropReason::UnknownPeer), 1);
    let update = apply(&mut state, json!({ "PeersChangedPatch": [{ "NodeID": 5, "Key": key(6) }] })).unwrap();
    assert_eq!((update.changes.removed, update.changes.changed), (vec![public(5)], vec![public(6)]));
    // A non-empty list replaces, and whatever else the message says of peers is not looked at.
    apply(&mut state, json!({ "Peers": [peer(8)], "PeersRemoved": [8], "PeersChanged": [peer(9)] }));
    assert_eq!(ids(&state), [8]);
}

#[test]
fn a_number_given_anew_and_a_key_that_moved_are_seen_by_their_keys() {
    let mut state = begun(&[peer(2), peer(3)]);
    // Number 2 is another node's now.
    let mut other = peer(2);
    other["Key"] = key(20).into();
    let changes = apply(&mut state, json!({ "PeersChanged": [other] })).unwrap().changes;
    assert_eq!((changes.removed, changes.changed), (vec![public(2)], vec![public(20)]));
    // Key 3 has number 30 now.
    let mut moved = peer(30);
    moved["Key"] = key(3).into();
    let changes = apply(&mut state, json!({ "PeersChanged": [moved] })).unwrap().changes;
    assert_eq!((changes.removed, changes.changed), (vec![], vec![public(3)]));
    assert_eq!(ids(&state), [2, 30]);
}

#[test]
fn an_address_is_whose_message_came_last() {
    let mut state = begun(&[node(2, &["100.64.0.2/32", "100.64.0.22/32"]), peer(3)]);
    let changes =
        apply(&mut state, json!({ "PeersChanged": [node(4, &["100.64.0.2/32"])] })).unwrap().changes;
    assert_eq!(changes.changed, [public(2), public(4)]);
    assert_eq!(
        (addresses(&state, 2), addresses(&state, 4)),
        (vec!["100.64.0.22/32".into()], vec!["100.64.0.2/32".into()])
    );
    // Its last address lost, a peer stays without any.
    apply(&mut state, json!({ "PeersChanged": [node(4, &["100.64.0.2/32", "100.64.0.22/32"])] }));
    assert!(addresses(&state, 2).is_empty() && state.current().unwrap().peers[&NodeId(2)].allowed.is_empty());
    // We take an address that a peer holds.
    apply(&mut state, json!({ "Node": node(1, &["100.64.0.3/32"]) }));
    assert!(addresses(&state, 3).is_empty());
    assert_eq!(state.drops().of(DropReason::AddressMoved), 2);
    // Nobody holds an address twice, whatever happened.
    let map = state.current().unwrap();
    let mut all: Vec<_> = map.peers.values().flat_map(|peer| peer.addresses.clone()).collect();
    all.extend(map.node.addresses.clone());
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count);
}

#[test]
fn a_map_that_is_not_ours_is_refused_and_the_old_one_stays() {
    let mut state = begun(&[peer(2)]);
    let mut other = peer(1);
    other["Key"] = key(99).into();
    assert!(matches!(try_apply(&mut state, &json!({ "Node": other })), Err(MapError::AnotherNode(_))));
    for none in [node(1, &[]), node(1, &["10.0.0.1/32"]), node(1, &["100.64.0.0/24"])] {
        assert!(matches!(
            try_apply(&mut state, &json!({ "Node": none, "Peers": [peer(3)] })),
            Err(MapError::NoAddress)
        ));
    }
    assert_eq!(ids(&state), [2]);
    // Ours in part is ours.
    apply(&mut state, json!({ "Node": node(1, &["10.0.0.1/32", "fd7a:115c:a1e0::1/128"]) }));
    assert_eq!(state.current().unwrap().node.allowed, ["fd7a:115c:a1e0::1/128".parse().unwrap()]);
}

#[test]
fn relays_are_read_with_their_defaults_and_a_bad_pin_is_no_relay() {
    let pin = "ab".repeat(32);
    let map = json!({ "Regions": {
        "1": null,
        "2": { "RegionCode": "x", "Avoid": true, "Nodes": [
            { "HostName": "a", "IPv4": "none", "STUNPort": -1 },
            { "HostName": "b", "IPv4": "192.0.2.1", "IPv6": "2001:db8::1", "DERPPort": 8443, "STUNPort": 1, "CertName": format!("sha256-raw:{pin}") },
            { "HostName": "c", "CertName": "sha256-raw:00" },
            { "HostName": "d", "DERPPort": 70000 },
            { "HostName": "e", "CertName": "other.example", "InsecureForTests": true },
            null ] },
        "3": { "Nodes": null } }, "HomeParams": { "RegionScore": { "2": 0.5 } } });
    let mut state = begun(&[]);
    apply(&mut state, json!({ "DERPMap": map }));
    let derp = &state.current().unwrap().derp;
    assert_eq!(derp.regions.keys().map(|id| id.0).collect::<Vec<_>>(), [2, 3]);
    let region = &derp.regions[&RegionId(2)];
    assert_eq!(
        (region.not_home, region.score_milli, derp.regions[&RegionId(3)].score_milli),
        (true, 500, 1000)
    );
    let hosts: Vec<_> = region.nodes.iter().map(|node| node.host.as_str()).collect();
    assert_eq!(hosts, ["a", "b", "e"]);
    assert_eq!(
        (region.nodes[0].derp_port, region.nodes[0].stun_port, region.nodes[0].ipv4),
        (443, None, None)
    );
    let without: Vec<_> = region.nodes.iter().map(|node| (node.without_ipv4, node.without_ipv6)).collect();
    assert_eq!(without, [(true, false), (false, false), (false, false)], "not given is not denied");
    assert_eq!((region.nodes[1].pin, region.nodes[1].stun_port), (Some([0xab; 32]), Some(1)));
    assert_eq!((region.nodes[2].pin, region.nodes[2].cert_name.as_deref()), (None, Some("other.example")));
    assert_eq!(state.drops().of(DropReason::BadRelay), 2);
}

#[test]
fn a_kept_map_is_what_the_first_one_is_compared_with() {
    let kept = Arc::clone(begun(&[peer(2), peer(3)]).current().unwrap());
    let mut state = MapState::new(settings(false), public(1), Some(kept));
    assert!(expire(&mut state, "2040-01-01T00:00:00Z").is_none(), "keys without an end");
    let changes = apply(&mut state, json!({ "Node": peer(1), "Peers": [peer(2), peer(4)] })).unwrap().changes;
    assert_eq!((changes.removed, changes.changed, changes.node), (vec![public(3)], vec![public(4)], false));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    /// Whatever a server sends of few peers with few keys and few addresses: keys and addresses have one holder each, none of them
    /// ours, and the changes lead from each map to the next.
    #[test]
    fn keys_and_addresses_have_one_holder(steps in proptest::collection::vec((0u8..5, 2u8..7, 1u8..7, 1u8..7, proptest::prelude::any::<bool>()), 1..40)) {
        let mut state = begun(&[]);
        let mut known: std::collections::BTreeMap<Public<Node>, Arc<TailnetNode>> = std::collections::BTreeMap::new();
        for (kind, id, k, address, expired) in steps {
            let mut node = node(id, &[&format!("100.64.0.{address}/32")]);
            node["Key"] = key(k).into();
            node["Expired"] = expired.into();
            let update = apply(&mut state, match kind {
                0 => json!({ "Peers": [node, peer(k.max(2))] }),
                1 => json!({ "PeersRemoved": [id] }),
                2 => json!({ "PeersChangedPatch": [{ "NodeID": id, "Key": key(k), "KeyExpiry": if expired { "2020-01-01T00:00:00Z" } else { "0001-01-01T00:00:00Z" } }], "ControlTime": "2026-01-01T00:00:00Z" }),
                _ => json!({ "PeersChanged": [node] }),
            });
            let map = state.current().unwrap();
            let keys: BTreeSet<_> = map.peers.values().map(|peer| peer.key).collect();
            assert_eq!(keys.len(), map.peers.len());
            assert!(!keys.contains(&public(1)));
            let held: Vec<_> = map.peers.values().flat_map(|peer| peer.addresses.iter()).chain(&map.node.addresses).collect();
            let holders: BTreeSet<_> = held.iter().collect();
            assert_eq!(holders.len(), held.len());
            if let Some(update) = update {
                for key in update.changes.removed {
                    known.remove(&key);
                }
                for key in update.changes.changed {
                    let peer = map.peers.values().find(|peer| peer.key == key).unwrap();
                    known.insert(key, Arc::clone(peer));
                }
            }
            let now: std::collections::BTreeMap<_, _> = map.peers.values().map(|peer| (peer.key, Arc::clone(peer))).collect();
            assert_eq!(known, now);
        }
    }
}
