//! Streams of maps, and the updates beside them.

use std::time::{Duration, Instant};

use casemate_vpn::control::client::MAX_FRAME;
use casemate_vpn::control::map::{MapSettings, MapState};
use casemate_vpn::control::session::ControlEvent;
use casemate_vpn::control::wire::EndpointType;
use casemate_vpn::key::{Node, Secret};
use casemate_vpn::netmap::{NodeId, RegionId};
use serde_json::json;

use super::control_server::node::{Setup, TestNode, eventually, prefixes, within};
use super::control_server::{ControlServer, Reply, Upgrade, frame};
use super::peer;

#[tokio::test]
async fn a_node_joins_updates_and_follows_the_map() {
    let server = ControlServer::start().await;
    let mut node = TestNode::start(&server);
    let maps = server.next_stream().await;
    assert_eq!(server.machines(), [node.machine.public()]);

    let register = server.seen("/machine/register");
    assert_eq!(register.len(), 1);
    let request = &register[0];
    assert_eq!(request["Version"], 130);
    assert_eq!(request["NodeKey"], json!(node.node.public()));
    assert_eq!(request["OldNodeKey"], format!("nodekey:{}", "0".repeat(64)));
    assert_eq!(request["Auth"]["AuthKey"], "hskey-auth-test");
    assert_eq!(request["Expiry"], "0001-01-01T00:00:00Z");
    assert_eq!((&request["Ephemeral"], &request["Followup"]), (&json!(false), &json!("")));
    let updates = server.updates();
    assert_eq!(updates.len(), 1, "an update before the stream");
    assert_eq!(updates[0]["OmitPeers"], true);
    for body in [&updates[0], &maps.request] {
        assert_eq!(
            (&body["Compress"], &body["KeepAlive"], &body["Version"]),
            (&json!(""), &json!(true), &json!(130))
        );
        assert_eq!(body["Hostinfo"]["Hostname"], "node-1");
        assert_eq!(body["Hostinfo"]["NetInfo"]["PreferredDERP"], 0);
    }
    assert_eq!(maps.request["OmitPeers"], false);
    assert!(!format!("{register:?}{updates:?}").contains("RequestTags"));

    maps.map(&node.first_map(&[peer(2)]));
    let (map, changes, _) = node.next_map().await;
    assert_eq!((map.node.name.as_str(), map.peers.len()), ("node-1.t.internal", 1));
    assert!(changes.node);
    maps.map(&json!({ "KeepAlive": true }));
    maps.map(&json!({ "PeersChanged": [peer(3)] }));
    let (map, changes, _) = node.next_map().await;
    assert_eq!((map.peers.len(), changes.changed.len(), changes.node), (2, 1, false));

    // Each change of what we are is told, whole.
    node.host.send_modify(|host| {
        host.endpoints = vec![
            ("192.0.2.7:41641".parse().unwrap(), EndpointType::Local),
            ("[2001:db8::7]:1".parse().unwrap(), EndpointType::Stun),
        ];
        host.home = Some(RegionId(999));
        host.working_udp = false;
    });
    eventually(|| server.updates().len() == 2).await;
    let update = &server.updates()[1];
    assert_eq!(update["Endpoints"], json!(["192.0.2.7:41641", "[2001:db8::7]:1"]));
    assert_eq!(update["EndpointTypes"], json!([1, 2]));
    assert_eq!(update["Hostinfo"]["NetInfo"], json!({ "PreferredDERP": 999, "WorkingUDP": false }));
    assert_eq!(update["Hostinfo"]["Hostname"], "node-1");

    // Whatever flaps is told, but not as a storm.
    for port in 1..50 {
        node.host.send_modify(|host| host.endpoints[0].0.set_port(port));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    eventually(|| server.updates().last().unwrap()["Endpoints"][0] == "192.0.2.7:49").await;
    assert!(server.updates().len() <= 4, "{}", server.updates().len());

    // The end of the listeners is the end of the session, and of the stream.
    node.events.close();
    within(maps.closed()).await;
    within(&mut node.task).await.unwrap();
}

#[tokio::test]
async fn after_a_sleep_the_connection_is_made_anew_and_in_another_network_only_what_failed() {
    let server = ControlServer::start().await;
    let mut node = TestNode::start(&server);
    let maps = server.next_stream().await;
    let mut first = node.first_map(&[peer(2)]);
    first["ControlTime"] = json!("2029-01-01T00:00:00Z");
    first["Peers"][0]["KeyExpiry"] = json!("2029-01-01T00:50:00Z");
    maps.map(&first);
    assert!(!node.next_map().await.0.peers[&NodeId(2)].expired);
    // An address came, or another one went: the server is told, by the same connection.
    node.host.send_modify(|host| host.network += 1);
    eventually(|| server.updates().len() == 2).await;
    maps.map(&json!({ "PeersChanged": [peer(9)] }));
    node.next_map().await;
    assert_eq!(server.machines().len(), 1);
    // The server hears nothing of the old connection's end, as a machine that has slept cannot tell it.
    node.host.send_modify(|host| {
        host.network += 1;
        host.slept += Duration::from_secs(3600);
    });
    let again = server.next_stream().await;
    assert_eq!(node.disconnected().await, "our network changed");
    // Meanwhile the server's clock went on.
    let ended = |event| match event {
        ControlEvent::Expired { map, .. } => Some(map),
        _ => None,
    };
    assert!(node.until(ended).await.peers[&NodeId(2)].expired);
    assert_eq!((server.machines().len(), server.seen("/machine/register").len()), (2, 1));
    again.map(&node.first_map(&[peer(2), peer(3)]));
    assert_eq!(node.next_map().await.0.peers.len(), 2);
}

#[tokio::test]
async fn a_new_stream_is_preceded_by_an_update_and_replaces_the_map() {
    let server = ControlServer::start().await;
    let mut node = TestNode::start(&server);
    let maps = server.next_stream().await;
    maps.map(&node.first_map(&[peer(2), peer(3)]));
    node.next_map().await;
    drop(maps);
    let maps = server.next_stream().await;
    assert_eq!((server.updates().len(), server.seen("/machine/register").len()), (2, 1));
    maps.map(&json!({ "PeersRemoved": [2] }));
    maps.map(&node.first_map(&[peer(3)]));
    let (map, changes, _) = node.next_map().await;
    assert_eq!((map.peers.len(), changes.removed.len(), changes.changed.len()), (1, 1, 0));
}

#[tokio::test]
async fn keys_end_while_the_server_is_away() {
    // A map that was kept, with a peer whose key ended long ago.
    let own: Secret<Node> = Secret::generate().unwrap();
    let settings = MapSettings { prefixes: prefixes(), require_policy: false };
    let mut state = MapState::new(settings, own.public(), None);
    let mut ended = peer(2);
    ended["KeyExpiry"] = "2020-01-01T00:00:00Z".into();
    let first = json!({ "Node": { "ID": 1, "Key": own.public(), "Addresses": ["100.64.0.1/32"] }, "Peers": [ended, peer(3)] });
    let update =
        state.apply(serde_json::from_str(&first.to_string()).unwrap(), Instant::now()).unwrap().unwrap();
    assert!(!update.map.peers[&NodeId(2)].expired, "nobody has said the time");
    let server = ControlServer::start().await;
    server.script(|script| script.upgrade = Upgrade::Status(502));
    let mut setup = Setup::new(&server);
    (setup.known, setup.map) = (true, Some(update.map));
    let mut node = setup.start();
    let (map, changes) = node
        .until(|event| match event {
            ControlEvent::Expired { map, changes } => Some((map, changes)),
            _ => None,
        })
        .await;
    assert!(map.peers[&NodeId(2)].expired && map.peers[&NodeId(2)].allowed.is_empty());
    assert_eq!(changes.changed, [map.peers[&NodeId(2)].key]);
}

#[tokio::test]
async fn the_server_is_told_of_us_now_and_then_and_a_silent_stream_is_dead() {
    let server = ControlServer::start().await;
    let mut setup = Setup::new(&server);
    setup.timing.update = Duration::from_millis(200);
    let mut node = setup.start();
    let maps = server.next_stream().await;
    maps.map(&node.first_map(&[]));
    node.next_map().await;
    eventually(|| server.updates().len() >= 3).await;
    // A deleted node learns of it so.
    server.script(|script| script.update = Box::new(|_| Reply::status(404)));
    within(maps.closed()).await;
    drop(node);

    let server = ControlServer::start().await;
    let mut setup = Setup::new(&server);
    setup.timing.watchdog = Duration::from_millis(600);
    let mut node = setup.start();
    let maps = server.next_stream().await;
    maps.map(&node.first_map(&[]));
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        maps.map(&json!({ "KeepAlive": true }));
    }
    assert_eq!(server.seen("POST /ts2021").len(), 1, "keep-alives keep it alive");
    // Bytes that make no message do not.
    maps.raw(b"\xff\0\0\0{".to_vec());
    within(maps.closed()).await;
    assert!(node.disconnected().await.contains("no map message for 600ms"));
}

#[tokio::test]
async fn map_messages_may_be_cut_anywhere_and_be_large() {
    let server = ControlServer::start().await;
    let mut node = TestNode::start(&server);
    let maps = server.next_stream().await;
    let mut bytes = frame(&node.first_map(&[peer(2)]));
    bytes.extend(frame(&json!({ "KeepAlive": true })));
    bytes.extend(frame(&json!({ "PeersChanged": [peer(3)] })));
    for piece in bytes.chunks(3) {
        maps.raw(piece.to_vec());
    }
    assert_eq!(node.next_map().await.0.peers.len(), 1);
    assert_eq!(node.next_map().await.0.peers.len(), 2);
    // Two in one write, and one of some megabytes with escapes and nesting that nobody asked for.
    let mut large = peer(4);
    large["Hostinfo"] = json!({ "Text": "\u{1}\"\\".repeat(400_000), "Nested": [[[{ "x": [null] }]]] });
    let mut bytes = frame(&json!({ "PeersRemoved": [2] }));
    bytes.extend(frame(&json!({ "PeersChanged": [large] })));
    assert!(bytes.len() > 3_000_000);
    maps.raw(bytes);
    assert_eq!(node.next_map().await.0.peers.len(), 1);
    assert_eq!(node.next_map().await.0.peers.len(), 2);
}

#[tokio::test]
async fn a_stream_that_is_no_map_ends_with_its_reason_and_the_map_stays() {
    let mut cases = tokio::task::JoinSet::new();
    for (case, expected) in [
        ("huge", "8388609 bytes"),
        ("truncated", "inside a message"),
        ("not json", "does not read"),
        ("empty", "does not read"),
        ("deep", "does not read"),
        ("another node", "not ours"),
        ("no address", "no address"),
    ] {
        cases.spawn(bad_stream(case, expected));
    }
    while let Some(done) = cases.join_next().await {
        done.unwrap();
    }
}

async fn bad_stream(case: &'static str, expected: &'static str) {
    let server = ControlServer::start().await;
    let mut node = TestNode::start(&server);
    let maps = server.next_stream().await;
    maps.map(&node.first_map(&[peer(2)]));
    node.next_map().await;
    let mut other = node.first_map(&[]);
    let sent = match case {
        "huge" => (MAX_FRAME + 1).to_le_bytes().to_vec(),
        "truncated" => b"\x09\0\0\0{".to_vec(),
        "not json" => b"\x02\0\0\0{]".to_vec(),
        "empty" => vec![0; 4],
        "deep" => [&100_000u32.to_le_bytes()[..], &[b'['; 100_000]].concat(),
        "another node" => {
            other["Node"]["Key"] = json!(format!("nodekey:{}", "09".repeat(32)));
            frame(&other)
        }
        _ => {
            other["Node"]["Addresses"] = json!(["10.0.0.1/32"]);
            frame(&other)
        }
    };
    maps.raw(sent);
    if case == "truncated" {
        drop(maps);
    } else {
        within(maps.closed()).await;
    }
    let reason = node.disconnected().await;
    assert!(reason.contains(expected), "{case}: {reason}");
    // It comes back, and does not register again.
    let maps = server.next_stream().await;
    maps.map(&node.first_map(&[peer(2)]));
    let (_, changes, _) = node.next_map().await;
    assert!(changes.is_empty(), "{case}: the same map was in force all the time: {changes:?}");
    assert_eq!(server.seen("/machine/register").len(), 1);
}

#[tokio::test]
async fn a_ping_is_answered_at_the_servers_own_url_only() {
    let server = ControlServer::start().await;
    let other = ControlServer::start().await;
    let mut node = TestNode::start(&server);
    let maps = server.next_stream().await;
    let mut first = node.first_map(&[]);
    first["PingRequest"] = json!({ "URL": format!("{}/machine/ping-response?id=1", other.url()) });
    maps.map(&first);
    node.next_map().await;
    maps.map(&json!({ "PingRequest": { "URL": format!("{}/machine/ping-response?id=2", server.url()), "Types": "TSMP" } }));
    tokio::time::sleep(Duration::from_millis(100)).await;
    maps.map(&json!({ "PingRequest": { "URL": format!("{}/machine/ping-response?id=3", server.url()), "Log": true } }));
    eventually(|| !server.seen("HEAD /machine/ping-response?id=3").is_empty()).await;
    assert!(server.seen("HEAD /machine/ping-response?id=2").is_empty());
    assert!(other.seen("").is_empty());
}

#[tokio::test]
async fn a_stream_of_keep_alives_without_a_map_is_none() {
    let server = ControlServer::start().await;
    let mut setup = Setup::new(&server);
    setup.timing.watchdog = Duration::from_millis(600);
    let mut node = setup.start();
    let maps = server.next_stream().await;
    let keep_alives = async {
        loop {
            // Each is a whole message: what has no map is not silent.
            maps.map(&json!({ "KeepAlive": true }));
            maps.map(&json!({ "PeersChanged": [peer(2)] }));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (mut alive, mut reasons) = (false, Vec::new());
    let ended = async {
        while reasons.is_empty() {
            match node.events.recv().await.unwrap() {
                ControlEvent::Alive => alive = true,
                ControlEvent::Disconnected { reason } => reasons.push(reason),
                _ => {}
            }
        }
    };
    tokio::select! {
        () = keep_alives => {}
        () = within(ended) => {}
    }
    assert_eq!((alive, reasons), (false, vec!["the stream gave no map within 600ms".to_owned()]));
    within(maps.closed()).await;
}

#[tokio::test]
async fn an_update_that_is_answered_429_is_sent_later_and_the_stream_goes_on() {
    let server = ControlServer::start().await;
    let mut node = TestNode::start(&server);
    let maps = server.next_stream().await;
    maps.map(&node.first_map(&[peer(2)]));
    node.next_map().await;
    server.script(|script| {
        script.update = Box::new(|_| Reply { retry_after: Some(2), ..Reply::status(429) });
    });
    node.host.send_modify(|host| host.home = Some(RegionId(1)));
    eventually(|| server.updates().len() == 2).await;
    let said = Instant::now();
    maps.map(&json!({ "PeersChanged": [peer(3)] }));
    let map = node
        .until(|event| match event {
            ControlEvent::Netmap { map, .. } => Some(map),
            ControlEvent::Disconnected { reason } => panic!("{reason}"),
            _ => None,
        })
        .await;
    assert_eq!(map.peers.len(), 2);
    // What changes meanwhile is told then.
    node.host.send_modify(|host| host.home = Some(RegionId(2)));
    eventually(|| server.updates().len() == 3).await;
    assert!(said.elapsed() >= Duration::from_millis(1900), "{:?}", said.elapsed());
    assert_eq!(server.updates()[2]["Hostinfo"]["NetInfo"]["PreferredDERP"], 2);
    assert_eq!(server.seen("POST /ts2021").len(), 1);
}

#[tokio::test]
async fn what_hangs_in_one_network_is_tried_anew_in_the_next() {
    for stage in ["upgrade", "register", "update", "stream"] {
        let server = ControlServer::start().await;
        server.script(|script| match stage {
            "upgrade" => script.upgrade = Upgrade::Silent,
            "register" => script.register = Box::new(|_| Reply::never()),
            "update" => script.update = Box::new(|_| Reply::never()),
            _ => script.stream = Box::new(|_| Some(Reply::never())),
        });
        let mut setup = Setup::new(&server);
        setup.known = true;
        let mut node = setup.start();
        let path = match stage {
            "upgrade" => "POST /ts2021",
            "register" => "/machine/register",
            _ => "/machine/map",
        };
        let number = if stage == "stream" { 2 } else { 1 };
        eventually(|| server.seen(path).len() == number).await;
        server.script(|script| {
            script.upgrade = Upgrade::Tunnel;
            script.register = Box::new(|_| Reply::authorized());
            script.update = Box::new(|_| Reply::empty());
            script.stream = Box::new(|_| None);
        });
        node.host.send_modify(|host| host.network += 1);
        assert_eq!(node.disconnected().await, "our network changed", "{stage}");
        // A question that may have been lost is asked again at once.
        server.next_stream().await;
        let register = server.seen("/machine/register");
        assert!(register.iter().all(|request| request.get("Auth").is_none()), "{stage}");
        assert_eq!(register.len(), if stage == "register" { 2 } else { 1 }, "{stage}");
    }
}

#[tokio::test]
async fn an_address_that_flaps_neither_starves_a_request_nor_makes_a_storm() {
    let server = ControlServer::start().await;
    server.script(|script| script.register = Box::new(|_| Reply::never()));
    let mut setup = Setup::new(&server);
    setup.known = true;
    let mut node = setup.start();
    eventually(|| !server.seen("/machine/register").is_empty()).await;
    for _ in 0..40 {
        node.host.send_modify(|host| host.network += 1);
        tokio::time::sleep(Duration::from_millis(50)).await;
        while node.events.try_recv().is_ok() {}
    }
    // A few moves count; the request after the last of them is left to its own time.
    let asked = server.seen("/machine/register").len();
    assert!((2..=5).contains(&asked), "{asked} requests");
    assert!(server.seen("POST /ts2021").len() <= 5);
    // A sleep counts always.
    server.script(|script| script.register = Box::new(|_| Reply::authorized()));
    node.host.send_modify(|host| {
        host.network += 1;
        host.slept += Duration::from_secs(60);
    });
    let maps = server.next_stream().await;
    maps.map(&node.first_map(&[]));
    node.next_map().await;
}

#[tokio::test]
async fn a_server_is_not_dialled_as_often_as_it_asks_to_be() {
    let server = ControlServer::start().await;
    let mut node = TestNode::start(&server);
    let maps = server.next_stream().await;
    maps.map(&node.first_map(&[]));
    node.next_map().await;
    let ping = json!({ "PingRequest": { "URL": format!("{}/machine/ping-response", server.url()) } });
    let answers = || server.seen("HEAD /machine/ping-response").len();
    let start = Instant::now();
    maps.map(&ping);
    eventually(|| answers() == 1).await;
    for _ in 0..20 {
        maps.map(&ping);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let allowed = 1 + start.elapsed().as_secs() / 5;
    assert!(answers() as u64 <= allowed, "{} answers", answers());
}
