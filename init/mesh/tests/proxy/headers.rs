//! What a backend sees of the caller, whatever the caller writes.

use http_body_util::BodyExt as _;
use hyper::{Request, StatusCode};

use crate::backend::Backend;
use crate::client::{self, empty};
use crate::world::{self, App, Running};

/// The head that reaches the backend, lower case.
async fn seen(mesh: &Running, own: &App, caller: &App, fields: &str) -> String {
    let request = format!("GET / HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n");
    let mut stream = client::tls(mesh.inbound, own, Some(caller), b"http/1.1").await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
    let answer = client::until(&mut stream, "\r\n\r\nGET ").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    client::until(&mut stream, "\r\n\r\n").await.to_lowercase()
}

/// The values of every field that CGI would call `HTTP_X_DSTACK_APP_ID`.
fn app_ids(head: &str) -> Vec<&str> {
    let folded = |name: &str| name.replace(|c: char| !c.is_ascii_alphanumeric(), "_") == "x_dstack_app_id";
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    fields.filter(|(name, _)| folded(name)).map(|(_, value)| value).collect()
}

#[tokio::test]
async fn the_backend_is_told_who_calls() {
    let backend = Backend::reflecting().await;
    let (mesh, own, caller) = world::in_front_of(backend.address).await;
    let head = seen(&mesh, &own, &caller, "Accept: */*").await;
    assert_eq!(app_ids(&head), [caller.id.to_string()]);
    assert!(head.contains(&format!("x-casemate-compose-hash: {}\r\n", "02".repeat(32))), "{head}");
    assert!(head.contains("accept: */*\r\n") && head.contains("host: x\r\n"), "{head}");
}

#[tokio::test]
async fn no_spelling_of_our_headers_comes_from_outside() {
    let backend = Backend::reflecting().await;
    let (mesh, own, caller) = world::in_front_of(backend.address).await;
    let forged = "ff".repeat(20);
    for fields in [
        format!("x-dstack-app-id: {forged}"),
        format!("X-DSTACK-APP-ID: {forged}\r\nX-Dstack-App-Id: {forged}"),
        format!("X_Dstack_App_Id: {forged}"),
        format!("x.dstack.app.id: {forged}"),
        format!("x-dstack-app-id: {forged}\r\nConnection: x-dstack-app-id"),
        "Connection: X-Dstack-App-Id, x-casemate-compose-hash".to_owned(),
        "Connection: close, x-dstack-app-id\r\nConnection: host".to_owned(),
        format!("x-casemate-compose-hash: {forged}\r\nX-Casemate-Other: {forged}"),
        format!("x-dstack-target-app: {forged}\r\nx-dstack-use-tls: {forged}"),
    ] {
        let head = seen(&mesh, &own, &caller, &fields).await;
        assert_eq!(app_ids(&head), [caller.id.to_string()], "{fields}: {head}");
        assert_eq!(head.matches("x-casemate-").count(), 1, "{fields}: {head}");
        assert_eq!(head.matches("host: x\r\n").count(), 1, "{fields}: {head}");
        assert!(!head.contains(&forged), "{fields}: {head}");
    }
}

#[tokio::test]
async fn forged_trailers_do_not_pass() {
    let backend = Backend::echoing().await;
    let (mesh, own, caller) = world::in_front_of(backend.address).await;
    let request = "POST / HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nConnection: TE, close\r\n\
                   Trailer: x-sum, x-dstack-app-id\r\nTransfer-Encoding: chunked\r\n\r\n\
                   5\r\nhello\r\n0\r\nx-sum: 5\r\nx-dstack-app-id: forged\r\nx_dstack_app_id: forged\r\n\r\n";
    let answer = client::talk(mesh.inbound, &own, Some(&caller), request).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\r\nhello\r\n"), "{answer}");
    assert!(answer.contains("x-sum: 5\r\n"), "the honest trailer passes both ways: {answer}");
    assert!(!answer.contains("forged"), "{answer}");
}

#[tokio::test]
async fn fields_of_one_hop_stay_there() {
    let backend = Backend::reflecting().await;
    let (mesh, own, caller) = world::in_front_of(backend.address).await;
    let fields = "Connection: keep-alive, x-mine\r\nKeep-Alive: timeout=9\r\nX-Mine: 1\r\nProxy-Authorization: a\r\n\
                  TE: gzip\r\nUpgrade: h2c\r\nHTTP2-Settings: AA";
    let head = seen(&mesh, &own, &caller, fields).await;
    for gone in ["connection:", "keep-alive", "x-mine", "proxy-authorization", "te:", "upgrade", "h2c"] {
        assert!(!head.lines().any(|line| line.starts_with(gone)), "{gone}: {head}");
    }
}

#[tokio::test]
async fn two_lengths_are_one_request() {
    let backend = Backend::raw(|mut stream| async move {
        // To the end of the chunked body, and then what the proxy sends besides: it keeps the connection open.
        let mut all = client::until(&mut stream, "0\r\n\r\n").await.into_bytes();
        let read = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut all);
        drop(tokio::time::timeout(std::time::Duration::from_millis(500), read).await);
        let seen = String::from_utf8_lossy(&all).replace("\r\n", "|");
        let answer =
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{seen}", seen.len());
        tokio::io::AsyncWriteExt::write_all(&mut stream, answer.as_bytes()).await.unwrap();
    })
    .await;
    let (mesh, own, caller) = world::in_front_of(backend.address).await;
    let smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    let length = smuggled.len();
    for framing in [
        format!("Content-Length: {length}\r\nTransfer-Encoding: chunked"),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {length}"),
    ] {
        let request = format!("POST /one HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n{smuggled}");
        let answer = client::talk(mesh.inbound, &own, Some(&caller), &request).await.unwrap();
        // Framed anew, and the connection is closed: what follows is not read as a request (RFC 9112 section 6.1).
        assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 1, "{answer}");
        assert!(answer.contains("POST /one HTTP/1.1|"), "{answer}");
        assert!(!answer.contains("smuggled"), "{answer}");
        assert!(!answer.to_lowercase().contains("content-length: 4"), "{answer}");
    }
    for bad in [
        "Content-Length: 3\r\nContent-Length: 4",
        "Content-Length: +3",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: x\r\n Folded: y",
    ] {
        let request = format!("POST /bad HTTP/1.1\r\nHost: x\r\n{bad}\r\n\r\nabc");
        let answer = client::talk(mesh.inbound, &own, Some(&caller), &request).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{bad}: {answer}");
    }
    assert_eq!(backend.connections(), 2);
}

#[tokio::test]
async fn http2_is_told_who_calls_as_well() {
    let backend = Backend::reflecting().await;
    let (mesh, own, caller) = world::in_front_of(backend.address).await;
    let mut sender = client::http2(mesh.inbound, &own, Some(&caller)).await;
    let requests = (0..20).map(|n| {
        let request = Request::get(format!("https://svc:9/{n}"))
            .header("x-dstack-app-id", "forged")
            .header("x_dstack_app_id", "forged")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .body(empty())
            .unwrap();
        (n, sender.send_request(request))
    });
    for (n, answer) in requests.collect::<Vec<_>>() {
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let head =
            String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
        assert!(head.starts_with(&format!("GET /{n} HTTP/1.1\r\n")), "{head}");
        assert!(head.contains("host: svc:9\r\n") && head.contains("cookie: a=1; b=2\r\n"), "{head}");
        assert_eq!(app_ids(&head), [caller.id.to_string()], "{head}");
    }
}

#[tokio::test]
async fn a_response_cannot_speak_in_our_name() {
    let backend = Backend::raw(|mut stream| async move {
        crate::backend::head(&mut stream).await.unwrap();
        let answer = "HTTP/1.1 200 OK\r\nX-Dstack-App-Id: forged\r\nX-Mine: 1\r\nConnection: x-hop, close\r\n\
                      X-Hop: 1\r\nContent-Length: 2\r\n\r\nhi";
        tokio::io::AsyncWriteExt::write_all(&mut stream, answer.as_bytes()).await.unwrap();
    })
    .await;
    let (mesh, own, caller) = world::in_front_of(backend.address).await;
    let request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answer = client::talk(mesh.inbound, &own, Some(&caller), request).await.unwrap().to_lowercase();
    assert!(answer.contains("x-mine: 1\r\n") && answer.ends_with("hi"), "{answer}");
    assert!(!answer.contains("forged") && !answer.contains("x-hop"), "{answer}");
}
