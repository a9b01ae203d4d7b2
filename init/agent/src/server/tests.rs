//! Slow callers, with shorter times than the real ones.
#![cfg(feature = "simulator")]

use std::time::{Duration, Instant};

use casemate_measure::{ComposeHash, EventLog, KeyProvider, LaunchRegisters};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use super::*;
use crate::{Handover, TeeHandover, boot_events};

const TIMES: Times = Times {
    head: Duration::from_millis(300),
    body: Duration::from_millis(600),
    connection: Duration::from_millis(1500),
    grace: Duration::from_millis(500),
};
/// No test waits longer for something to end.
const PATIENCE: Duration = Duration::from_secs(20);

fn agent(document: &str) -> Agent {
    Agent::new(handover(document)).unwrap()
}

/// A boot of this document on the simulated TEE.
pub(super) fn handover(document: &str) -> Handover {
    let compose_hash = ComposeHash::of(document.as_bytes());
    let app_id = compose_hash.app_id();
    Handover {
        document: document.into(),
        app_name: "test".into(),
        compose_hash,
        app_id,
        instance_id: None,
        key_provider: KeyProvider::None.event_payload(),
        events: EventLog::new(boot_events(&compose_hash, &app_id, None)),
        tee: TeeHandover::Simulator { launch: LaunchRegisters::ZERO },
        version: "1".into(),
    }
}

async fn start(document: &str) -> (TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("dstack.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(serve_in(listener, agent(document), Callers::Anyone, TIMES));
    (dir, socket)
}

/// Everything until the server closes, and how long that took.
async fn until_closed(stream: &mut UnixStream) -> (String, Duration) {
    let (start, mut answer) = (Instant::now(), Vec::new());
    // A reset is a close, too.
    if let Err(error) = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("closed in time") {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    (String::from_utf8(answer).unwrap(), start.elapsed())
}

#[tokio::test]
async fn a_head_that_trickles_is_cut_off() {
    let (_dir, socket) = start("{}").await;
    let mut stream = UnixStream::connect(&socket).await.unwrap();
    stream.write_all(b"GET /Version HTTP/1.1\r\nhost: x\r\n").await.unwrap();
    let trickle = async {
        while stream.write_all(b"x-y: z\r\n").await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, trickle).await.expect("cut off in time");
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let (_dir, socket) = start("{}").await;
    let mut silent = UnixStream::connect(&socket).await.unwrap();
    let (answer, took) = until_closed(&mut silent).await;
    assert_eq!(answer, "");
    assert!(took < TIMES.connection, "{took:?}");

    let mut kept_alive = UnixStream::connect(&socket).await.unwrap();
    kept_alive.write_all(b"GET /Version HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let (answer, took) = until_closed(&mut kept_alive).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(took < TIMES.connection, "{took:?}");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_answered_and_cut_off() {
    let (_dir, socket) = start("{}").await;
    let mut stream = UnixStream::connect(&socket).await.unwrap();
    stream
        .write_all(b"POST /Version?json HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        .await
        .unwrap();
    let (answer, took) = until_closed(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    assert!(answer.contains("request body: not complete after 0 seconds"), "{answer}");
    assert!(took < TIMES.connection, "{took:?}");
}

#[tokio::test]
async fn a_busy_connection_ends_after_its_time() {
    let (_dir, socket) = start("{}").await;
    let mut stream = UnixStream::connect(&socket).await.unwrap();
    let (start, mut answers, mut buffer) = (Instant::now(), 0, [0; 4096]);
    let busy = async {
        while stream.write_all(b"GET /Version HTTP/1.1\r\nhost: x\r\n\r\n").await.is_ok() {
            match stream.read(&mut buffer).await {
                Ok(read) if read > 0 => answers += 1,
                _ => break,
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, busy).await.expect("ended in time");
    assert!(answers > 5, "{answers}");
    assert!(start.elapsed() >= TIMES.connection, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_caller_who_does_not_read_loses_its_place() {
    // An answer that no socket buffer holds.
    let document = format!("{{\"name\":\"{}\"}}", "x".repeat(3 << 20));
    let (_dir, socket) = start(&document).await;
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS_OF_ONE_UID {
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        stream.write_all(b"GET /Info HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        streams.push(stream);
    }
    let mut refused = UnixStream::connect(&socket).await.unwrap();
    let (answer, _) = until_closed(&mut refused).await;
    assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
    assert!(answer.ends_with("{\n  \"error\": \"too many connections\"\n}"), "{answer}");
    sleep(TIMES.connection + TIMES.grace + Duration::from_millis(300)).await;
    let mut served = UnixStream::connect(&socket).await.unwrap();
    served.write_all(b"GET /Version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let (answer, _) = until_closed(&mut served).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[tokio::test]
async fn large_bodies_are_kept_one_at_a_time() {
    let (_dir, socket) = start("{}").await;
    let head = format!("POST /Version?json HTTP/1.1\r\nhost: x\r\ncontent-length: {BODY_MAX}\r\n\r\n");
    let part = vec![b' '; BODY_SMALL * 4];
    let mut first = UnixStream::connect(&socket).await.unwrap();
    first.write_all(head.as_bytes()).await.unwrap();
    first.write_all(&part).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    // The second is not read on while the first is kept; it fills its socket buffer and stands still.
    let mut second = UnixStream::connect(&socket).await.unwrap();
    second.write_all(head.as_bytes()).await.unwrap();
    let sent = timeout(Duration::from_millis(250), async {
        loop {
            second.write_all(&part).await.unwrap();
        }
    })
    .await;
    assert!(sent.is_err(), "all of the second body was taken");
    // A small one passes both.
    let mut small = UnixStream::connect(&socket).await.unwrap();
    let request =
        "POST /Version?json HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}";
    small.write_all(request.as_bytes()).await.unwrap();
    let (answer, _) = until_closed(&mut small).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let (answer, _) = until_closed(&mut first).await;
    assert!(answer.contains("not complete"), "{answer}");
}
