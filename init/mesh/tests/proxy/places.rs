//! One app, or one address, does not take what there is for all.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use casemate_mesh::{Caller, limits};
use hyper::Request;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::backend::{self, Backend};
use crate::client;
use crate::world::{self, App, Known, Running};

const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

/// Two apps in front of one backend.
async fn two_callers(backend: &Backend) -> (Running, App, [App; 2]) {
    let (own, one, other) = (App::new(1), App::new(2), App::new(3));
    let mut config = world::config(&own);
    config.backends = vec![world::backend(backend.address, vec![Caller::Any])];
    let mesh = world::start(&own, config, Known::new(&[&own, &one, &other])).await;
    (mesh, own, [one, other])
}

#[tokio::test]
async fn one_app_does_not_take_all_connections() {
    let backend = Backend::reflecting().await;
    let (mesh, own, [one, other]) = two_callers(&backend).await;
    let open = async |app: &App| {
        let mut stream = client::tls(mesh.inbound, &own, Some(app), b"http/1.1").await.unwrap();
        stream.write_all(GET.as_bytes()).await.unwrap();
        let mut first = [0];
        let read = tokio::time::timeout(client::PATIENCE, stream.read(&mut first)).await.unwrap();
        read.is_ok_and(|length| length == 1).then_some(stream)
    };
    let mut held = Vec::new();
    while let Some(stream) = open(&one).await {
        held.push(stream);
        assert!(held.len() < limits::CALLERS, "it got all");
    }
    assert_eq!(held.len(), limits::CALLERS / 2);
    let another = open(&other).await;
    assert!(another.is_some(), "another app finds a place");
    // What it gives back, it may have again.
    held.truncate(10);
    let begin = Instant::now();
    while open(&one).await.is_none() {
        assert!(begin.elapsed() < client::PATIENCE, "places do not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn one_app_does_not_have_all_requests_under_way() {
    // It answers nobody but who asks for it now.
    let backend = Backend::raw(|mut stream| async move {
        while let Some(head) = backend::head(&mut stream).await {
            if head.starts_with("GET /now ") {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nnow").await.unwrap();
            }
        }
    })
    .await;
    let (mesh, own, [one, other]) = two_callers(&backend).await;
    let streams = usize::try_from(limits::STREAMS).unwrap();
    let (mut senders, mut waiting) = (Vec::new(), Vec::new());
    while waiting.len() < limits::REQUESTS / 2 {
        let mut sender = client::http2(mesh.inbound, &own, Some(&one)).await;
        for _ in 0..streams.min(limits::REQUESTS / 2 - waiting.len()) {
            sender.ready().await.unwrap();
            let request = Request::get("https://x/later").body(client::empty()).unwrap();
            waiting.push(tokio::spawn(sender.send_request(request)));
        }
        senders.push(sender);
    }
    let begin = Instant::now();
    while backend.connections() < waiting.len() {
        assert!(begin.elapsed() < client::PATIENCE, "{} under way", backend.connections());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let now = async |app: &App| {
        let mut sender = client::http2(mesh.inbound, &own, Some(app)).await;
        let request = Request::get("https://x/now").body(client::empty()).unwrap();
        sender.send_request(request).await.unwrap().status().as_u16()
    };
    assert_eq!(now(&one).await, 503);
    assert_eq!(now(&other).await, 200);
    // A request that is given up gives its place back.
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    drop(senders);
    let begin = Instant::now();
    while now(&one).await != 200 {
        assert!(begin.elapsed() < client::PATIENCE, "places do not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_header_section_of_many_fields_is_refused_over_http2_too() {
    let backend = Backend::reflecting().await;
    let (mesh, own, caller) = world::in_front_of(backend.address).await;
    let status = async |fields: usize| {
        let mut sender = client::http2(mesh.inbound, &own, Some(&caller)).await;
        let mut request = Request::get("https://x/");
        for _ in 0..fields {
            request = request.header("a", "b");
        }
        sender.send_request(request.body(client::empty()).unwrap()).await.unwrap().status().as_u16()
    };
    assert_eq!(status(limits::HEADER_FIELDS).await, 200);
    assert_eq!(status(limits::HEADER_FIELDS + 1).await, 431);
}

/// A connection from that address of this machine.
async fn from(source: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((source, 0).into())?;
    socket.connect(to).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_address_does_not_keep_callers_out() {
    let backend = Backend::reflecting().await;
    let (mesh, own, caller) = world::in_front_of(backend.address).await;
    // More than all there are and all that may wait, each opened again as soon as it is cut.
    let silent = |source| async move {
        loop {
            if let Ok(mut stream) = from(source, mesh.inbound).await {
                drop(stream.read(&mut [0]).await);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let number = limits::STRANGERS + limits::STRANGERS_WAITING + 100;
    let flood: Vec<_> = (0..number).map(|_| tokio::spawn(silent(Ipv4Addr::new(127, 0, 0, 2)))).collect();
    // One that is past its share is closed, not served.
    let begin = Instant::now();
    loop {
        assert!(begin.elapsed() < client::PATIENCE, "nobody is closed at once");
        let mut one = from(Ipv4Addr::new(127, 0, 0, 2), mesh.inbound).await.unwrap();
        let closed = tokio::time::timeout(limits::HELLO / 4, one.read(&mut [0])).await;
        if closed.is_ok() {
            break;
        }
    }
    // Who waited for one of these to be cut would wait for longer, each time.
    let mut waits = Vec::new();
    for _ in 0..5 {
        let begin = Instant::now();
        let mut stream = client::tls(mesh.inbound, &own, Some(&caller), b"http/1.1").await.unwrap();
        stream.write_all(GET.as_bytes()).await.unwrap();
        client::until(&mut stream, "200 OK").await;
        waits.push(begin.elapsed());
    }
    assert!(waits.iter().any(|wait| *wait < limits::HELLO), "{waits:?}");
    flood.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn strangers_do_not_use_up_the_callers_places() {
    let backend = Backend::reflecting().await;
    let (mesh, own, caller) = world::in_front_of(backend.address).await;
    let mut strangers = Vec::new();
    for n in 0..limits::STRANGERS {
        let source = Ipv4Addr::new(127, 0, 1, u8::try_from(n % 250).unwrap() + 1);
        strangers.push(from(source, mesh.inbound).await.unwrap());
    }
    // From so many addresses every stranger's place is taken. A caller waits for the first to be cut, and is served then.
    let mut stream = client::tls(mesh.inbound, &own, Some(&caller), b"http/1.1").await.unwrap();
    stream.write_all(GET.as_bytes()).await.unwrap();
    client::until(&mut stream, "200 OK").await;
    drop(strangers);
}
