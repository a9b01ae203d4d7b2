//! Who may call: apps of the same image, by what their quotes say, and nobody else.

use crate::backend::{Backend, Seen, field};
use crate::client::{call, certificate_of, verifier};
use casemate_mesh::Caller;

use crate::machine::{CALLER, DEMO, EXTERNAL, Machine, image};
use crate::proxy::{Proxy, start};

/// The demo's mesh in front of a backend.
pub(crate) async fn demo() -> (Proxy, Backend, Machine) {
    let (machine, backend) = (Machine::boot(DEMO, image()), Backend::answering("the page").await);
    let proxy = start(&machine, &backend, |_| ()).await;
    (proxy, backend, machine)
}

pub(crate) const GET: &str = "GET /page HTTP/1.1\r\nhost: demo\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn another_app_of_the_same_image_is_served_and_introduced() {
    let (mesh, backend, _demo) = demo().await;
    let caller = Machine::boot(CALLER, image());
    let forged = "ab".repeat(20);
    let request = format!(
        "GET /page HTTP/1.1\r\nhost: demo\r\nx-dstack-app-id: {forged}\r\nX_Dstack_App_Id: {forged}\r\n\
         x-casemate-compose-hash: {forged}\r\nconnection: close, x-dstack-app-id\r\n\r\n"
    );
    let outcome = call(mesh.inbound, Some(caller.certificate().await), &request).await;
    assert_eq!((outcome.status(), outcome.body()), (200, "the page"));

    let head = backend.only_request();
    assert!(head.starts_with("GET /page HTTP/1.1\r\n"), "{head}");
    assert_eq!(field(&head, "x-dstack-app-id"), [caller.app.to_string()]);
    assert_eq!(field(&head, "x-casemate-compose-hash"), [caller.compose.to_string()]);
    assert!(!head.contains(&forged), "{head}");
}

#[tokio::test]
async fn the_mesh_proves_itself_to_whoever_calls_it() {
    let (mesh, backend, machine) = demo().await;
    let caller = Machine::boot(CALLER, image());
    let shown = certificate_of(mesh.inbound).await;
    let peer = verifier(Some(machine.app)).identify(&shown).unwrap();
    assert_eq!((peer.app_id(), peer.compose_hash()), (machine.app, machine.compose));
    assert_eq!(peer.launch(), image());
    let error = verifier(Some(caller.app)).identify(&shown).unwrap_err().to_string();
    assert!(error.starts_with("not trusted: app_id: expected"), "{error}");
    assert_eq!(backend.seen(), Seen::nothing());
}

#[tokio::test]
async fn without_a_certificate_there_is_health_and_nothing_else() {
    let (mesh, backend, _demo) = demo().await;
    let ask = async |method: &str, path: &str| {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: demo\r\nx-dstack-app-id: {}\r\ncontent-length: 0\r\n\r\n",
            "ab".repeat(20)
        );
        call(mesh.inbound, None, &request).await
    };
    let health = ask("GET", "/health").await;
    assert_eq!((health.status(), health.body()), (200, "ok\n"));
    for (method, path) in
        [("GET", "/"), ("GET", "/page"), ("POST", "/health"), ("GET", "/health/../page"), ("PUT", "/page")]
    {
        let outcome = ask(method, path).await;
        assert_eq!(outcome.status(), 403, "{method} {path}");
        // The connection ended with the answer: `call` reads to the end.
        assert_eq!(outcome.body(), "a client certificate is required\n", "{method} {path}");
    }
    // A second request on the same connection is not even read.
    let both = format!("GET /health HTTP/1.1\r\nhost: demo\r\n\r\n{GET}");
    let outcome = call(mesh.inbound, None, &both).await;
    assert_eq!((outcome.status(), outcome.body()), (200, "ok\n"));
    assert_eq!(backend.seen(), Seen::nothing());
}

/// Authentic, of the right image, and not named by `allow`: that is no more than a stranger.
#[tokio::test]
async fn an_app_that_is_not_allowed_is_a_stranger() {
    let machine = Machine::boot(DEMO, image());
    let (listed, other) = (Machine::boot(CALLER, image()), Machine::boot(EXTERNAL, image()));
    let backend = Backend::answering("the page").await;
    let mesh = start(&machine, &backend, |config| {
        config.backends[0].allow = vec![Caller::App(listed.app)];
    })
    .await;
    let refused = call(mesh.inbound, Some(other.certificate().await), GET).await;
    assert_eq!(refused.status(), 403);
    assert_eq!(refused.body(), format!("app {} is not allowed here\n", other.app));
    assert_eq!(backend.seen(), Seen::nothing());

    let served = call(mesh.inbound, Some(listed.certificate().await), GET).await;
    assert_eq!(served.status(), 200);
    assert_eq!(field(&backend.only_request(), "x-dstack-app-id"), [listed.app.to_string()]);
}
