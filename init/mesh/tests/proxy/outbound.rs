//! From a service to another app.

use std::net::SocketAddr;

use casemate_mesh::Caller;
use hyper::{Request, Response, body::Incoming};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::backend::{self, Backend};
use crate::client::{self, empty, full};
use crate::world::{self, App, Known, Running};

/// Two appliances: a service in the first calls the backend of the second.
async fn two(to: SocketAddr) -> (Running, App, App) {
    let (near, far) = (App::new(1), App::new(2));
    let known = Known::new(&[&near, &far]);
    let mut config = world::config(&far);
    config.backends = vec![world::backend(to, vec![Caller::App(near.id)])];
    let target = world::start(&far, config, known.clone()).await;
    let mut config = world::config(&near);
    config.targets.insert(far.id, target.inbound);
    (world::start(&near, config, known).await, near, far)
}

async fn get(mesh: &Running, fields: &[(&str, &str)]) -> Response<Incoming> {
    let mut request = Request::get("/path?q").header("host", "x");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    client::plain(mesh.outbound).await.send_request(request.body(empty()).unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_service_calls_an_app_and_is_introduced() {
    let backend = Backend::reflecting().await;
    let (mesh, near, far) = two(backend.address).await;
    let app = far.id.to_string();
    let port = mesh_port(&mesh, &app).await;
    let forged = "ff".repeat(20);
    let instance = far.instance.to_string();
    let fields = [
        ("x-dstack-target-app", app.as_str()),
        ("x-dstack-target-port", port.as_str()),
        ("x-dstack-target-instance", instance.as_str()),
        ("x-dstack-use-tls", "true"),
        ("x-dstack-app-id", forged.as_str()),
        ("x-mine", "1"),
    ];
    let answer = get(&mesh, &fields).await;
    assert_eq!(answer.status(), 200);
    let head = client::text(answer).await;
    assert!(head.starts_with("GET /path?q HTTP/1.1\r\n") && head.contains("x-mine: 1\r\n"), "{head}");
    assert!(head.contains(&format!("x-dstack-app-id: {}\r\n", near.id)), "{head}");
    assert!(
        !head.contains("x-dstack-target") && !head.contains("use-tls") && !head.contains(&forged),
        "{head}"
    );
}

/// The measured port, as the refusal of another one names it.
async fn mesh_port(mesh: &Running, app: &str) -> String {
    let answer = get(mesh, &[("x-dstack-target-app", app), ("x-dstack-target-port", "1")]).await;
    assert_eq!(answer.status(), 403);
    let text = client::text(answer).await;
    text.split_once("has port ").unwrap().1.split_once(',').unwrap().0.to_owned()
}

#[tokio::test]
async fn what_is_not_measured_is_refused() {
    let backend = Backend::reflecting().await;
    let (mesh, _, far) = two(backend.address).await;
    let (app, other) = (far.id.to_string(), "0".repeat(40));
    for (fields, status, text) in [
        (vec![], 400, "no target"),
        (vec![("x-dstack-target-app", "zz")], 400, "40 hex digits"),
        (
            vec![("x-dstack-target-app", app.as_str()), ("x-dstack-target-app", app.as_str())],
            400,
            "found twice",
        ),
        (vec![("x-dstack-target-app", other.as_str())], 403, "not among the measured targets"),
        (
            vec![("x-dstack-target-app", app.as_str()), ("x-dstack-use-tls", "false")],
            400,
            "never goes without TLS",
        ),
        (
            vec![("x-dstack-target-app", app.as_str()), ("x-dstack-target-instance", other.as_str())],
            502,
            "instance",
        ),
    ] {
        let answer = get(&mesh, &fields).await;
        assert_eq!(answer.status(), status, "{fields:?}");
        let body = client::text(answer).await;
        assert!(body.contains(text), "{fields:?}: {body}");
    }
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn another_app_at_the_measured_address_gets_no_byte() {
    let backend = Backend::reflecting().await;
    let (near, wanted, imposter) = (App::new(1), App::new(2), App::new(3));
    let known = Known::new(&[&near, &wanted, &imposter]);
    let mut config = world::config(&imposter);
    config.backends = vec![world::backend(backend.address, vec![Caller::Any])];
    let at_its_address = world::start(&imposter, config, known.clone()).await;
    let mut config = world::config(&near);
    config.targets.insert(wanted.id, at_its_address.inbound);
    let mesh = world::start(&near, config, known).await;
    let answer = get(&mesh, &[("x-dstack-target-app", &wanted.id.to_string())]).await;
    assert_eq!(answer.status(), 502);
    let text = client::text(answer).await;
    assert!(text.contains(&wanted.id.to_string()) && text.contains("handshake"), "{text}");
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn a_target_without_tls_or_without_anybody_is_a_502() {
    let backend = Backend::reflecting().await;
    let (near, plain, down) = (App::new(1), App::new(2), App::new(3));
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut config = world::config(&near);
    config.targets.insert(plain.id, backend.address);
    config.targets.insert(down.id, nobody);
    let mesh = world::start(&near, config, Known::new(&[&near, &plain, &down])).await;
    let answer = get(&mesh, &[("x-dstack-target-app", &down.id.to_string())]).await;
    assert_eq!(answer.status(), 502);
    assert!(client::text(answer).await.contains("no connection: "));

    let refusing = Backend::raw(|mut stream| async move {
        drop(stream.read(&mut [0; 64]).await);
        drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await);
    })
    .await;
    let mut config = world::config(&near);
    config.targets.insert(plain.id, refusing.address);
    let mesh = world::start(&near, config, Known::new(&[&plain])).await;
    let answer = get(&mesh, &[("x-dstack-target-app", &plain.id.to_string())]).await;
    assert_eq!(answer.status(), 502);
}

#[tokio::test]
async fn bodies_and_websockets_pass_two_proxies() {
    let backend = Backend::echoing().await;
    let (mesh, _, far) = two(backend.address).await;
    let body = vec![b'y'; 10 << 20];
    let request = Request::post("/")
        .header("host", "x")
        .header("x-dstack-target-app", far.id.to_string())
        .body(full(body.clone()))
        .unwrap();
    let answer = client::plain(mesh.outbound).await.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(client::text(answer).await.as_bytes() == body, "ten mebibytes come back");

    let backend = Backend::raw(|mut stream| async move {
        backend::head(&mut stream).await.unwrap();
        let head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    })
    .await;
    let (mesh, _, far) = two(backend.address).await;
    let mut stream = tokio::net::TcpStream::connect(mesh.outbound).await.unwrap();
    let head = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nx-dstack-target-app: {}\r\n\r\n",
        far.id
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    assert!(client::until(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 101 "));
    stream.write_all(b"through two proxies").await.unwrap();
    client::until(&mut stream, "through two proxies").await;
}
