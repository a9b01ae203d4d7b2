//! Bodies pass as they come, in both directions, no faster than they are read.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::Request;
use hyper::body::{Body as HttpBody, Frame, Incoming};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use crate::backend::{self, Backend};
use crate::client::{self, Body};
use crate::world;

const CHUNK: usize = 64 << 10;
const TOTAL: usize = 10 << 20;

/// A body that a test feeds frame by frame.
struct Fed(mpsc::Receiver<Frame<Bytes>>);

impl HttpBody for Fed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

fn fed() -> (mpsc::Sender<Frame<Bytes>>, Body) {
    let (feed, frames) = mpsc::channel(1);
    (feed, Fed(frames).boxed())
}

async fn next(body: &mut Incoming) -> Frame<Bytes> {
    let frame = tokio::time::timeout(client::PATIENCE, body.frame()).await;
    frame.expect("in time").expect("a frame").unwrap()
}

/// Ten mebibytes there and back; the first piece comes back before the second is sent.
async fn ten_mebibytes(
    answer: impl Future<Output = hyper::Response<Incoming>>,
    feed: mpsc::Sender<Frame<Bytes>>,
) {
    let piece = Bytes::from(vec![b'x'; CHUNK]);
    let first = feed.send(Frame::data(Bytes::from_static(b"first")));
    let (response, _) = tokio::join!(answer, first);
    let mut body = response.into_body();
    assert_eq!(next(&mut body).await.into_data().unwrap(), "first");

    tokio::spawn(async move {
        for _ in 0..TOTAL / CHUNK {
            feed.send(Frame::data(piece.clone())).await.unwrap();
        }
        feed.send(Frame::trailers([("x-sum".parse().unwrap(), "10".parse().unwrap())].into_iter().collect()))
            .await
            .unwrap();
    });
    let mut came = 0;
    loop {
        match next(&mut body).await.into_data() {
            Ok(data) => {
                assert!(data.iter().all(|byte| *byte == b'x'));
                came += data.len();
            }
            Err(trailers) => {
                assert_eq!(trailers.into_trailers().unwrap()["x-sum"], "10");
                break;
            }
        }
    }
    assert_eq!(came, TOTAL);
}

#[tokio::test]
async fn http1_streams_both_ways_with_trailers() {
    let backend = Backend::echoing().await;
    let (mesh, own, caller) = world::in_front_of(backend.address).await;
    let (feed, body) = fed();
    let mut sender = client::http1(mesh.inbound, &own, Some(&caller)).await;
    let request = Request::post("/")
        .header("host", "x")
        .header("te", "trailers")
        .header("trailer", "x-sum")
        .body(body)
        .unwrap();
    ten_mebibytes(async { sender.send_request(request).await.unwrap() }, feed).await;
}

#[tokio::test]
async fn http2_streams_both_ways_with_trailers() {
    let backend = Backend::echoing().await;
    let (mesh, own, caller) = world::in_front_of(backend.address).await;
    let (feed, body) = fed();
    let mut sender = client::http2(mesh.inbound, &own, Some(&caller)).await;
    let request =
        Request::post("https://x/").header("te", "trailers").header("trailer", "x-sum").body(body).unwrap();
    ten_mebibytes(async { sender.send_request(request).await.unwrap() }, feed).await;
}

/// What lies between a sender and a receiver that does not read: the kernel's buffers on two loopback hops (at most 6
/// MiB to receive and 4 MiB to send each, by default), and ours, which are far smaller.
const BETWEEN: u64 = 32 << 20;

#[tokio::test]
async fn a_backend_that_does_not_read_stops_the_caller() {
    let resume = Arc::new(tokio::sync::Notify::new());
    let resumed = Arc::clone(&resume);
    let backend = Backend::raw(move |mut stream| {
        let resumed = Arc::clone(&resumed);
        async move {
            backend::head(&mut stream).await.unwrap();
            resumed.notified().await;
            let mut read = 0_u64;
            let mut buffer = vec![0; CHUNK];
            while read < 2 * BETWEEN {
                match stream.read(&mut buffer).await.unwrap() {
                    0 => break,
                    n => read += n as u64,
                }
            }
            let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 8\r\n\r\n{read:8}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    let (mesh, own, caller) = world::in_front_of(backend.address).await;
    let stream = client::tls(mesh.inbound, &own, Some(&caller), b"http/1.1").await.unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    let writer = tokio::spawn(async move {
        let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", 2 * BETWEEN);
        write.write_all(head.as_bytes()).await.unwrap();
        let piece = vec![b'x'; CHUNK];
        while count.load(Ordering::SeqCst) < 2 * BETWEEN {
            write.write_all(&piece).await.unwrap();
            count.fetch_add(CHUNK as u64, Ordering::SeqCst);
        }
        // What the last write left in the TLS session (the socket was full) goes out with a flush, and with nothing else.
        write.flush().await.unwrap();
    });
    let mut before = 0;
    while before == 0 || before != sent.load(Ordering::SeqCst) {
        before = sent.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!((1..BETWEEN).contains(&before), "the caller could send {before} bytes");
    resume.notify_one();
    // As long as the backend gets on: a slow machine takes its time for so many bytes.
    while !writer.is_finished() {
        let before = sent.load(Ordering::SeqCst);
        tokio::time::sleep(client::PATIENCE / 2).await;
        assert!(writer.is_finished() || sent.load(Ordering::SeqCst) > before, "stands still at {before}");
    }
    writer.await.unwrap();
    let answer = client::until(&mut read, &(2 * BETWEEN).to_string()).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn a_caller_that_does_not_read_stops_the_backend() {
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    let backend = Backend::raw(move |mut stream| {
        let count = Arc::clone(&count);
        async move {
            backend::head(&mut stream).await.unwrap();
            let piece = vec![b'x'; CHUNK];
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await.unwrap();
            while count.load(Ordering::SeqCst) < 2 * BETWEEN && stream.write_all(&piece).await.is_ok() {
                count.fetch_add(CHUNK as u64, Ordering::SeqCst);
            }
        }
    })
    .await;
    let (mesh, own, caller) = world::in_front_of(backend.address).await;
    let mut stream = client::tls(mesh.inbound, &own, Some(&caller), b"http/1.1").await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut before = u64::MAX;
    while before == 0 || before != sent.load(Ordering::SeqCst) {
        before = sent.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!((1..BETWEEN).contains(&before), "the backend could send {before} bytes");
}

#[tokio::test]
async fn connections_to_a_backend_are_used_again() {
    let backend = Backend::reflecting().await;
    let (mesh, own, caller) = world::in_front_of(backend.address).await;
    let mut sender = client::http1(mesh.inbound, &own, Some(&caller)).await;
    for n in 0..10 {
        sender.ready().await.unwrap();
        let request = Request::get(format!("/{n}")).header("host", "x").body(client::empty()).unwrap();
        let answer = client::text(sender.send_request(request).await.unwrap()).await;
        assert!(answer.starts_with(&format!("GET /{n} ")), "{answer}");
    }
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn a_connection_closed_by_the_backend_is_replaced() {
    // Promises to keep the connection and then closes it at the next request, unread: the worst of habits.
    let backend = Backend::raw(|mut stream| async move {
        backend::head(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        let mut byte = [0];
        drop(stream.read(&mut byte).await);
    })
    .await;
    let (mesh, own, caller) = world::in_front_of(backend.address).await;
    let mut sender = client::http1(mesh.inbound, &own, Some(&caller)).await;
    for _ in 0..5 {
        sender.ready().await.unwrap();
        let request = Request::get("/").header("host", "x").body(client::empty()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(client::text(answer).await, "ok");
    }
    assert_eq!(backend.connections(), 5);
    // A request that may have been acted on is not repeated.
    sender.ready().await.unwrap();
    let request = Request::post("/").header("host", "x").body(client::full("body")).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 502);
}
