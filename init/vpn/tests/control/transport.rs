//! The way to the server: `/key`, TLS, the upgrade.

use std::sync::Arc;
use std::time::{Duration, Instant};

use casemate_vpn::control::client::{ConnectError, KeyError, OpenError};
use casemate_vpn::control::join::{Phase, RefusalKind};
use casemate_vpn::key::{Machine, Secret};
use casemate_vpn::noise::HandshakeError;
use rustls::RootCertStore;
use serde_json::json;
use tokio_rustls::TlsAcceptor;

use super::client;
use super::control_server::node::{Setup, TestNode, eventually};
use super::control_server::{ControlServer, Reply, Upgrade};

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
async fn a_server_that_takes_nothing_keeps_no_connection_that_was_given_up() {
    let server = ControlServer::start().await;
    server.script(|script| script.upgrade = Upgrade::TakesNothing);
    let client = client(&server, |_| {});
    let connection = client.connect(&Secret::generate().unwrap(), &server.key.public()).await.unwrap();
    // Until our answers have no room any more: then we do not read either.
    let mut last = (0, Instant::now());
    let stalls = || {
        let pings = server.pings();
        if pings != last.0 {
            last = (pings, Instant::now());
        }
        pings > 0 && last.1.elapsed() > Duration::from_secs(1)
    };
    eventually(stalls).await;
    assert_eq!(server.tunnels(), 1);
    drop(connection);
    eventually(|| server.tunnels() == 0).await;
}

#[tokio::test]
async fn a_key_that_is_not_pinned_is_asked_for_anew_after_a_handshake_that_failed() {
    let server = ControlServer::start().await;
    server.script(|script| script.upgrade = Upgrade::ErrorFrame("another key"));
    let mut node = TestNode::start(&server);
    assert!(node.disconnected().await.contains("another key"));
    server.script(|script| script.upgrade = Upgrade::Tunnel);
    server.next_stream().await;
    assert_eq!(server.seen("GET /key?v=130").len(), 2);
}
