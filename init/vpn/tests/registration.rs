//! Registering at a stub of the VPC server: what is sent, what each answer means, and how often it is asked.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on may panic")]

mod control_server;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use casemate_vpn::control::client::OpenError;
use casemate_vpn::control::join::{AuthKey, Phase};
use casemate_vpn::dial::SystemDial;
use casemate_vpn::key::{Machine, Public};
use casemate_vpn::registration::{
    AnswerError, Asker, MAX_ANSWER, Registrar, Registration, RegistrationError, Rules, SetupError, Trouble,
};
use control_server::ControlServer;
use control_server::node::{Setup, prefixes, within};
use rustls::RootCertStore;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

const KEY: &str = "hskey-auth-abcdef012345-0123456789abcdef0123456789abcdef";

/// A request as it came: its first line, its head, its body.
type Seen = (String, String, Vec<u8>);
/// What is written, in these pieces, and then closed.
type Pieces = Vec<Vec<u8>>;

struct Stub {
    url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    accept: tokio::task::JoinHandle<()>,
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

impl Stub {
    /// Every request gets the same.
    async fn start(pieces: Pieces) -> Self {
        Self::start_with(pieces, None).await
    }

    async fn start_with(pieces: Pieces, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}/api/register", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&seen);
        let accept = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (pieces, noted, tls) = (pieces.clone(), Arc::clone(&noted), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => serve(tcp, &pieces, &noted).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(tcp).await {
                                serve(stream, &pieces, &noted).await;
                            }
                        }
                    }
                });
            }
        });
        Self { url, seen, accept }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut io: S, pieces: &[Vec<u8>], seen: &Mutex<Vec<Seen>>) {
    let mut received = Vec::new();
    let end = loop {
        if let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if io.read_buf(&mut received).await.unwrap_or(0) == 0 {
            return;
        }
    };
    let head = String::from_utf8(received[..end].to_vec()).unwrap();
    let length =
        head.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    while received.len() < end + length.unwrap_or(0) {
        if io.read_buf(&mut received).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let line = head.lines().next().unwrap().to_owned();
    seen.lock().unwrap().push((line, head, received[end..].to_vec()));
    for piece in pieces {
        if io.write_all(piece).await.is_err() || io.flush().await.is_err() {
            return;
        }
        tokio::task::yield_now().await;
    }
    drop(io.shutdown().await);
}

fn http(status: &str, headers: &str, body: &str) -> Pieces {
    vec![
        format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len()).into_bytes(),
        body.as_bytes().to_vec(),
    ]
}

fn good(server: &str, key: Public<Machine>) -> Value {
    json!({ "pre_auth_key": KEY, "shared_key": "c2VjcmV0", "server_url": server, "noise_key": key })
}

fn answer() -> Pieces {
    http("200 OK", "", &good("https://hs.example", Public::new([7; 32])).to_string())
}

fn registration(url: &str) -> Registration {
    Registration { url: url.to_owned(), plain_http: false, node_type: None, document: None }
}

fn registrar_with(registration: &Registration, roots: RootCertStore) -> Result<Registrar, SetupError> {
    let rules = Rules {
        server: None,
        noise_key: None,
        plain_http: false,
        prefixes: prefixes(),
        derp_pins: std::collections::BTreeMap::new(),
    };
    let asker = Asker { instance: "0a1b", name: "node-1" };
    Registrar::new(registration, asker, rules, Arc::new(roots), Arc::new(SystemDial))
}

fn registrar(url: &str) -> Registrar {
    registrar_with(&registration(url), RootCertStore::empty()).unwrap()
}

#[tokio::test]
async fn the_request_is_the_seeds_and_carries_the_document() {
    let stub = Stub::start(answer()).await;
    let answer = within(registrar(&stub.url).ask()).await.unwrap();
    assert_eq!((answer.key.expose(), answer.noise_key), (KEY, Public::new([7; 32])));
    // Byte for byte, or its digest is another.
    let document = "{ \"docker_compose_file\": \"\\u00e9\" ,\n\"casemate\":{}}\n";
    let full = Registration {
        node_type: Some("rag".to_owned()),
        document: Some(document.to_owned()),
        ..registration(&stub.url)
    };
    within(registrar_with(&full, RootCertStore::empty()).unwrap().ask()).await.unwrap();
    let seen = stub.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].0, "GET /api/register?instance_id=0a1b&node_name=node-1 HTTP/1.1");
    assert_eq!(seen[0].2, b"");
    assert_eq!(seen[1].0, "POST /api/register?instance_id=0a1b&node_name=node-1&node_type=rag HTTP/1.1");
    assert_eq!(seen[1].2, document.as_bytes());
    let host = stub.url.strip_prefix("http://").unwrap().split('/').next().unwrap();
    for (_, head, _) in &seen {
        assert!(head.to_lowercase().contains(&format!("\r\nhost: {host}\r\n")), "{head}");
    }
    assert!(seen[1].1.to_lowercase().contains("\r\ncontent-type: application/json\r\n"), "{}", seen[1].1);
}

#[tokio::test]
async fn a_long_document_arrives_whole() {
    let stub = Stub::start(answer()).await;
    let document = format!("{{\"docker_compose_file\":\"{}\"}}", "x".repeat(4_000_000));
    let full = Registration { document: Some(document.clone()), ..registration(&stub.url) };
    within(registrar_with(&full, RootCertStore::empty()).unwrap().ask()).await.unwrap();
    assert!(stub.seen()[0].2 == document.as_bytes(), "the document");
}

#[tokio::test]
async fn each_answer_that_is_none_is_told_apart() {
    let refused = http("403 Forbidden", "", &format!("not this app: {KEY}\n"));
    let limited = http("429 Too Many Requests", "Retry-After: 120\r\n", "");
    let moved = http("302 Found", "Location: http://127.0.0.1:1/\r\n", "");
    let long = http("200 OK", "", &" ".repeat(MAX_ANSWER + 1));
    let mut endless = vec![b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec()];
    endless.extend((0..80).map(|_| format!("400\r\n{}\r\n", " ".repeat(0x400)).into_bytes()));
    let mut short = answer();
    short[1].pop();
    let head = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(70_000)).into_bytes();
    for (what, pieces, kind) in [
        ("refused", refused, Trouble::Refused),
        ("limited", limited, Trouble::Limited),
        ("moved", moved, Trouble::Refused),
        ("no content", http("204 No Content", "", ""), Trouble::Refused),
        ("broken", http("500 Internal Server Error", "", ""), Trouble::Refused),
        ("long", long, Trouble::Answer),
        ("endless", endless, Trouble::Answer),
        ("not an answer", http("200 OK", "", "<html>"), Trouble::Answer),
        ("half", short, Trouble::Unreachable),
        ("a head without an end", vec![head], Trouble::Unreachable),
        ("silence", Vec::new(), Trouble::Unreachable),
        ("not HTTP", vec![b"SSH-2.0-x\r\n".to_vec()], Trouble::Unreachable),
    ] {
        let stub = Stub::start(pieces).await;
        let error = within(registrar(&stub.url).ask()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{what}: {error}");
        assert!(!format!("{error} {error:?}").contains("hskey"), "{what}: {error:?}");
        match (what, &error) {
            ("refused", RegistrationError::Status { status, text, .. }) => {
                assert_eq!((status.as_u16(), text.as_str()), (403, "not this app: [a key]"));
            }
            ("limited", RegistrationError::Status { retry_after, .. }) => {
                assert_eq!(*retry_after, Some(Duration::from_secs(120)));
            }
            ("long" | "endless", RegistrationError::Answer(error)) => {
                assert_eq!(*error, AnswerError::TooLong)
            }
            ("refused" | "limited" | "long" | "endless", _) => panic!("{what}: {error:?}"),
            _ => {}
        }
        // No answer is a reason to ask again, nor to ask elsewhere.
        assert_eq!(stub.seen().len(), 1, "{what}");
    }
}

#[tokio::test]
async fn who_is_not_there_was_not_asked() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = within(registrar(&format!("http://{closed}/api/register")).ask()).await.unwrap_err();
    assert!(matches!(error, RegistrationError::Open(OpenError::Dial { .. })), "{error:?}");
    let error = within(registrar("http://192.0.2.1/api/register").ask()).await.unwrap_err();
    assert!(matches!(error, RegistrationError::Open(OpenError::PlainHttp(_))), "{error:?}");
    for bad in ["http://127.0.0.1", "http://127.0.0.1/", "http://127.0.0.1/r?x", "http://127.0.0.1/r#x", "r"]
    {
        let refused = registrar_with(&registration(bad), RootCertStore::empty());
        assert!(matches!(refused, Err(SetupError::Url)), "{bad}");
    }
}

#[tokio::test]
async fn a_server_over_tls_is_believed_by_its_certificate_only() {
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    let stub = Stub::start_with(answer(), Some(TlsAcceptor::from(Arc::new(config)))).await;
    let error = within(registrar(&stub.url).ask()).await.unwrap_err();
    assert!(matches!(error, RegistrationError::Open(OpenError::Tls { .. })), "{error:?}");
    assert!(stub.seen().is_empty(), "the document went to a stranger");
    let mut roots = RootCertStore::empty();
    roots.add(own.cert.der().clone()).unwrap();
    within(registrar_with(&registration(&stub.url), roots).unwrap().ask()).await.unwrap();
    assert_eq!(stub.seen().len(), 1);
}

/// With a session beside it, as the node has it: asked once when a key is needed, and not while it is not.
#[tokio::test]
async fn a_session_that_needs_a_key_gets_one_and_does_not_ask_again() {
    let server = ControlServer::start().await;
    let stub = Stub::start(http("200 OK", "", &good(&server.url(), server.key.public()).to_string())).await;
    let (wanted, wants) = watch::channel(false);
    let (answers, mut answered) = mpsc::channel(1);
    let asking = tokio::spawn(registrar(&stub.url).run(3, wants, answers));
    let mut node = Setup { key: None, pin: Some(server.key.public()), ..Setup::new(&server) }.start();
    node.until_phase(Phase::KeyNeeded).await;
    assert!(stub.seen().is_empty() && server.seen("/machine/register").is_empty());
    wanted.send_replace(true);
    let answer = within(answered.recv()).await.unwrap().unwrap();
    assert_eq!((answer.url, answer.noise_key), (server.url(), server.key.public()));
    node.auth.send_replace(AuthKey::new(answer.key.expose()));
    let maps = server.next_stream().await;
    assert_eq!(server.seen("/machine/register")[0]["Auth"]["AuthKey"], KEY);
    maps.map(&node.first_map(&[]));
    node.next_map().await;
    // Still wanted or not: a minute is a minute.
    for is in [true, false, true] {
        wanted.send_replace(is);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(stub.seen().len(), 1);
    drop(wanted);
    within(asking).await.unwrap();
}
