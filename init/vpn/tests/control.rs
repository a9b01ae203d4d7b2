//! Client and session against a scripted coordination server.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on may panic")]

mod control_server;

use std::sync::Arc;
use std::time::{Duration, Instant};

use casemate_vpn::control::client::{Client, ClientSettings, ConnectError, KeyError, MAX_FRAME, OpenError};
use casemate_vpn::control::join::{AuthKey, Phase, RefusalKind};
use casemate_vpn::control::map::{MapSettings, MapState};
use casemate_vpn::control::session::ControlEvent;
use casemate_vpn::control::wire::EndpointType;
use casemate_vpn::dial::Dialer;
use casemate_vpn::key::{Machine, Node, Public, Secret};
use casemate_vpn::netmap::{NodeId, RegionId};
use casemate_vpn::noise::HandshakeError;
use control_server::node::{Setup, TestNode, eventually, prefixes, within};
use control_server::{ControlServer, Reply, Upgrade, frame};
use rustls::RootCertStore;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

fn client(server: &ControlServer, change: impl FnOnce(&mut ClientSettings)) -> Client {
    let mut settings = ClientSettings {
        url: server.url().parse().unwrap(),
        pin: None,
        plain_http: false,
        roots: Arc::new(RootCertStore::empty()),
    };
    change(&mut settings);
    Client::new(settings, Arc::new(Dialer::new(Vec::new()))).unwrap()
}

fn peer(id: u64) -> Value {
    let address = format!("100.64.{}.{}/32", id / 256, id % 256);
    json!({ "ID": id, "Name": format!("n{id}.t.internal."), "Key": format!("nodekey:{id:064x}"), "Addresses": [address],
            "DiscoKey": format!("discokey:{id:064x}"), "Hostinfo": { "OS": "linux" }, "Endpoints": ["192.0.2.1:41641"] })
}

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
async fn in_another_network_the_connection_is_made_anew() {
    let server = ControlServer::start().await;
    let mut node = TestNode::start(&server);
    let maps = server.next_stream().await;
    maps.map(&node.first_map(&[peer(2)]));
    node.next_map().await;
    // The server hears nothing of the old connection's end, as a machine that has moved cannot tell it.
    node.host.send_modify(|host| host.network += 1);
    let again = server.next_stream().await;
    assert_eq!(node.disconnected().await, "our network changed");
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
async fn the_handshake_and_the_early_payload_may_come_in_any_pieces() {
    for (early, wire) in [(0, 0), (1, 0), (4, 1), (9, 7), (1000, 50), (5, 3)] {
        let server = ControlServer::start().await;
        server.script(|script| (script.early_pieces, script.wire_pieces) = (early, wire));
        let client = client(&server, |_| {});
        let machine = Secret::generate().unwrap();
        let key = client.server_key().await.unwrap();
        assert_eq!(key, server.key.public());
        let connection = client.connect(&machine, &key).await.unwrap();
        assert_eq!(connection.early().is_some(), early > 0, "{early} {wire}");
    }
}

#[tokio::test]
async fn each_way_not_to_upgrade_has_its_error() {
    let server = ControlServer::start().await;
    let client = client(&server, |_| {});
    let machine = Secret::generate().unwrap();
    let key = server.key.public();
    server.script(|script| script.upgrade = Upgrade::CloseWithoutAByte);
    let error = client.connect(&machine, &key).await.unwrap_err();
    assert!(matches!(error, ConnectError::ClosedAfterUpgrade), "{error}");
    server.script(|script| script.upgrade = Upgrade::Tunnel);
    let error = client.connect(&machine, &Secret::<Machine>::generate().unwrap().public()).await.unwrap_err();
    assert!(matches!(error, ConnectError::ClosedAfterUpgrade), "another key looks the same: {error}");
    server.script(|script| script.upgrade = Upgrade::ErrorFrame("go away\u{7}"));
    let error = client.connect(&machine, &key).await.unwrap_err();
    assert!(
        matches!(&error, ConnectError::Handshake(HandshakeError::Refused(text)) if text == "go away\\u{7}"),
        "{error}"
    );
    server.script(|script| script.upgrade = Upgrade::Status(502));
    let error = client.connect(&machine, &key).await.unwrap_err();
    assert!(matches!(error, ConnectError::Status(status) if status == 502), "{error}");
}

#[tokio::test]
async fn a_pinned_key_that_is_not_the_servers_is_told_from_a_refused_version() {
    for (pinned, shown_as_pinned, expected) in [
        (true, false, RefusalKind::Pin),
        (true, true, RefusalKind::Version),
        (false, true, RefusalKind::Version),
    ] {
        let server = ControlServer::start().await;
        let pin = if shown_as_pinned { server.key.public() } else { Secret::generate().unwrap().public() };
        server.script(|script| script.upgrade = Upgrade::CloseWithoutAByte);
        let mut setup = Setup::new(&server);
        setup.pin = pinned.then_some(pin);
        let mut node = setup.start();
        let refusal = node.until_phase(Phase::Unwilling).await;
        assert_eq!(refusal, Some((expected, String::new())));
        let upgrades = server.seen("POST /ts2021").len();
        assert_eq!(upgrades, if expected == RefusalKind::Pin { 1 } else { 2 });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(server.seen("POST /ts2021").len(), upgrades, "left alone");
        assert!(server.seen("/machine/register").is_empty());
    }
}

#[tokio::test]
async fn plain_http_is_for_loopback_or_a_document_that_says_so() {
    let server = ControlServer::start().await;
    let elsewhere = |plain| {
        client(&server, |settings| {
            settings.url = "http://192.0.2.1:1".parse().unwrap();
            settings.plain_http = plain;
        })
    };
    let error = elsewhere(false).server_key().await.unwrap_err();
    assert!(matches!(error, KeyError::Open(OpenError::PlainHttp(_))), "{error}");
    let machine = Secret::generate().unwrap();
    let error = elsewhere(false).connect(&machine, &server.key.public()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Open(OpenError::PlainHttp(_))), "{error}");
}

/// A server's TLS, and its certificate as a root.
fn tls() -> (TlsAcceptor, RootCertStore) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let mut config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![made.cert.der().clone()],
                made.signing_key.serialize_der().try_into().unwrap(),
            )
            .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (TlsAcceptor::from(Arc::new(config)), roots)
}

#[tokio::test]
async fn over_tls_a_certificate_is_verified_unless_the_noise_key_is_pinned() {
    let (acceptor, roots) = tls();
    let server = ControlServer::start_with(Some(acceptor)).await;
    let machine = Secret::generate().unwrap();
    // Believed: both.
    let believing = client(&server, |settings| settings.roots = Arc::new(roots));
    assert_eq!(believing.server_key().await.unwrap(), server.key.public());
    believing.connect(&machine, &server.key.public()).await.unwrap();
    // Not believed: neither.
    let unbelieving = client(&server, |_| {});
    let error = unbelieving.server_key().await.unwrap_err();
    assert!(matches!(error, KeyError::Open(OpenError::Tls { .. })), "{error}");
    let error = unbelieving.connect(&machine, &server.key.public()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Open(OpenError::Tls { .. })), "{error}");
    // Not believed, but the Noise key is pinned: ts2021, and no key from `/key`.
    let pinned = client(&server, |settings| settings.pin = Some(server.key.public()));
    pinned.connect(&machine, &server.key.public()).await.unwrap();
    assert!(pinned.server_key().await.is_err());
    assert_eq!(pinned.shown_key().await.unwrap(), server.key.public());
}

#[tokio::test]
async fn refused_keys_are_kept_and_one_more_comes_in() {
    let server = ControlServer::start().await;
    server.script(|script| {
        script.register = Box::new(|body| match body["Auth"]["AuthKey"].as_str() {
            Some("hskey-auth-good") => Reply::authorized(),
            _ => Reply::json(&json!({ "Error": "authkey hskey-auth-test already used" })),
        });
    });
    let mut node = TestNode::start(&server);
    let refused = node
        .until(|event| match event {
            ControlEvent::KeyRefused(refused) => Some(refused),
            _ => None,
        })
        .await;
    assert_eq!(refused.digest, AuthKey::new("hskey-auth-test").unwrap().digest());
    assert_eq!(refused.text, "authkey [a key] already used");
    let refusal = node.until_phase(Phase::KeyNeeded).await.unwrap();
    assert_eq!(refusal, (RefusalKind::Refused, "authkey [a key] already used".into()));
    node.auth.send(AuthKey::new("hskey-auth-test")).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(server.seen("/machine/register").len(), 1);
}

#[tokio::test]
async fn a_restart_asks_without_a_key_and_a_login_page_means_that_one_is_needed() {
    let server = ControlServer::start().await;
    server.script(|script| {
        script.register = Box::new(|body| match body.get("Auth") {
            Some(_) => Reply::authorized(),
            None => {
                Reply::json(&json!({ "AuthURL": "http://x/register/hskey-authreq-secret", "Error": null }))
            }
        });
    });
    let mut setup = Setup::new(&server);
    (setup.known, setup.key) = (true, None);
    let mut node = setup.start();
    let refusal = node.until_phase(Phase::KeyNeeded).await.unwrap();
    assert_eq!(refusal, (RefusalKind::NotKnown, String::new()), "the page's address is no text to keep");
    node.auth.send(AuthKey::new("hskey-auth-new")).unwrap();
    let maps = server.next_stream().await;
    maps.map(&node.first_map(&[]));
    node.next_map().await;
    assert_eq!(server.seen("/machine/register").len(), 2);
}

#[tokio::test]
async fn a_node_that_the_server_lost_asks_once_and_waits_for_a_key() {
    let server = ControlServer::start().await;
    let mut node = TestNode::start(&server);
    let maps = server.next_stream().await;
    maps.map(&node.first_map(&[]));
    node.next_map().await;
    server.script(|script| {
        script.update = Box::new(|_| Reply::status(404));
        script.register = Box::new(|_| Reply::json(&json!({ "AuthURL": "http://x" })));
    });
    node.auth.send(None).unwrap();
    node.host.send_modify(|host| host.home = Some(RegionId(1)));
    within(maps.closed()).await;
    let refusal = node.until_phase(Phase::KeyNeeded).await.unwrap();
    assert_eq!(refusal.0, RefusalKind::NotKnown);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let register = server.seen("/machine/register");
    assert_eq!((register.len(), register[1].get("Auth")), (2, None));
}

#[tokio::test]
async fn an_ended_node_key_is_replaced_after_it_was_stored() {
    let server = ControlServer::start().await;
    server.script(|script| {
        script.register = Box::new(|body| match body.get("Auth") {
            Some(_) => Reply::authorized(),
            None => Reply::json(&json!({ "NodeKeyExpired": true, "MachineAuthorized": true })),
        });
    });
    let mut setup = Setup::new(&server);
    setup.known = true;
    let mut node = setup.start();
    let reply = node
        .until(|event| match event {
            ControlEvent::NodeKeyNeeded { reply, .. } => Some(reply),
            _ => None,
        })
        .await;
    assert_eq!(server.seen("/machine/register").len(), 1, "nothing is sent before the key is stored");
    let old = node.node.public();
    node.node = Secret::generate().unwrap();
    reply.send(node.node.clone()).unwrap();
    let maps = server.next_stream().await;
    let register = &server.seen("/machine/register")[1];
    assert_eq!((&register["NodeKey"], &register["OldNodeKey"]), (&json!(node.node.public()), &json!(old)));
    assert_eq!(maps.request["NodeKey"], json!(node.node.public()));
    let admitted = node
        .until(|event| match event {
            ControlEvent::Admitted { node } => Some(node),
            _ => None,
        })
        .await;
    assert_eq!(admitted, node.node.public());
    maps.map(&node.first_map(&[]));
    node.next_map().await;
}

#[tokio::test]
async fn our_own_end_in_the_map_closes_the_stream_once_there_is_a_key() {
    let server = ControlServer::start().await;
    let mut setup = Setup::new(&server);
    (setup.known, setup.key) = (true, None);
    let mut node = setup.start();
    let maps = server.next_stream().await;
    let mut ended = node.first_map(&[peer(2)]);
    ended["Node"]["Expired"] = true.into();
    maps.map(&ended);
    node.next_map().await;
    assert_eq!(node.until_phase(Phase::KeyNeeded).await.unwrap().0, RefusalKind::NodeKeyExpired);
    maps.map(&json!({ "PeersChanged": [peer(3)] }));
    assert_eq!(node.next_map().await.0.peers.len(), 2, "what we have goes on");
    node.auth.send(AuthKey::new("hskey-auth-new")).unwrap();
    within(maps.closed()).await;
    let reply = node
        .until(|event| match event {
            ControlEvent::NodeKeyNeeded { reply, .. } => Some(reply),
            _ => None,
        })
        .await;
    let old = std::mem::replace(&mut node.node, Secret::generate().unwrap());
    reply.send(node.node.clone()).unwrap();
    let maps = server.next_stream().await;
    let register = server.seen("/machine/register");
    assert_eq!((register.len(), &register[1]["OldNodeKey"]), (2, &json!(old.public())));
    assert_eq!(server.seen("POST /ts2021").len(), 1, "on the same connection");
    maps.map(&node.first_map(&[peer(2)]));
    let (map, changes, _) = node.next_map().await;
    assert!(changes.node && !map.node.expired);
    assert_eq!(changes.removed.len(), 1);
}

/// The node key that the session asks for, in place of which, and who waits for it.
async fn key_needed(node: &mut TestNode) -> (Public<Node>, oneshot::Sender<Secret<Node>>) {
    node.until(|event| match event {
        ControlEvent::NodeKeyNeeded { after, reply } => Some((after, reply)),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn a_refused_rotation_leaves_the_old_node_key_its_stream_and_the_map() {
    let server = ControlServer::start().await;
    let mut setup = Setup::new(&server);
    setup.known = true;
    let mut node = setup.start();
    let maps = server.next_stream().await;
    server.script(|script| {
        script.register = Box::new(|_| Reply::json(&json!({ "Error": "authkey already used" })));
    });
    let mut ended = node.first_map(&[peer(2)]);
    ended["Node"]["Expired"] = true.into();
    maps.map(&ended);
    let (old, next) = (node.node.public(), Secret::<Node>::generate().unwrap());
    let (after, reply) = key_needed(&mut node).await;
    assert_eq!(after, old);
    reply.send(next.clone()).unwrap();
    // The same stream again, under the key that the server knows.
    let maps = server.next_stream().await;
    assert_eq!(maps.request["NodeKey"], json!(old));
    let register = server.seen("/machine/register");
    let tried = &register[1];
    assert_eq!(
        (register.len(), &tried["NodeKey"], &tried["OldNodeKey"]),
        (2, &json!(next.public()), &json!(old))
    );
    maps.map(&ended);
    let refusal = node.until_phase(Phase::KeyNeeded).await.unwrap();
    assert_eq!(refusal, (RefusalKind::Refused, "authkey already used".into()));
    maps.map(&json!({ "PeersChanged": [peer(3)] }));
    while node.next_map().await.0.peers.len() < 2 {}
    // Another key, and the key that was made.
    server.script(|script| script.register = Box::new(|_| Reply::authorized()));
    node.auth.send(AuthKey::new("hskey-auth-other")).unwrap();
    within(maps.closed()).await;
}

#[tokio::test]
async fn without_a_new_node_key_the_old_one_keeps_its_stream() {
    let server = ControlServer::start().await;
    let mut setup = Setup::new(&server);
    setup.known = true;
    let mut node = setup.start();
    let maps = server.next_stream().await;
    let mut ended = node.first_map(&[peer(2)]);
    ended["Node"]["Expired"] = true.into();
    maps.map(&ended);
    drop(key_needed(&mut node).await);
    let maps = server.next_stream().await;
    assert_eq!(maps.request["NodeKey"], json!(node.node.public()));
    maps.map(&ended);
    maps.map(&json!({ "PeersChanged": [peer(3)] }));
    while node.next_map().await.0.peers.len() < 2 {}
    assert_eq!(server.seen("/machine/register").len(), 1);
}

#[tokio::test]
async fn a_node_is_found_under_any_of_its_keys() {
    let server = ControlServer::start().await;
    let others: Vec<Secret<Node>> = (0..3).map(|_| Secret::generate().unwrap()).collect();
    let known = others[1].public();
    server.script(|script| {
        script.register = Box::new(move |body| match body["NodeKey"] == json!(known) {
            true => Reply::authorized(),
            false => Reply::json(&json!({ "AuthURL": "http://x" })),
        });
    });
    let mut setup = Setup::new(&server);
    (setup.known, setup.others) = (true, others);
    let mut node = setup.start();
    let maps = server.next_stream().await;
    assert_eq!(maps.request["NodeKey"], json!(known));
    let admitted = node
        .until(|event| match event {
            ControlEvent::Admitted { node } => Some(node),
            _ => None,
        })
        .await;
    assert_eq!(admitted, known);
    let register = server.seen("/machine/register");
    assert_eq!(register.len(), 3);
    assert!(register.iter().all(|request| request.get("Auth").is_none()), "no key is used up");
}

#[tokio::test]
async fn a_version_that_is_refused_burns_no_key() {
    let server = ControlServer::start().await;
    server.script(|script| script.register = Box::new(|_| Reply::status(400)));
    let mut node = TestNode::start(&server);
    let mut refused = false;
    let refusal = node
        .until(|event| match event {
            ControlEvent::Joining { phase: Phase::Unwilling, refusal } => Some(refusal.unwrap()),
            event => {
                refused |= matches!(event, ControlEvent::KeyRefused(_));
                None
            }
        })
        .await;
    assert_eq!((refusal.kind, refusal.text.as_str(), refused), (RefusalKind::Version, "as scripted", false));

    let server = ControlServer::start().await;
    server.script(|script| {
        script.key_reply = Some("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    });
    let error = client(&server, |_| {}).server_key().await.unwrap_err();
    assert!(matches!(error, KeyError::Empty), "{error}");
    let mut node = TestNode::start(&server);
    assert_eq!(node.until_phase(Phase::Unwilling).await.unwrap().0, RefusalKind::Version);
    assert!(server.seen("POST /ts2021").is_empty());
}

#[tokio::test]
async fn a_429_before_the_tunnel_is_obeyed() {
    let server = ControlServer::start().await;
    let client = client(&server, |_| {});
    server.script(|script| {
        script.key_reply =
            Some("HTTP/1.1 429 Too Many Requests\r\nRetry-After: 77\r\nContent-Length: 0\r\n\r\n");
        script.upgrade = Upgrade::Limited(78);
    });
    let error = client.server_key().await.unwrap_err();
    assert!(matches!(error, KeyError::RateLimited(Some(after)) if after.as_secs() == 77), "{error}");
    let error = client.connect(&Secret::generate().unwrap(), &server.key.public()).await.unwrap_err();
    assert!(matches!(error, ConnectError::RateLimited(Some(after)) if after.as_secs() == 78), "{error}");
    // More than the longest back-off after a failure would leave it alone.
    let mut node = TestNode::start(&server);
    assert!(node.disconnected().await.contains("429"));
    server.script(|script| script.key_reply = None);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(server.seen("GET /key?v=130").len(), 2, "the client's above, and one");
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
async fn a_connection_is_not_kept_over_a_long_wait() {
    let server = ControlServer::start().await;
    server.script(|script| {
        script.register = Box::new(|_| Reply::json(&json!({ "Error": "no" })));
    });
    let mut node = TestNode::start(&server);
    node.until_phase(Phase::KeyNeeded).await.unwrap();
    assert_eq!(server.seen("POST /ts2021").len(), 1);
    // Nobody would tell us that it died meanwhile.
    eventually(|| server.tunnels() == 0).await;
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
async fn a_429_is_obeyed() {
    let server = ControlServer::start().await;
    let mut first = true;
    server.script(|script| {
        script.register = Box::new(move |_| {
            let reply = if first {
                Reply { retry_after: Some(3600), ..Reply::status(429) }
            } else {
                Reply::authorized()
            };
            first = false;
            reply
        });
    });
    let mut node = TestNode::start(&server);
    assert!(node.disconnected().await.contains("429"));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(server.seen("/machine/register").len(), 1);
    assert!(node.events.try_recv().is_err(), "no refusal: the key is still good");
}

#[tokio::test]
async fn a_server_error_does_not_refuse_the_key() {
    let server = ControlServer::start().await;
    let mut first = true;
    server.script(|script| {
        script.register = Box::new(move |body| {
            let reply = if first { Reply::status(500) } else { Reply::authorized() };
            assert!(first || body.get("Auth").is_none(), "it asks before it sends the key again");
            first = false;
            reply
        });
    });
    let node = TestNode::start(&server);
    server.next_stream().await;
    assert_eq!(server.seen("/machine/register").len(), 2);
    drop(node);
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
