//! Whom a service may call through its mesh: measured targets that prove, in the handshake, to be who they must be.

use std::net::SocketAddr;

use casemate_measure::AppId;

use crate::backend::{Backend, Seen, field};
use crate::callers::demo;
use crate::client::{Outcome, plain};
use crate::log;
use crate::machine::{CALLER, DEMO, EXTERNAL, Machine, another_image, image};
use crate::proxy::{Proxy, start};
use crate::relay::Relay;
use crate::target::{Heard, Target};

/// A mesh whose services may call that app at that address; its own backend must never hear of it.
async fn calling(app: AppId, at: SocketAddr) -> (Proxy, Backend, Machine) {
    let (machine, backend) = (Machine::boot(EXTERNAL, image()), Backend::answering("not called").await);
    let proxy = start(&machine, &backend, |config| {
        config.targets.insert(app, at);
    })
    .await;
    (proxy, backend, machine)
}

/// A request of a service to that app, with a body that must not fall into the wrong hands.
async fn ask(mesh: &Proxy, app: AppId) -> Outcome {
    let request = format!(
        "GET /secret HTTP/1.1\r\nhost: there\r\nx-dstack-target-app: {app}\r\nx-dstack-app-id: {}\r\n\
         authorization: a secret\r\nconnection: close\r\n\r\n",
        "ab".repeat(20)
    );
    plain(mesh.outbound, &request).await
}

#[tokio::test]
async fn a_measured_target_that_is_who_it_must_be_is_called() {
    let (there, backend, callee) = demo().await;
    let (here, own, caller) = calling(callee.app, there.inbound).await;
    let outcome = ask(&here, callee.app).await;
    assert_eq!((outcome.status(), outcome.body()), (200, "the page"));
    let head = backend.only_request();
    assert!(head.starts_with("GET /secret HTTP/1.1\r\n"), "{head}");
    assert_eq!(field(&head, "x-dstack-app-id"), [caller.app.to_string()]);
    assert_eq!(field(&head, "x-casemate-compose-hash"), [caller.compose.to_string()]);
    assert_eq!(field(&head, "authorization"), ["a secret"]);
    assert!(field(&head, "x-dstack-target-app").is_empty(), "{head}");
    assert_eq!(own.seen(), Seen::nothing());
}

/// The control of what follows: such a server does read what is sent to it, if it is the right one.
#[tokio::test]
async fn a_target_of_our_own_making_hears_the_request_of_those_who_trust_it() {
    let right = Machine::boot(DEMO, image());
    let target = Target::with(right.certificate().await).await;
    let (here, own, _caller) = calling(right.app, target.address).await;
    let outcome = ask(&here, right.app).await;
    assert_eq!((outcome.status(), outcome.body()), (200, "hello"));
    let heard = target.heard();
    assert_eq!((heard.connections, heard.completed, heard.refusals.len()), (1, 1, 0), "{heard:?}");
    assert!(heard.bytes > "a secret".len(), "{heard:?}");
    assert_eq!(own.seen(), Seen::nothing());
}

/// Calls `wanted` where `answering` answers, and expects a refusal in the handshake, for that reason.
async fn refused(wanted: AppId, answering: &Machine, reason: &str) {
    let target = Target::with(answering.certificate().await).await;
    let (here, own, _caller) = calling(wanted, target.address).await;
    let mark = log::mark();
    let outcome = ask(&here, wanted).await;
    assert_eq!(outcome.status(), 502);
    // The service is told, and so is the log.
    let expected =
        format!("app {wanted}: the TLS handshake failed: the peer's certificate is not accepted: {reason}");
    assert!(outcome.body().starts_with(&expected), "{}", outcome.body());
    mark.line(&["not relayed", &wanted.to_string(), reason]).await;

    // How the target saw it: an alert, and not a byte of the request.
    let heard = target.heard();
    assert_eq!((heard.completed, heard.bytes), (0, 0), "{heard:?}");
    assert!(heard.connections >= 1, "{heard:?}");
    assert!(heard.refusals.iter().all(|why| why.contains("alert")), "{heard:?}");
    assert_eq!(own.seen(), Seen::nothing());
}

#[tokio::test]
async fn another_app_at_the_targets_address_hears_nothing() {
    let (wanted, other) = (Machine::boot(DEMO, image()), Machine::boot(CALLER, image()));
    let reason = format!("not trusted: app_id: expected {}, found {}", wanted.app, other.app);
    refused(wanted.app, &other, &reason).await;
}

#[tokio::test]
async fn a_kernel_of_ones_own_with_the_targets_app_id_hears_nothing() {
    let forger = Machine::boot(DEMO, another_image());
    let reason = format!("not trusted: images[0].rtmr2: expected our own, {}", image().rtmr2);
    refused(forger.app, &forger, &reason).await;
}

#[tokio::test]
async fn an_app_that_was_not_measured_is_not_called() {
    let (wanted, other) = (Machine::boot(DEMO, image()), Machine::boot(CALLER, image()));
    let target = Target::with(other.certificate().await).await;
    let (here, own, _caller) = calling(wanted.app, target.address).await;
    let outcome = ask(&here, other.app).await;
    assert_eq!(outcome.status(), 403);
    assert!(outcome.body().contains("is not among the measured targets"), "{}", outcome.body());
    assert_eq!(target.heard(), Heard::default());
    assert_eq!(own.seen(), Seen::nothing());
}

/// Two appliances, each the other's target. No two documents can name each other's hash, so here the targets are given to
/// the meshes as a KMS's app ids would be.
#[tokio::test]
async fn two_meshes_call_each_other() {
    let (one, other) = (Machine::boot(DEMO, image()), Machine::boot(EXTERNAL, image()));
    let (behind_one, behind_other) = (Backend::answering("one").await, Backend::answering("other").await);
    let (to_one, to_other) = (Relay::open().await, Relay::open().await);
    let targets = |app, relay: &Relay| {
        let address = relay.address;
        move |config: &mut casemate_mesh::Config| {
            config.targets.insert(app, address);
        }
    };
    let mesh_of_one = start(&one, &behind_one, targets(other.app, &to_other)).await;
    let mesh_of_other = start(&other, &behind_other, targets(one.app, &to_one)).await;
    to_one.lead_to(mesh_of_one.inbound);
    to_other.lead_to(mesh_of_other.inbound);

    let (there, back) = tokio::join!(ask(&mesh_of_one, other.app), ask(&mesh_of_other, one.app));
    assert_eq!((there.status(), there.body()), (200, "other"));
    assert_eq!((back.status(), back.body()), (200, "one"));
    assert_eq!(field(&behind_other.only_request(), "x-dstack-app-id"), [one.app.to_string()]);
    assert_eq!(field(&behind_one.only_request(), "x-dstack-app-id"), [other.app.to_string()]);
}
