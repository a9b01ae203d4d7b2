#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on may panic")]

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
fn a_peer_whose_key_ended_holds_nothing() {
    for patched in [false, true] {
        let mut state = begun(&[peer(2), peer(3)]);
        let update = if patched {
            json!({ "PeersChangedPatch": [{ "NodeID": 2, "KeyExpiry": "2026-11-22T00:10:49.5Z" }], "ControlTime": "2026-11-22T00:10:52Z" })
        } else {
            let mut peer = peer(2);
            peer["Expired"] = true.into();
            json!({ "PeersChanged": [peer] })
        };
        assert_eq!(apply(&mut state, update).unwrap().changes.changed, [public(2)]);
        assert!(addresses(&state, 2).is_empty());
        let expired = state.current().unwrap().peers[&NodeId(2)].clone();
        assert!(expired.expired && expired.allowed.is_empty());
        // It lives again.
        let later = json!({ "PeersChangedPatch": [{ "NodeID": 2, "KeyExpiry": "0001-01-01T00:00:00Z" }] });
        apply(&mut state, later).unwrap();
        assert_eq!(addresses(&state, 2), ["100.64.0.2/32"]);
    }
    // What it held may be another's by then.
    let mut state = begun(&[peer(2), peer(3)]);
    let mut ended = peer(2);
    ended["Expired"] = true.into();
    apply(&mut state, json!({ "PeersChanged": [ended, node(3, &["100.64.0.2/32"])] }));
    apply(&mut state, json!({ "PeersChangedPatch": [{ "NodeID": 2, "KeyExpiry": "0001-01-01T00:00:00Z" }] }));
    assert!(addresses(&state, 2).is_empty());
    assert_eq!(addresses(&state, 3), ["100.64.0.2/32"]);
    // A clock carried on ends keys without a message.
    let mut state = begun(&[]);
    let mut soon = peer(2);
    soon["KeyExpiry"] = "2030-01-01T00:00:00Z".into();
    apply(&mut state, json!({ "PeersChanged": [soon] }));
    assert!(expire(&mut state, "2029-01-01T00:00:00Z").is_none());
    assert_eq!(expire(&mut state, "2030-01-01T00:00:00Z").unwrap().changes.changed, [public(2)]);
    assert!(addresses(&state, 2).is_empty());
}

#[test]
fn the_servers_clock_runs_on_from_when_it_was_said() {
    let start = Instant::now();
    let at = |seconds| start + std::time::Duration::from_secs(seconds);
    let mut state = state();
    let mut soon = peer(2);
    soon["KeyExpiry"] = "2026-01-01T00:01:00Z".into();
    let apply_at = |state: &mut MapState, message: Value, seconds| {
        state.apply(serde_json::from_str(&message.to_string()).unwrap(), at(seconds)).unwrap()
    };
    let first = json!({ "Node": peer(1), "Peers": [soon], "ControlTime": "2026-01-01T00:00:00Z" });
    apply_at(&mut state, first, 0).unwrap();
    // A message that does not say the time does not stop it, and what our own clock says does not count.
    apply_at(&mut state, json!({ "PeersChanged": [peer(3)] }), 50).unwrap();
    let wrong = convert::time("2040-01-01T00:00:00Z").unwrap();
    assert!(state.expire(at(59), wrong).is_none());
    assert_eq!(state.expire(at(60), wrong).unwrap().changes.changed, [public(2)]);
    assert!(addresses(&state, 2).is_empty());
    // Also what a message says later is judged by it.
    let mut late = peer(4);
    late["KeyExpiry"] = "2026-01-01T00:02:00Z".into();
    apply_at(&mut state, json!({ "PeersChanged": [late] }), 130).unwrap();
    assert!(state.current().unwrap().peers[&NodeId(4)].expired);
    // A keep-alive may say the time.
    apply_at(
        &mut state,
        json!({ "PeersChanged": [{ "ID": 5, "Key": key(5), "Addresses": ["100.64.0.5/32"], "KeyExpiry": "2027-01-01T00:00:00Z" }] }),
        131,
    );
    assert!(
        apply_at(&mut state, json!({ "KeepAlive": true, "ControlTime": "2027-01-01T00:00:00Z" }), 132)
            .is_none()
    );
    assert_eq!(state.expire(at(132), wrong).unwrap().changes.changed, [public(5)]);
}

#[test]
fn keys_end_in_a_kept_map_and_between_streams_and_our_own_too() {
    let mut own = peer(1);
    own["KeyExpiry"] = "2030-01-01T00:00:00Z".into();
    let mut soon = peer(2);
    soon["KeyExpiry"] = "2029-01-01T00:00:00Z".into();
    let mut state = state();
    apply(&mut state, json!({ "Node": own, "Peers": [soon, peer(3)] })).unwrap();
    let kept = Arc::clone(state.current().unwrap());
    for mut state in [MapState::new(settings(false), public(1), Some(kept)), {
        state.begin_stream(public(1));
        state
    }] {
        assert!(expire(&mut state, "2028-01-01T00:00:00Z").is_none());
        let update = expire(&mut state, "2029-01-01T00:00:00Z").unwrap();
        assert_eq!((update.changes.changed, update.changes.node), (vec![public(2)], false));
        assert!(
            addresses(&state, 2).is_empty() && state.current().unwrap().peers[&NodeId(2)].allowed.is_empty()
        );
        assert_eq!(addresses(&state, 3), ["100.64.0.3/32"]);
        let update = expire(&mut state, "2030-01-01T00:00:00Z").unwrap();
        assert!(update.changes.node && update.map.node.expired && update.changes.changed.is_empty());
        assert!(expire(&mut state, "2031-01-01T00:00:00Z").is_none(), "once");
        // The server's word undoes it, and who follows the changes hears of it.
        let update = apply(&mut state, json!({ "Node": peer(1), "Peers": [peer(2), peer(3)] })).unwrap();
        assert_eq!((update.changes.changed, update.changes.node), (vec![public(2)], true));
        assert!(!update.map.node.expired);
    }
}

#[test]
fn what_does_not_read_costs_only_itself() {
    let mut bad = peer(4);
    bad["Endpoints"] = json!({ "not": "a list" });
    let mut half = peer(5);
    half["Addresses"] = json!([null, "100.64.0.5/32", 7]);
    let state = begun(&[peer(2), Value::Null, json!(7), bad.clone(), half, json!({ "Key": 7 }), peer(3)]);
    assert_eq!(ids(&state), [2, 3, 5]);
    assert_eq!(addresses(&state, 5), ["100.64.0.5/32"]);
    assert_eq!(state.drops().of(DropReason::Unreadable), 6);

    // One that had the number is not what it was.
    let mut state = begun(&[peer(2), peer(3), peer(4)]);
    let update = json!({ "PeersChanged": [null, bad, peer(6)], "PeersRemoved": [2, null, "x"],
        "PeersChangedPatch": [null, { "NodeID": "x" }, { "NodeID": 3, "Online": true }], "OnlineChange": { "x": true, "6": true, "3": 1 } });
    let changes = apply(&mut state, update).unwrap().changes;
    assert_eq!(ids(&state), [3, 6]);
    assert_eq!(changes.removed, [public(2), public(4)]);
    assert_eq!(state.current().unwrap().peers[&NodeId(6)].online, Some(true));

    let names = json!({ "Proxied": true, "Domains": ["t.internal", null], "Resolvers": [null, 7, { "Addr": "192.0.2.53" }],
        "Routes": { "a.": [null, { "Addr": "192.0.2.54" }], "b.": 7, "c.": null }, "ExtraRecords": [null, 7, { "Name": "x.t.internal", "Value": "100.64.0.9" }] });
    let relays = json!({ "Regions": { "x": {}, "1": 7, "2": { "Nodes": [null, 7, { "HostName": "a" }] } }, "HomeParams": { "RegionScore": { "2": "x" } } });
    let mut state = begun(&[]);
    let map = apply(&mut state, json!({ "DNSConfig": names, "DERPMap": relays })).unwrap().map;
    assert_eq!((map.dns.domains.len(), map.dns.resolvers.len(), map.dns.extra_records.len()), (1, 1, 1));
    assert_eq!(map.dns.routes.keys().collect::<Vec<_>>(), ["a", "c"]);
    assert_eq!(map.dns.routes["a"], ["192.0.2.54"]);
    assert_eq!(map.derp.regions.len(), 1);
    assert_eq!(map.derp.regions[&RegionId(2)].nodes.len(), 1);
    assert_eq!(state.drops().of(DropReason::Unreadable), 7 + 4);
}

#[test]
fn the_lists_of_one_peer_have_bounds() {
    let mut greedy = peer(2);
    greedy["Tags"] = (0..100).map(|n| format!("tag:{n}")).collect();
    greedy["Endpoints"] = (0..1000).map(|n| format!("192.0.2.1:{n}")).collect();
    greedy["Addresses"] = (0..100).map(|n| format!("100.64.1.{n}/32")).collect();
    let mut tagged = peer(3);
    let longest = format!("tag:{}", "x".repeat(63));
    tagged["Tags"] = json!([longest, format!("{longest}x"), "tag:a"]);
    let state = begun(&[greedy, tagged]);
    let peers = &state.current().unwrap().peers;
    let greedy = &peers[&NodeId(2)];
    assert_eq!((greedy.tags.len(), greedy.endpoints.len(), greedy.addresses.len()), (16, 64, 16));
    assert_eq!(peers[&NodeId(3)].tags, [longest, "tag:a".to_owned()]);
    assert_eq!(state.drops().of(DropReason::TooMany), 1);
}

#[test]
fn peers_take_no_more_memory_than_they_may() {
    let mut state = begun(&[]);
    let endpoints: Vec<String> = (0..64).map(|n| format!("192.0.2.1:{n}")).collect();
    let tags: Vec<String> = (0..16).map(|n| format!("tag:{n:063}")).collect();
    let mut sent = 0u64;
    for _ in 0..5 {
        let peers: Vec<Value> = (sent..sent + 2000)
            .map(|n| {
                json!({ "ID": n + 2, "Key": format!("nodekey:{:064x}", n + 1000), "Addresses": [format!("100.{}.{}.{}/32", 65 + n / 65536, n / 256 % 256, n % 256)],
                    "Name": "x".repeat(250), "Endpoints": endpoints, "Tags": tags })
            })
            .collect();
        sent += 2000;
        apply(&mut state, json!({ "PeersChanged": peers }));
    }
    let held = state.current().unwrap().peers.len() as u64;
    // Some 4.9 kB each: 32 MiB are not quite 7,000.
    assert!((6000..8000).contains(&held), "{held}");
    assert_eq!(state.drops().of(DropReason::TooMany), sent - held);
    // What has no room for more may become less, and make room.
    apply(&mut state, json!({ "PeersRemoved": (2..1000).collect::<Vec<u64>>() })).unwrap();
    apply(&mut state, json!({ "PeersChanged": [peer(2)] })).unwrap();
    assert!(state.current().unwrap().peers.contains_key(&NodeId(2)));
    // Another stream counts from nothing.
    state.begin_stream(public(1));
    apply(&mut state, json!({ "Node": peer(1), "Peers": [peer(2)] })).unwrap();
    assert_eq!(ids(&state), [2]);
}

#[test]
fn a_list_of_nothing_makes_no_large_memory() {
    let many = "{},".repeat(crate::control::wire::MAX_PEERS + 10);
    let text = format!(r#"{{"Peers": [{many}{{}}], "PeersRemoved": [{}1]}}"#, "1,".repeat(60_000));
    let message: MapResponse = serde_json::from_str(&text).unwrap();
    let peers = message.peers.as_ref().unwrap();
    assert_eq!((peers.len(), peers.beyond), (crate::control::wire::MAX_PEERS, 11));
    let removed = message.peers_removed.as_ref().unwrap();
    assert_eq!((removed.len(), removed.beyond), (50_000, 10_001));
}

#[test]
fn the_recorded_patches_of_an_ended_peer_do_not_revive_it() {
    let mut state =
        MapState::new(settings(false), own_key(&recorded("0.29.2", "map-policy-two-way-b-0")), None);
    for name in 0..8 {
        apply(&mut state, recorded("0.29.2", &format!("map-policy-two-way-b-{name}")));
    }
    assert!(state.current().unwrap().peers[&NodeId(1)].expired);
    assert!(addresses(&state, 1).is_empty());
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
fn what_a_peer_may_not_have_is_dropped_and_counted() {
    let mut routed = peer(2);
    routed["AllowedIPs"] = json!(["100.64.0.2/32", "10.0.0.0/8", "0.0.0.0/0"]);
    let mut own = peer(3);
    own["Key"] = key(1).into();
    let mut doubled = peer(4);
    doubled["Key"] = key(2).into();
    let mut unreadable = peer(5);
    unreadable["Key"] = "nodekey:00".into();
    let mut zero = peer(6);
    zero["Key"] = key(0).into();
    let outside = node(7, &["192.168.0.7/32"]);
    let partly = node(8, &["8.8.8.8/32", "100.64.0.8/32", "nonsense", "100.64.1.0/24"]);
    let thief = node(9, &["100.64.0.1/32"]);
    let state = begun(&[routed, own, doubled, unreadable, zero, outside, partly, thief]);
    assert_eq!(ids(&state), [2, 8]);
    assert_eq!(state.current().unwrap().peers[&NodeId(2)].allowed, ["100.64.0.2/32".parse().unwrap()]);
    assert_eq!(addresses(&state, 8), ["100.64.0.8/32"]);
    let counted: Vec<(DropReason, u64)> = state.drops().iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(
        counted,
        [
            (DropReason::BadKey, 2),
            (DropReason::OwnKey, 1),
            (DropReason::DuplicateKey, 1),
            (DropReason::BadAddress, 1),
            (DropReason::NotAHost, 1),
            (DropReason::OutsidePrefixes, 2),
            (DropReason::OwnAddress, 1),
            (DropReason::NoAddress, 2),
            (DropReason::Route, 2),
        ]
    );
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
fn filters_are_named_replaced_deleted_and_deny_when_they_do_not_read() {
    let rule = |port: u16| json!([{ "SrcIPs": ["100.64.0.2"], "DstPorts": [{ "IP": "100.64.0.1", "Ports": { "First": port, "Last": port } }] }]);
    let names = |state: &MapState| state.current().unwrap().filters.keys().cloned().collect::<Vec<_>>();
    let mut state = begun(&[]);
    let changed = |state: &mut MapState, message: Value| {
        apply(state, message).is_some_and(|update| update.changes.filter)
    };
    assert!(changed(&mut state, json!({ "PacketFilter": rule(1) })));
    assert_eq!(names(&state), ["base"]);
    assert!(!changed(&mut state, json!({ "PacketFilter": null, "PacketFilters": null })));
    assert!(!changed(&mut state, json!({ "PacketFilters": { "base": rule(1) } })), "the same texts");
    assert!(changed(&mut state, json!({ "PacketFilters": { "b": rule(2), "a": [] } })));
    assert_eq!(names(&state), ["a", "b", "base"]);
    assert!(changed(&mut state, json!({ "PacketFilters": { "base": null, "a": null } })));
    assert_eq!(names(&state), ["b"]);
    assert!(changed(&mut state, json!({ "PacketFilters": { "*": null, "c": rule(3) } })));
    assert_eq!(names(&state), ["c"]);
    let update = apply(&mut state, json!({ "PacketFilters": [1, 2] })).unwrap();
    assert_eq!((update.policy, names(&state).len()), (PolicyState::Unreadable, 0));
    assert!(changed(&mut state, json!({ "PacketFilters": { "base": rule(4) } })));
    // One that is an object and holds what is no rules denies as well.
    let update = apply(&mut state, json!({ "PacketFilters": { "base": 7 } })).unwrap();
    assert_eq!((update.policy, update.map.filter.rules()), (PolicyState::Unreadable, 0));
    // From one way to deny to another is told too: status says which.
    assert!(changed(&mut state, json!({ "PacketFilters": { "base": [] } })));
    assert!(changed(&mut state, json!({ "PacketFilters": 1 })));
    assert!(changed(&mut state, json!({ "PacketFilters": {} })));
}

#[test]
fn filters_that_take_too_much_memory_deny() {
    // Each of them is small enough, and reads.
    let port = |n: u32| json!([{ "SrcIPs": ["100.64.0.2"], "DstPorts": [{ "IP": "*", "Ports": { "First": n, "Last": n } }], "Note": "x".repeat(500_000) }]);
    let mut state = begun(&[peer(2)]);
    let mut last = None;
    for n in 0..50 {
        let mut message = json!({ "PacketFilters": {} });
        message["PacketFilters"][format!("f{n}")] = port(n);
        last = apply(&mut state, message).or(last);
        if last.as_ref().unwrap().policy == PolicyState::Unreadable {
            assert_eq!(n, 8);
            break;
        }
    }
    let last = last.unwrap();
    assert_eq!(last.policy, PolicyState::Unreadable);
    assert_eq!((last.map.filter.rules(), last.map.filters.len()), (0, 0));
    // A set that reads counts from nothing.
    let update = apply(&mut state, json!({ "PacketFilters": { "base": port(1) } })).unwrap();
    assert_eq!((update.policy, update.map.filter.rules()), (PolicyState::Policy, 1));
    // More names than there are.
    let names: serde_json::Map<String, Value> = (0..300).map(|n| (format!("n{n}"), json!([]))).collect();
    assert_eq!(apply(&mut state, json!({ "PacketFilters": names })).unwrap().policy, PolicyState::Unreadable);
}

#[test]
fn a_server_without_a_policy_is_seen_wherever_its_rule_stands() {
    let all = json!({ "SrcIPs": ["*"], "DstPorts": [{ "IP": "*", "Ports": { "First": 0, "Last": 65535 } }] });
    let some = json!({ "SrcIPs": ["*"], "DstPorts": [{ "IP": "*", "Ports": { "First": 0, "Last": 1 } }] });
    let strange = json!({ "SrcIPs": 7 });
    for (rules, expected) in [
        (json!([all]), PolicyState::AllowAllRefused),
        // What does not read denies as a whole, so it lets nobody in either.
        (json!([strange, all]), PolicyState::Unreadable),
        // However it is spelled: a field left out is zero, and every address may be written in two ways.
        (
            json!([{ "SrcIPs": ["*"], "DstPorts": [{ "IP": "*", "Ports": { "Last": 65535 } }] }]),
            PolicyState::AllowAllRefused,
        ),
        (
            json!([{ "SrcIPs": ["0.0.0.0/0", "::/0"], "DstPorts": [{ "IP": "*", "Ports": { "First": 0, "Last": 65535 } }], "IPProto": [1, 6, 17, 58] }]),
            PolicyState::AllowAllRefused,
        ),
        (json!([some]), PolicyState::Policy),
        (json!([]), PolicyState::Policy),
    ] {
        for message in [json!({ "PacketFilter": rules }), json!({ "PacketFilters": { "x": rules } })] {
            let mut state = MapState::new(settings(true), public(1), None);
            apply(&mut state, json!({ "Node": peer(1) }));
            let policy = apply(&mut state, message).map(|update| update.policy);
            assert_eq!(state.policy.state(), expected, "{rules}");
            assert!(policy.is_none_or(|policy| policy == expected));
        }
    }
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
