//! Attestations for one connection and one moment.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use casemate_mesh::{Caller, CertificateKey, IdentitySource, SourceError, TlsMin};
use casemate_verify::challenge::{EXPORTER_LABEL, Nonce};
use casemate_verify::ratls::Attestation;
use casemate_verify::{AuthenticPeer, Binding, TrustAnchor, Verifier, VerifyError};
use hyper::Request;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::client::TlsStream;

use crate::backend::Backend;
use crate::client::{self, empty};
use crate::world::{self, App, Known, Running};

const PATH: &str = "/.well-known/casemate/attestation";

/// Gives an attestation when the test lets it.
#[derive(Clone)]
struct Slow {
    app: App,
    gate: Arc<Semaphore>,
    asked: Arc<AtomicUsize>,
}

impl Slow {
    fn new() -> Self {
        Self { app: App::new(1), gate: Arc::new(Semaphore::new(0)), asked: Arc::default() }
    }

    /// Until it was asked so many times in all.
    async fn was_asked(&self, times: usize) {
        let asked = async {
            while self.asked.load(Ordering::SeqCst) < times {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(client::PATIENCE, asked).await.expect("it is asked");
    }

    /// Lets so many through.
    fn open(&self, quotes: usize) {
        self.gate.add_permits(quotes);
    }
}

impl IdentitySource for Slow {
    async fn certificate(&self) -> Result<CertificateKey, SourceError> {
        self.app.certificate().await
    }

    async fn attest(&self, report_data: [u8; 64]) -> Result<Vec<u8>, SourceError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.gate.acquire().await?.forget();
        self.app.attest(report_data).await
    }
}

async fn slow_mesh(backend: &Backend) -> (Running, Slow, App) {
    let (source, caller) = (Slow::new(), App::new(2));
    let mut config = world::config(&source.app);
    config.backends = vec![world::backend(backend.address, vec![Caller::Any])];
    let policy = Known::new(&[&source.app, &caller]);
    let mesh = world::start_judged(source.clone(), config, Vec::new(), Arc::new(policy)).await;
    (mesh, source, caller)
}

/// A connection that was opened, and what binds an answer to it.
struct Verifying {
    stream: TlsStream<TcpStream>,
    exporter: [u8; 32],
    leaf: Vec<u8>,
}

impl Verifying {
    async fn open(address: SocketAddr, server: &App, own: Option<&App>) -> Self {
        let stream = client::tls(address, server, own, b"http/1.1").await.unwrap();
        let connection = stream.get_ref().1;
        let exporter = connection.export_keying_material([0; 32], EXPORTER_LABEL, Some(&[])).unwrap();
        let leaf = connection.peer_certificates().unwrap()[0].to_vec();
        Self { stream, exporter, leaf }
    }

    async fn ask(&mut self, query: &str) -> String {
        self.send(query).await;
        String::from_utf8(client::rest(&mut self.stream).await.unwrap()).unwrap()
    }

    async fn send(&mut self, query: &str) {
        let request = format!("GET {PATH}{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        self.stream.write_all(request.as_bytes()).await.unwrap();
    }

    fn judge(&self, answer: &str, nonce: &Nonce) -> Result<AuthenticPeer, VerifyError> {
        let verifier = Verifier::new([TrustAnchor::Simulator], Arc::default());
        verifier.verify_challenge(&self.leaf, &attestation(answer), nonce, &self.exporter, world::now())
    }
}

fn attestation(answer: &str) -> Attestation {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        head.contains("content-type: application/json") && head.contains("cache-control: no-store"),
        "{head}"
    );
    let json: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(json["version"], 1);
    Attestation::decode(&hex::decode(json["attestation"].as_str().unwrap()).unwrap()).unwrap()
}

fn query(nonce: &Nonce) -> String {
    format!("?nonce={}", hex::encode(nonce))
}

#[tokio::test]
async fn an_answer_is_for_its_nonce_its_connection_and_its_key() {
    let backend = Backend::reflecting().await;
    let (mesh, own, caller) = world::in_front_of(backend.address).await;
    let nonce: Nonce = [7; 32];
    for who in [None, Some(&caller)] {
        let mut asking = Verifying::open(mesh.inbound, &own, who).await;
        let answer = asking.ask(&query(&nonce)).await;
        let peer = asking.judge(&answer, &nonce).unwrap();
        assert_eq!(peer.app_id(), own.id);
        assert!(matches!(peer.binding(), Binding::Challenge(_, asked) if *asked == nonce));
        assert!(asking.judge(&answer, &[8; 32]).unwrap_err().to_string().contains("report data"));
    }
    assert_eq!(backend.connections(), 0);
}

/// Somebody who holds the key of an accepted machine (here: who simply is in the middle) asks that machine on behalf of the
/// verifier, through a connection of its own.
#[tokio::test]
async fn a_relayed_answer_is_refused() {
    let backend = Backend::reflecting().await;
    let (mesh, own, _) = world::in_front_of(backend.address).await;
    let nonce: Nonce = [7; 32];
    let verifying = Verifying::open(mesh.inbound, &own, None).await;
    let mut relaying = Verifying::open(mesh.inbound, &own, None).await;
    assert_eq!(verifying.leaf, relaying.leaf, "the certificate alone would be believed on either");
    let answer = relaying.ask(&query(&nonce)).await;
    assert!(relaying.judge(&answer, &nonce).is_ok());
    let error = verifying.judge(&answer, &nonce).unwrap_err().to_string();
    assert!(error.contains("report data"), "{error}");
}

#[tokio::test]
async fn anything_but_one_nonce_is_refused() {
    let backend = Backend::reflecting().await;
    let (mesh, own, caller) = world::in_front_of(backend.address).await;
    let good = query(&[7; 32]);
    let short = &good[..good.len() - 2];
    for bad in ["", "?", "?nonce=", short, &format!("{good}00"), &format!("{good}&nonce={}", "07".repeat(32))]
    {
        let answer = Verifying::open(mesh.inbound, &own, None).await.ask(bad).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("nonce: expected"), "{bad}: {answer}");
    }
    let post =
        format!("POST {PATH}{good} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    for who in [None, Some(&caller)] {
        let answer = client::talk(mesh.inbound, &own, who, &post).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET"), "{answer}");
    }
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn a_connection_below_tls_1_3_has_none() {
    let backend = Backend::reflecting().await;
    let own = App::new(1);
    let mut config = world::config(&own);
    config.tls_min = TlsMin::V1_2;
    config.backends = vec![world::backend(backend.address, vec![Caller::Any])];
    let mesh = world::start(&own, config, Known::new(&[])).await;
    let old = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Known::new(&[&own])))
        .with_no_client_auth();
    let stream = TcpStream::connect(mesh.inbound).await.unwrap();
    let name = rustls::pki_types::ServerName::IpAddress(mesh.inbound.ip().into());
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(old)).connect(name, stream).await.unwrap();
    let request = format!("GET {PATH}{} HTTP/1.1\r\nHost: x\r\n\r\n", query(&[7; 32]));
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = String::from_utf8(client::rest(&mut stream).await.unwrap()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("TLS 1.3"), "{answer}");
}

#[tokio::test]
async fn strangers_have_few_at_a_time_and_one_address_leaves_one_to_others() {
    let backend = Backend::reflecting().await;
    let (mesh, source, caller) = slow_mesh(&backend).await;
    let from = async |last: u8| {
        let mut asking = Verifying::open_from([127, 0, 0, last], mesh.inbound, &source.app).await;
        asking.send(&query(&[last; 32])).await;
        asking
    };
    let mut first = from(1).await;
    source.was_asked(1).await;
    let refused = Verifying::open(mesh.inbound, &source.app, None).await.ask(&query(&[9; 32])).await;
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("retry-after: 1"), "{refused}");
    let mut second = from(2).await;
    source.was_asked(2).await;
    let refused = from(3).await.read().await;
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    // Callers have places of their own.
    let mut asking = Verifying::open(mesh.inbound, &source.app, Some(&caller)).await;
    asking.send(&query(&[4; 32])).await;
    source.was_asked(3).await;
    source.open(3);
    assert!(first.judge_next(&[1; 32]).await.is_ok());
    assert!(second.judge_next(&[2; 32]).await.is_ok());
    assert!(asking.judge_next(&[4; 32]).await.is_ok());
    // The places were given back.
    source.open(1);
    let mut again = from(1).await;
    assert!(again.judge_next(&[1; 32]).await.is_ok());
}

#[tokio::test]
async fn a_connection_has_one_at_a_time() {
    let backend = Backend::reflecting().await;
    let (mesh, source, caller) = slow_mesh(&backend).await;
    let sender = client::http2(mesh.inbound, &source.app, Some(&caller)).await;
    let ask = |byte: u8| {
        let mut sender = sender.clone();
        let uri = format!("https://x{PATH}{}", query(&[byte; 32]));
        async move { sender.send_request(Request::get(uri).body(empty()).unwrap()).await.unwrap().status() }
    };
    let first = tokio::spawn(ask(1));
    source.was_asked(1).await;
    assert_eq!(ask(2).await, 503);
    source.open(2);
    assert_eq!(first.await.unwrap(), 200);
    assert_eq!(ask(3).await, 200);
}

#[tokio::test]
async fn a_quote_may_take_longer_than_a_stranger_has() {
    let backend = Backend::reflecting().await;
    let (mesh, source, _) = slow_mesh(&backend).await;
    let mut asking = Verifying::open(mesh.inbound, &source.app, None).await;
    let begin = Instant::now();
    asking.send(&query(&[7; 32])).await;
    source.was_asked(1).await;
    tokio::time::sleep(casemate_mesh::limits::STRANGER + Duration::from_secs(1)).await;
    source.open(1);
    assert!(asking.judge_next(&[7; 32]).await.is_ok());
    assert!(begin.elapsed() > casemate_mesh::limits::STRANGER);
}

#[tokio::test]
async fn an_agent_that_gives_none_is_no_answer() {
    let backend = Backend::reflecting().await;
    let (mesh, source, _) = slow_mesh(&backend).await;
    source.gate.close();
    let answer = Verifying::open(mesh.inbound, &source.app, None).await.ask(&query(&[7; 32])).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("no attestation now"), "{answer}");
    assert!(!answer.contains("semaphore"), "the reason is for the log: {answer}");
}

impl Verifying {
    async fn open_from(from: [u8; 4], address: SocketAddr, server: &App) -> Self {
        let stream = client::tls_from(from.into(), address, server, None, b"http/1.1").await.unwrap();
        let connection = stream.get_ref().1;
        let exporter = connection.export_keying_material([0; 32], EXPORTER_LABEL, Some(&[])).unwrap();
        let leaf = connection.peer_certificates().unwrap()[0].to_vec();
        Self { stream, exporter, leaf }
    }

    async fn read(&mut self) -> String {
        String::from_utf8(client::rest(&mut self.stream).await.unwrap()).unwrap()
    }

    async fn judge_next(&mut self, nonce: &Nonce) -> Result<AuthenticPeer, VerifyError> {
        let answer = self.read().await;
        self.judge(&answer, nonce)
    }
}
