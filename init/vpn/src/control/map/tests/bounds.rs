//! What may not be had, and how much of what may.

use super::*;

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
    // A list of which nothing reads replaces all the same.
    let changes = apply(&mut state, json!({ "Peers": [null, { "Key": 7 }] })).unwrap().changes;
    assert_eq!((changes.removed, ids(&state).len()), (vec![public(3), public(6)], 0));

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
