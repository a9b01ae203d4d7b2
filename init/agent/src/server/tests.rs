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
/// Of a server under test for one limit: the others are far away.
const LATE: Duration = Duration::from_secs(60);
/// No test waits longer for something to end.
const PATIENCE: Duration = Duration::from_secs(90);

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
    start_with(document, TIMES).await
}

async fn start_with(document: &str, times: Times) -> (TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("dstack.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(serve_in(listener, agent(document), Callers::Anyone, times));
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
    let (_dir, socket) = start_with("{}", Times { connection: LATE, ..TIMES }).await;
    let mut silent = UnixStream::connect(&socket).await.unwrap();
    let (answer, took) = until_closed(&mut silent).await;
    assert_eq!(answer, "");
    assert!(took < LATE, "{took:?}");

    let mut kept_alive = UnixStream::connect(&socket).await.unwrap();
    kept_alive.write_all(b"GET /Version HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let (answer, took) = until_closed(&mut kept_alive).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(took < LATE, "{took:?}");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_answered_and_cut_off() {
    let (_dir, socket) = start_with("{}", Times { connection: LATE, ..TIMES }).await;
    let mut stream = UnixStream::connect(&socket).await.unwrap();
    stream
        .write_all(b"POST /Version?json HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        .await
        .unwrap();
    let (answer, took) = until_closed(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    assert!(answer.contains("request body: not complete after 0 seconds"), "{answer}");
    assert!(took < LATE, "{took:?}");
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
    // Long enough for all of them to be there at once, also on a slow machine.
    let times = Times { connection: Duration::from_secs(5), ..TIMES };
    let (_dir, socket) = start_with(&document, times).await;
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
    let served = async {
        loop {
            let mut stream = UnixStream::connect(&socket).await.unwrap();
            let request = b"GET /Version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
            // Refused, it may be closed before all was written.
            let _refused = stream.write_all(request).await;
            if until_closed(&mut stream).await.0.starts_with("HTTP/1.1 200 OK\r\n") {
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, served).await.expect("a place in time");
}

#[tokio::test]
async fn large_bodies_are_kept_one_at_a_time() {
    let times = Times { body: Duration::from_secs(5), connection: LATE, ..TIMES };
    let (_dir, socket) = start_with("{}", times).await;
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
