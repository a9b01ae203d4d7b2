//! WebSocket upgrades and `Expect: 100-continue`.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::backend::{self, Backend};
use crate::client;
use crate::world;

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
                       Sec-WebSocket-Key: k\r\nSec-WebSocket-Version: 13\r\n\r\n";

#[tokio::test]
async fn a_websocket_passes_both_ways_until_it_ends() {
    let backend = Backend::raw(|mut stream| async move {
        let head = backend::head(&mut stream).await.unwrap().to_lowercase();
        assert!(
            head.contains("upgrade: websocket\r\n") && head.contains("connection: upgrade\r\n"),
            "{head}"
        );
        assert!(head.contains("sec-websocket-key: k\r\n") && head.contains("x-dstack-app-id: 02"), "{head}");
        stream
            .write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                  Sec-WebSocket-Accept: a\r\n\r\nhello",
            )
            .await
            .unwrap();
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
        write.write_all(b"bye").await.unwrap();
    })
    .await;
    let (mesh, own, caller) = world::in_front_of(backend.address).await;
    let mut stream = client::tls(mesh.inbound, &own, Some(&caller), b"http/1.1").await.unwrap();
    stream.write_all(UPGRADE.as_bytes()).await.unwrap();
    let head = client::until(&mut stream, "\r\n\r\nhello").await.to_lowercase();
    assert!(head.starts_with("http/1.1 101 ") && head.contains("sec-websocket-accept: a\r\n"), "{head}");
    assert!(head.contains("upgrade: websocket\r\n") && head.contains("connection: upgrade\r\n"), "{head}");
    for n in 0..100 {
        let message = format!("\0message {n}\r\n\r\n");
        stream.write_all(message.as_bytes()).await.unwrap();
        let mut back = vec![0; message.len()];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(back, message.as_bytes());
    }
    stream.shutdown().await.unwrap();
    assert_eq!(client::rest(&mut stream).await.unwrap(), b"bye");
}

#[tokio::test]
async fn a_backend_may_decline_the_websocket() {
    let backend = Backend::reflecting().await;
    let (mesh, own, caller) = world::in_front_of(backend.address).await;
    let mut stream = client::tls(mesh.inbound, &own, Some(&caller), b"http/1.1").await.unwrap();
    stream.write_all(UPGRADE.as_bytes()).await.unwrap();
    let answer = client::until(&mut stream, "GET /ws ").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn a_switch_that_nobody_wished_is_an_error() {
    let backend = Backend::raw(|mut stream| async move {
        backend::head(&mut stream).await.unwrap();
        let answer =
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nGARBAGE";
        stream.write_all(answer).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    })
    .await;
    let (mesh, own, caller) = world::in_front_of(backend.address).await;
    for wish in
        ["", "Connection: Upgrade\r\nUpgrade: h2c\r\n", "Connection: Upgrade\r\nUpgrade: websocket\r\n"]
    {
        let request = format!("GET / HTTP/1.1\r\nHost: x\r\n{wish}\r\n");
        let mut stream = client::tls(mesh.inbound, &own, Some(&caller), b"http/1.1").await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = client::until(&mut stream, "\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{wish}: {answer}");
    }
}

#[tokio::test]
async fn the_body_waits_for_the_backends_go_ahead() {
    let backend = Backend::raw(|mut stream| async move {
        let head = backend::head(&mut stream).await.unwrap().to_lowercase();
        assert!(head.contains("expect: 100-continue\r\n"), "{head}");
        let early = tokio::time::timeout(Duration::from_millis(300), stream.read_u8()).await;
        assert!(early.is_err(), "the body came before it was asked for");
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        let mut body = [0; 5];
        stream.read_exact(&mut body).await.unwrap();
        assert_eq!(&body, b"hello");
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").await.unwrap();
    })
    .await;
    let (mesh, own, caller) = world::in_front_of(backend.address).await;
    let mut stream = client::tls(mesh.inbound, &own, Some(&caller), b"http/1.1").await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(client::until(&mut stream, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.unwrap();
    let answer = client::until(&mut stream, "done").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn a_body_that_is_refused_by_its_head_is_never_asked_for() {
    let backend = Backend::raw(|mut stream| async move {
        backend::head(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig").await.unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
    })
    .await;
    let (mesh, own, caller) = world::in_front_of(backend.address).await;
    let request = "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n";
    let answer = client::talk(mesh.inbound, &own, Some(&caller), request).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.ends_with("big"), "{answer}");
}

#[tokio::test]
async fn a_backend_that_knows_no_go_ahead_gets_the_body_all_the_same() {
    let backend = Backend::raw(|mut stream| async move {
        backend::head(&mut stream).await.unwrap();
        let mut body = [0; 5];
        stream.read_exact(&mut body).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").await.unwrap();
    })
    .await;
    let (mesh, own, caller) = world::in_front_of(backend.address).await;
    let mut stream = client::tls(mesh.inbound, &own, Some(&caller), b"http/1.1").await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    client::until(&mut stream, "100 Continue\r\n\r\n").await;
    stream.write_all(b"hello").await.unwrap();
    client::until(&mut stream, "done").await;
}
