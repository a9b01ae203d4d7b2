//! Joining, and staying joined over the end of a key.

use std::time::Duration;

use casemate_vpn::control::client::KeyError;
use casemate_vpn::control::join::{AuthKey, Phase, RefusalKind};
use casemate_vpn::control::session::ControlEvent;
use casemate_vpn::key::{Node, Public, Secret};
use casemate_vpn::netmap::RegionId;
use serde_json::json;
use tokio::sync::oneshot;

use super::control_server::node::{Setup, TestNode, within};
use super::control_server::{ControlServer, Reply, Upgrade};
use super::{client, peer};

#[tokio::test]
async fn a_refused_key_is_kept_and_offered_again_it_is_still_refused() {
    let server = ControlServer::start().await;
    server.script(|script| {
        script.register =
            Box::new(|_| Reply::json(&json!({ "Error": "authkey hskey-auth-test already used" })));
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
    // A usable key would be on the way, in so many words, though it may not be sent within the minute.
    node.auth.send(AuthKey::new("hskey-auth-test")).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(node.events.try_recv().is_err(), "a key is needed still");
    assert_eq!(server.seen("/machine/register").len(), 1);
    node.auth.send(AuthKey::new("hskey-auth-other")).unwrap();
    node.until_phase(Phase::Joining).await;
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
    // Another key may not be sent within the minute: until then, the stream goes on.
    node.auth.send(AuthKey::new("hskey-auth-other")).unwrap();
    node.until_phase(Phase::Joined).await;
    maps.map(&json!({ "PeersChanged": [peer(4)] }));
    while node.next_map().await.0.peers.len() < 3 {}
    assert_eq!(server.seen("/machine/register").len(), 2);
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
    // More than the longest back-off after a failure would leave it alone.
    tokio::time::sleep(Duration::from_millis(2500)).await;
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

/// What a server says reaches a log; no key does so with it.
#[tokio::test]
async fn no_key_that_a_server_repeats_is_in_a_reason() {
    let key = "hskey-auth-0123456789ab-secret";
    for answer in [
        json!({ "NodeKeyExpired": key }),
        json!({ "AuthURL": [key] }),
        json!({ "Error": { key: 1 } }),
        json!(key),
    ] {
        let server = ControlServer::start().await;
        let text = answer.clone();
        server.script(|script| script.register = Box::new(move |_| Reply::json(&text)));
        let mut node = TestNode::start(&server);
        let reason = node.disconnected().await;
        assert!(reason.contains("does not read") && !reason.contains("secret"), "{answer}: {reason}");
    }
    let server = ControlServer::start().await;
    server.script(|script| script.upgrade = Upgrade::ErrorFrame("no hskey-auth-0123456789ab-secret here"));
    let reason = TestNode::start(&server).disconnected().await;
    assert!(reason.contains("[a key] here") && !reason.contains("secret"), "{reason}");

    let mut of_another = TestNode::start(&ControlServer::start().await).first_map(&[]);
    of_another["Node"]["Key"] = key.into();
    for message in [of_another, json!({ "KeepAlive": key }), json!({ "DERPMap": [key] }), json!(key)] {
        let server = ControlServer::start().await;
        let mut node = TestNode::start(&server);
        let maps = server.next_stream().await;
        maps.map(&message);
        let reason = node.disconnected().await;
        assert!(reason.contains("map") && !reason.contains("secret"), "{message}: {reason}");
    }
}
