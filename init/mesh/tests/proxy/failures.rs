//! Backends that fail and clients that dawdle.

use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::time::{Duration, Instant};

use casemate_mesh::{Caller, MeshError, limits};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::backend::{self, Backend};
use crate::client;
use crate::world::{self, App, Known};

const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn a_backend_that_is_down_is_a_502_until_it_is_up() {
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let (mesh, own, caller) = world::in_front_of(address).await;
    let answer = client::talk(mesh.inbound, &own, Some(&caller), GET).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{answer}");
    assert!(answer.contains("content-type: text/plain") && !answer.contains("127.0.0.1"), "{answer}");

    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        backend::head(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nup").await.unwrap();
    });
    let answer = client::talk(mesh.inbound, &own, Some(&caller), GET).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("up"), "{answer}");
}

#[tokio::test]
async fn a_backend_that_speaks_no_http_is_a_502() {
    let backend = Backend::raw(|mut stream| async move {
        drop(stream.write_all(b"SSH-2.0-OpenSSH_9.6\r\n\r\n").await);
    })
    .await;
    let (mesh, own, caller) = world::in_front_of(backend.address).await;
    let answer = client::talk(mesh.inbound, &own, Some(&caller), GET).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 502 ") && !answer.contains("SSH"), "{answer}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_cut_not_completed() {
    let backend = Backend::raw(|mut stream| async move {
        backend::head(&mut stream).await.unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            .await
            .unwrap();
    })
    .await;
    let (mesh, own, caller) = world::in_front_of(backend.address).await;
    let answer = client::talk(mesh.inbound, &own, Some(&caller), GET).await.unwrap();
    assert!(answer.contains("hello") && !answer.contains("\r\n0\r\n"), "{answer}");
}

#[tokio::test]
async fn a_backend_that_does_not_accept_is_a_504() {
    // A queue of one, full: further connections get no answer at all.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = Vec::new();
    while let Ok(stream) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await
    {
        held.push(stream.unwrap());
        assert!(held.len() < 16, "the queue never fills");
    }
    let (mesh, own, caller) = world::in_front_of(address).await;
    let started = Instant::now();
    let answer = client::talk(mesh.inbound, &own, Some(&caller), GET).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 504 Gateway Timeout\r\n"), "{answer}");
    assert!(started.elapsed() >= limits::CONNECT, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_header_that_is_too_long_is_refused() {
    let backend = Backend::reflecting().await;
    let (mesh, own, caller) = world::in_front_of(backend.address).await;
    let long = "x".repeat(limits::HEADER_BYTES);
    let request = format!("GET / HTTP/1.1\r\nHost: x\r\nA: {long}\r\n\r\n");
    let answer = client::talk(mesh.inbound, &own, Some(&caller), &request).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let many = "A: b\r\n".repeat(200);
    let request = format!("GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n");
    let answer = client::talk(mesh.inbound, &own, Some(&caller), &request).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert_eq!(backend.connections(), 0);
}

/// How long until the other side closes, while a byte is written now and then.
async fn dribble(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) -> Duration {
    let started = Instant::now();
    let mut byte = [0];
    while started.elapsed() < Duration::from_secs(60) {
        let read = tokio::io::AsyncReadExt::read(&mut stream, &mut byte);
        match tokio::time::timeout(Duration::from_millis(500), read).await {
            Ok(_) => break,
            Err(_) if stream.write_all(b"a").await.is_err() => break,
            Err(_) => {}
        }
    }
    started.elapsed()
}

/// At the limit and not at the next larger one, which is at least twice as long.
fn about(limit: Duration, found: Duration) {
    assert!((limit..limit * 2).contains(&found), "expected about {limit:?}, found {found:?}");
}

#[tokio::test]
async fn a_slow_client_is_cut() {
    let backend = Backend::reflecting().await;
    let (mesh, own, caller) = world::in_front_of(backend.address).await;
    let silent = async {
        let mut stream = TcpStream::connect(mesh.inbound).await.unwrap();
        let started = Instant::now();
        drop(tokio::io::AsyncReadExt::read(&mut stream, &mut [0]).await);
        started.elapsed()
    };
    let begun = async |own_certificate| {
        let mut stream = client::tls(mesh.inbound, &own, own_certificate, b"http/1.1").await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.unwrap();
        dribble(stream).await
    };
    let kept = async {
        let mut stream = client::tls(mesh.inbound, &own, Some(&caller), b"http/1.1").await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        client::until(&mut stream, "\r\n\r\nGET ").await;
        client::until(&mut stream, "\r\n\r\n").await;
        let started = Instant::now();
        drop(tokio::io::AsyncReadExt::read(&mut stream, &mut [0]).await);
        started.elapsed()
    };
    let (silent, stranger, slow, kept) = tokio::join!(silent, begun(None), begun(Some(&caller)), kept);
    about(limits::HELLO, silent);
    about(limits::STRANGER, stranger);
    about(limits::HEADER, slow);
    about(limits::HEADER, kept);
}

#[tokio::test]
async fn a_port_in_use_is_named_and_listeners_are_counted() {
    let own = App::new(1);
    let listener = StdListener::bind("[::]:0").or_else(|_| StdListener::bind("0.0.0.0:0")).unwrap();
    let mut config = world::config(&own);
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    config.backends = vec![world::backend(to, vec![Caller::Any])];
    config.backends[0].listen = listener.local_addr().unwrap().port();
    let policy = std::sync::Arc::new(Known::new(&[]));
    let error =
        casemate_mesh::Mesh::open_with(config.clone(), Vec::new(), Vec::new(), policy.clone()).unwrap_err();
    assert!(matches!(error, MeshError::Listen { .. }), "{error}");

    config.outbound = vec![casemate_mesh::Outbound { service: "web".to_owned(), dstack: None }];
    let error = casemate_mesh::Mesh::open_with(config, Vec::new(), Vec::new(), policy).unwrap_err();
    assert_eq!(error.to_string(), "outbound listeners: expected one for each of 1 services, found 0");
}
