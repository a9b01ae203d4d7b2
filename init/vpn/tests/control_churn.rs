//! Maps of 300 and of 3,000 peers that churn, from a scripted server: that nothing is lost, and what it costs.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on may panic")]

mod control_server;

use std::time::{Duration, Instant};

use casemate_vpn::control::map::{MapSettings, MapState};
use casemate_vpn::control::wire::MapResponse;
use casemate_vpn::key::Public;
use casemate_vpn::netmap::NodeId;
use control_server::ControlServer;
use control_server::node::{TestNode, prefixes};
use control_server::peers::{peer, peers};
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::json;

/// Memory of ours that no file holds, in KiB.
fn anonymous() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// CPU time of this process so far.
fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let total = usage.user_time() + usage.system_time();
    Duration::from_micros(u64::try_from(total.tv_sec() * 1_000_000 + total.tv_usec()).unwrap())
}

/// The state alone, in one thread: what one changed peer costs, read from its JSON.
fn delta_costs(count: u64) -> u64 {
    let own = Public::new([9; 32]);
    let settings = MapSettings { prefixes: prefixes(), require_policy: false };
    let mut state = MapState::new(settings, own, None);
    let first = json!({ "Node": { "ID": 1, "Name": "us.t.internal.", "Key": own, "Addresses": ["100.64.0.1/32"] }, "Peers": peers(count) }).to_string();
    let before = anonymous();
    let start = cpu();
    let now = Instant::now();
    let mut kept =
        state.apply(serde_json::from_str::<MapResponse>(&first).unwrap(), now).unwrap().unwrap().map;
    let whole = cpu() - start;
    let memory = anonymous().saturating_sub(before);
    let deltas: Vec<String> =
        (0..1000).map(|i| json!({ "PeersChanged": [peer(2 + i % count, 50_000 + i)] }).to_string()).collect();
    let start = cpu();
    for delta in &deltas {
        // The listener holds the map before, as it does in the program.
        let update = state.apply(serde_json::from_str::<MapResponse>(delta).unwrap(), now).unwrap().unwrap();
        assert_eq!((update.changes.changed.len(), update.changes.removed.len()), (1, 0));
        kept = update.map;
    }
    let each = (cpu() - start) / 1000;
    assert_eq!(kept.peers.len() as u64, count);
    println!("{count} peers: the first map {whole:?} of CPU and {memory} KiB, a delta of one peer {each:?}");
    memory
}

#[tokio::test]
async fn maps_of_many_peers_churn() {
    let small = delta_costs(300);
    let large = delta_costs(3000);
    assert!(small < 4 * 1024 && large < 24 * 1024, "{small} and {large} KiB of map");

    for count in [300u64, 3000] {
        let server = ControlServer::start().await;
        let mut node = TestNode::start(&server);
        let maps = server.next_stream().await;
        maps.map(&node.first_map(&peers(count)));
        let (map, changes, _) = node.next_map().await;
        assert_eq!((map.peers.len() as u64, changes.changed.len() as u64), (count, count));
        for round in 0..200 {
            let id = 2 + round * 7 % count;
            match round % 4 {
                0 => maps.map(&json!({ "PeersRemoved": [id] })),
                1 => maps.map(&json!({ "PeersChanged": [peer(id, 1000 + round)] })),
                2 => maps.map(&json!({ "PeersChangedPatch": [{ "NodeID": id, "Endpoints": [format!("203.0.113.1:{}", 2000 + round)] }] })),
                _ => maps.map(&json!({ "PeersChanged": [peer(35_000 + round, 1)] })),
            }
            let (map, changes, _) = node.next_map().await;
            assert_eq!(changes.changed.len() + changes.removed.len(), 1, "round {round}");
            assert!(!map.peers.contains_key(&NodeId(1)));
        }
        let memory = anonymous();
        println!("{count} peers through the session, server and all in one process: {memory} KiB");
        assert!(count > 300 || memory <= 16 * 1024, "{memory} KiB");
        drop(maps);
    }
}
