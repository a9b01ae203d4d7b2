//! Who reaches a backend, and who does not.

use casemate_mesh::{Attested, Caller, MeshError, TlsMin};
use hyper::{Request, StatusCode};

use crate::backend::Backend;
use crate::client::{self, empty};
use crate::world::{self, App, Known};

#[tokio::test]
async fn without_a_certificate_there_is_health_and_nothing_else() {
    let backend = Backend::reflecting().await;
    let (mesh, own, _) = world::in_front_of(backend.address).await;
    let get = async |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        client::talk(mesh.inbound, &own, None, &request).await.unwrap()
    };
    let health = get("/health").await;
    assert!(health.starts_with("HTTP/1.1 200 OK\r\n") && health.ends_with("ok\n"), "{health}");
    assert!(get("/.well-known/casemate/collateral").await.starts_with("HTTP/1.1 404 "));
    for path in ["/", "/index.html", "/health/x", "http://x/secret"] {
        let answer = get(path).await;
        assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{path}: {answer}");
        assert!(
            answer.contains("connection: close") && answer.contains("certificate is required"),
            "{answer}"
        );
    }
    let body = "POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello";
    assert!(client::talk(mesh.inbound, &own, None, body).await.unwrap().starts_with("HTTP/1.1 403 "));
    let websocket = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert!(client::talk(mesh.inbound, &own, None, websocket).await.unwrap().starts_with("HTTP/1.1 403 "));
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn without_a_certificate_a_second_request_is_not_read() {
    let backend = Backend::reflecting().await;
    let (mesh, own, _) = world::in_front_of(backend.address).await;
    let one = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
    let answers = client::talk(mesh.inbound, &own, None, &one.repeat(3)).await.unwrap();
    assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{answers}");
}

#[tokio::test]
async fn without_a_certificate_http2_is_answered_and_closed() {
    let backend = Backend::reflecting().await;
    let (mesh, own, _) = world::in_front_of(backend.address).await;
    let mut sender = client::http2(mesh.inbound, &own, None).await;
    let request = || Request::get("https://x/").body(empty()).unwrap();
    assert_eq!(sender.send_request(request()).await.unwrap().status(), StatusCode::FORBIDDEN);
    tokio::time::timeout(client::PATIENCE, async {
        while !sender.is_closed() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the connection closes");
    assert!(sender.send_request(request()).await.is_err());
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn an_unknown_certificate_fails_the_handshake() {
    let backend = Backend::reflecting().await;
    let (mesh, own, _) = world::in_front_of(backend.address).await;
    let other = App::new(2);
    let answer =
        client::talk(mesh.inbound, &own, Some(&other), "GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let error = answer.expect_err("not even /health");
    assert!(error.to_string().contains("alert"), "{error}");
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn a_certificate_without_its_key_fails_the_handshake() {
    let backend = Backend::reflecting().await;
    let (mesh, own, caller) = world::in_front_of(backend.address).await;
    // The victim's certificate, in a TLS stack that does not check it against the thief's key.
    #[derive(Debug)]
    struct Thief(std::sync::Arc<rustls::sign::CertifiedKey>);
    impl rustls::client::ResolvesClientCert for Thief {
        fn resolve(
            &self,
            _hints: &[&[u8]],
            _schemes: &[rustls::SignatureScheme],
        ) -> Option<std::sync::Arc<rustls::sign::CertifiedKey>> {
            Some(std::sync::Arc::clone(&self.0))
        }
        fn has_certs(&self) -> bool {
            true
        }
    }
    let provider = rustls::crypto::ring::default_provider();
    let key = provider.key_provider.load_private_key(App::new(3).certificate_key().key).unwrap();
    let stolen = rustls::sign::CertifiedKey::new(vec![caller.certificate.clone()], key);
    let config = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(std::sync::Arc::new(Known::new(&[&own])))
        .with_client_cert_resolver(std::sync::Arc::new(Thief(std::sync::Arc::new(stolen))));
    let stream = tokio::net::TcpStream::connect(mesh.inbound).await.unwrap();
    let name = rustls::pki_types::ServerName::IpAddress(mesh.inbound.ip().into());
    let connected = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config)).connect(name, stream).await;
    let error = match connected {
        Err(error) => error,
        Ok(mut stream) => client::rest(&mut stream).await.unwrap_err(),
    };
    assert!(error.to_string().contains("alert"), "{error}");
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn the_allow_list_is_by_app_id() {
    let backend = Backend::reflecting().await;
    let (own, listed, unlisted) = (App::new(1), App::new(2), App::new(3));
    let mut config = world::config(&own);
    config.backends = vec![world::backend(backend.address, vec![Caller::App(listed.id)])];
    let mesh = world::start(&own, config, Known::new(&[&listed, &unlisted])).await;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");

    let answer = client::talk(mesh.inbound, &own, Some(&unlisted), &get("/")).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("is not allowed here"), "{answer}");
    let answer = client::talk(mesh.inbound, &own, Some(&unlisted), &get("/health")).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok\n"), "{answer}");
    assert_eq!(backend.connections(), 0);

    let answer = client::talk(mesh.inbound, &own, Some(&listed), &get("/health")).await.unwrap();
    assert!(answer.contains("GET /health HTTP/1.1\r\n"), "the backend's own /health: {answer}");
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn tls_below_the_minimum_is_refused() {
    let backend = Backend::reflecting().await;
    let own = App::new(1);
    for (min, accepted) in [(TlsMin::V1_3, false), (TlsMin::V1_2, true)] {
        let mut config = world::config(&own);
        config.tls_min = min;
        config.backends = vec![world::backend(backend.address, vec![Caller::Any])];
        let mesh = world::start(&own, config, Known::new(&[])).await;
        let old =
            rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
                .with_protocol_versions(&[&rustls::version::TLS12])
                .unwrap()
                .dangerous()
                .with_custom_certificate_verifier(std::sync::Arc::new(Known::new(&[&own])))
                .with_no_client_auth();
        let stream = tokio::net::TcpStream::connect(mesh.inbound).await.unwrap();
        let name = rustls::pki_types::ServerName::IpAddress(mesh.inbound.ip().into());
        let connected =
            tokio_rustls::TlsConnector::from(std::sync::Arc::new(old)).connect(name, stream).await;
        assert_eq!(connected.is_ok(), accepted, "{min:?}");
    }
}

#[tokio::test]
async fn the_guests_own_policy_refuses_a_certificate_without_a_quote() {
    let backend = Backend::reflecting().await;
    let (own, caller) = (App::new(1), App::new(2));
    let mut config = world::config(&own);
    config.backends = vec![world::backend(backend.address, vec![Caller::Any])];
    let mesh = casemate_mesh::Mesh::open(config, Vec::new(), Vec::new()).unwrap();
    let port = mesh.listening().unwrap()[0].port();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let (source, (ready, is_ready)) = (own.clone(), tokio::sync::oneshot::channel());
    tokio::spawn(async move { mesh.run(source, || ready.send(()).unwrap()).await });
    is_ready.await.unwrap();

    let get = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
    assert!(client::talk(address, &own, None, get).await.unwrap().starts_with("HTTP/1.1 200 "));
    let error = client::talk(address, &own, Some(&caller), get).await.unwrap_err();
    assert!(error.to_string().contains("alert"), "{error}");
    assert_eq!(backend.connections(), 0);
}

#[test]
fn a_mesh_that_would_refuse_everybody_does_not_start() {
    let own = App::new(1);
    let mut config = world::config(&own);
    config.images.clear();
    assert!(Attested::new(&config).is_ok(), "nothing is served and nothing called");
    config.targets.insert(own.id, ([127, 0, 0, 1], 1).into());
    let error = Attested::new(&config).unwrap_err();
    assert!(matches!(error, MeshError::Policy(_)) && error.to_string().contains("images"), "{error}");
}
