#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use serde_json::{Value, json};

use super::*;
use crate::netmap::{DerpMap, DnsConfig, NodeId, TailnetNode};

fn prefixes() -> Vec<IpNet> {
    vec!["100.64.0.0/10".parse().unwrap(), "fd7a:115c:a1e0::/48".parse().unwrap()]
}

fn node(id: u64, key: Public<Node>, address: &str) -> TailnetNode {
    let addresses: Vec<IpNet> = vec![address.parse().unwrap()];
    TailnetNode {
        id: NodeId(id),
        key,
        disco: None,
        name: format!("n{id}.t.internal"),
        allowed: addresses.clone(),
        addresses,
        endpoints: vec!["192.0.2.1:41641".parse().unwrap()],
        home: Some(RegionId(999)),
        online: Some(true),
        tags: vec!["tag:internal-only".to_owned()],
        key_expiry: None,
        expired: false,
    }
}

fn kept() -> Kept {
    let secret = Secret::<Node>::generate().unwrap();
    let peer = Secret::<Node>::generate().unwrap().public();
    let filters: crate::netmap::NamedFilters = [(
        "base".to_owned(),
        serde_json::from_str(
            r#"[{"SrcIPs":["*"],"DstPorts":[{"IP":"*","Ports":{"First":0,"Last":65535}}]}]"#,
        )
        .unwrap(),
    )]
    .into();
    Kept {
        machine: Secret::generate().unwrap(),
        disco: Secret::generate().unwrap(),
        server: Some(Secret::generate().unwrap().public()),
        login: Some(Login {
            registered_at: "https://vpc.example/api/register".to_owned(),
            url: "https://hs.example".to_owned(),
            noise_key: Secret::generate().unwrap().public(),
        }),
        refused: vec![Refused { digest: [3; 32], text: "authkey already used".to_owned() }],
        stamp: 1_800_000_000_000_000_000,
        home: Some(RegionId(999)),
        paths: [(peer, "192.0.2.7:41641".parse().unwrap())].into(),
        map: Some(Netmap {
            node: Arc::new(node(1, secret.public(), "100.64.0.1/32")),
            peers: Arc::new([(NodeId(2), Arc::new(node(2, peer, "100.64.0.2/32")))].into()),
            derp: Arc::new(DerpMap::default()),
            dns: Arc::new(DnsConfig::default()),
            filter: compile(&filters),
            filters: Arc::new(filters),
        }),
        node: NodeKey { generation: 4, secret },
        next: Some(NodeKey { generation: 5, secret: Secret::generate().unwrap() }),
    }
}

#[test]
fn what_is_kept_is_read_as_it_was() {
    let kept = kept();
    let bytes = kept.encode().unwrap();
    let back = Kept::decode(&bytes, &prefixes()).unwrap();
    assert_eq!(*back.encode().unwrap(), *bytes);
    assert_eq!((back.node.generation, back.stamp), (4, kept.stamp));
    assert_eq!(back.node.secret.public(), kept.node.secret.public());
    let (next, was) = (back.next.unwrap(), kept.next.unwrap());
    assert_eq!((next.generation, next.secret.public()), (5, was.secret.public()));
    let (map, was) = (back.map.unwrap(), kept.map.unwrap());
    assert_eq!((&map.node, &map.peers, &map.filter), (&was.node, &was.peers, &was.filter));
    assert_ne!(*map.filter, Filter::default(), "an allowing filter came back as one");
}

#[test]
fn what_no_record_of_ours_would_say_is_no_record() {
    let good: Value = serde_json::from_slice(&kept().encode().unwrap()).unwrap();
    let cases = [
        ("/version", json!(2), "the kept state has version 2, expected 1"),
        ("/node", json!("00"), "the kept state's node key is not a key"),
        ("/machine", json!(format!("zz{}", "0".repeat(62))), "the kept state's machine key is not a key"),
        ("/next/node", json!(""), "the kept state's next node key is not a key"),
        ("/paths", json!([]), "the kept state does not read: "),
        (
            "/generation",
            json!("5ec3e7".repeat(8)),
            "the kept state does not read: another type than it should be",
        ),
    ];
    for (at, value, expected) in cases {
        let mut bad = good.clone();
        *bad.pointer_mut(at).unwrap() = value;
        let found = Kept::decode(bad.to_string().as_bytes(), &prefixes()).unwrap_err().to_string();
        assert!(found.starts_with(expected) && !found.contains("5ec3e7"), "{at}: {found}");
    }
    for bytes in [&b""[..], b"{}", &[0; 4096]] {
        Kept::decode(bytes, &prefixes()).unwrap_err();
    }
}

#[test]
fn a_map_that_we_would_not_have_taken_is_left_out_and_the_identity_stays() {
    let good: Value = serde_json::from_slice(&kept().encode().unwrap()).unwrap();
    let cases = [
        // Another node's.
        ("/map/node/k", good["map"]["peers"][0]["k"].clone()),
        ("/map/peers/0/w", json!(["0.0.0.0/0"])),
        ("/map/node/a/0", json!("192.0.2.1/32")),
        ("/map/node/a", json!([])),
        // What it would not let a node have.
        ("/map/peers/0/a/0", json!("100.64.0.1/32")),
        ("/map/peers/0/a/0", json!("100.64.0.0/24")),
        ("/map/peers/0/a/0", json!("100.100.100.100/32")),
        ("/map/peers/0/w", json!(["100.64.9.0/24"])),
        ("/map/peers/0/k", good["map"]["node"]["k"].clone()),
        ("/map/peers/0/k", json!("A".repeat(43))),
        // None that this program reads.
        ("/map/node/k", json!("AAAA")),
        ("/map/peers", json!({})),
        ("/map", json!({ "node": {}, "peers": [] })),
        ("/map", json!(7)),
    ];
    for (at, value) in cases {
        let mut other = good.clone();
        let (parent, key) = at.rsplit_once('/').unwrap();
        match other.pointer_mut(parent).unwrap() {
            Value::Object(fields) => drop(fields.insert(key.to_owned(), value)),
            list => list[key.parse::<usize>().unwrap()] = value,
        }
        let found = Kept::decode(other.to_string().as_bytes(), &prefixes()).unwrap();
        assert!(found.map.is_none(), "{at}");
        assert_eq!(Value::from(hex::encode(*found.machine.bytes())), good["machine"], "{at}");
        assert_eq!(found.refused.len(), 1, "{at}");
    }
}

#[test]
fn the_next_key_and_the_old_one_stand_side_by_side_until_one_is_admitted() {
    let mut kept = kept();
    let (old, next) = (kept.node.clone(), kept.next.clone().unwrap());
    // The one that was kept is admitted again: nothing of what is in force goes.
    kept.promote(old.clone());
    assert!(kept.map.is_some() && kept.next.is_none());
    assert_eq!(kept.node.secret.public(), old.secret.public());
    // The next one: what was told to the other is no map of ours.
    kept.promote(next.clone());
    assert!(kept.map.is_none());
    assert_eq!((kept.node.generation, kept.node.secret.public()), (5, next.secret.public()));
    // A record without a next key, as former programs wrote it.
    let mut record: Value = serde_json::from_slice(&kept.encode().unwrap()).unwrap();
    record.as_object_mut().unwrap().remove("next").unwrap();
    assert!(Kept::decode(record.to_string().as_bytes(), &prefixes()).unwrap().next.is_none());
}

#[test]
fn what_is_left_out_of_a_nodes_record_is_as_it_was() {
    let mut odd = kept();
    let map = odd.map.as_mut().unwrap();
    let mut peer = (*map.peers[&NodeId(2)]).clone();
    peer.disco = Some(Secret::generate().unwrap().public());
    peer.allowed.clear();
    peer.key_expiry = Some(time::OffsetDateTime::from_unix_timestamp(1_900_000_000).unwrap());
    peer.expired = true;
    (peer.online, peer.home) = (None, None);
    let mut bare = node(3, Secret::<Node>::generate().unwrap().public(), "100.64.0.3/32");
    (bare.name, bare.tags, bare.endpoints) = (String::new(), Vec::new(), Vec::new());
    (bare.addresses, bare.allowed, bare.online) = (Vec::new(), Vec::new(), Some(false));
    map.peers = Arc::new([(NodeId(2), Arc::new(peer)), (NodeId(3), Arc::new(bare))].into());
    let back = Kept::decode(&odd.encode().unwrap(), &prefixes()).unwrap();
    assert_eq!(back.map.unwrap().peers, odd.map.unwrap().peers);
}

#[test]
fn without_room_for_the_map_the_identity_is_kept_and_without_room_for_that_nothing() {
    let kept = kept();
    let all = kept.encode().unwrap();
    let within = kept.encode_within(all.len()).unwrap();
    assert!(within.whole && within.bytes == all);
    let least = kept.encode_within(all.len() - 1).unwrap();
    assert!(!least.whole && least.bytes.len() < all.len());
    let back = Kept::decode(&least.bytes, &prefixes()).unwrap();
    assert!(back.map.is_none() && back.paths.is_empty());
    assert_eq!((back.stamp, back.refused.len()), (kept.stamp, 1));
    assert!(matches!(kept.encode_within(least.bytes.len() - 1), Err(StateError::TooLarge)));
    assert_eq!(format!("{least:?}"), format!("a record of {} bytes", least.bytes.len()));
}

#[test]
fn one_kept_filter_that_does_not_read_denies() {
    let mut kept = kept();
    let filters = &mut kept.map.as_mut().unwrap().filters;
    Arc::make_mut(filters).insert("of another program".to_owned(), serde_json::from_str("7").unwrap());
    let back = Kept::decode(&kept.encode().unwrap(), &prefixes()).unwrap();
    assert_eq!(*back.map.unwrap().filter, Filter::deny_all());
}
