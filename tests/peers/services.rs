//! What a service gets from the guest agent through its mesh, and whether it can speak as the appliance with it.

use casemate_agent::client::AgentClient;
use casemate_mesh::CertificateKey;
use casemate_verify::ratls::Attestation;
use rcgen::KeyPair;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha512};

use crate::backend::{Backend, Seen, field};
use crate::callers::{GET, demo};
use crate::client::{call, plain};
use crate::evidence::{self, certificate, report_data};
use crate::log;
use crate::machine::{DEMO, Document, Machine, image};
use crate::proxy::{Proxy, start};

/// Where a quote has its report data: the last 64 bytes of header and TD report (Intel TDX DCAP Quoting Library API, A.3).
const REPORT_DATA: std::ops::Range<usize> = 48 + 584 - 64..48 + 584;

/// The demo, whose first service has this `dstack` in the measured document.
async fn machine_with(dstack: &Value) -> (Machine, Proxy) {
    let mut document: Value = serde_json::from_str(DEMO.text).unwrap();
    document["casemate"]["services"][0]["dstack"] = dstack.clone();
    let text = Box::leak(document.to_string().into_boxed_str());
    let machine = Machine::boot(Document { name: "dstack.app-compose.json", text }, image());
    let backend = Backend::answering("not called").await;
    let proxy = start(&machine, &backend, |_| ()).await;
    (machine, proxy)
}

/// A call of the service, as dstack's SDKs make it.
async fn ask(mesh: &Proxy, method: &str, arguments: &Value) -> (u16, Value) {
    let body = arguments.to_string();
    let request = format!(
        "POST /{method} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let outcome = plain(mesh.outbound, &request).await;
    (outcome.status(), serde_json::from_str(outcome.body()).unwrap())
}

/// A quote over these bytes, as the service is given it.
async fn quote(mesh: &Proxy, over: &[u8]) -> Vec<u8> {
    let (status, answer) = ask(mesh, "GetQuote", &json!({ "report_data": hex::encode(over) })).await;
    assert_eq!(status, 200, "{answer}");
    let quote = hex::decode(answer["quote"].as_str().unwrap()).unwrap();
    assert_eq!(answer["report_data"], hex::encode(&quote[REPORT_DATA]), "what it says is what is quoted");
    quote
}

#[tokio::test]
async fn app_data_are_quoted_under_their_tag() {
    let (_machine, mesh) = machine_with(&json!({ "quote": "app-data" })).await;
    for data in [&b""[..], b"hello", &[0; 64], &[7; 1000]] {
        let expected = Sha512::new().chain_update(b"app-data:").chain_update(data).finalize();
        assert_eq!(quote(&mesh, data).await[REPORT_DATA], expected[..]);
    }
    let (status, answer) = ask(&mesh, "GetQuote", &json!({ "report_data": "00" })).await;
    assert_eq!((status, &answer["report_data_tag"]), (200, &json!("app-data")));
}

/// A certificate of the service's own making, around a quote that it asks for over the right report data for its key.
async fn forged(machine: &Machine, mesh: &Proxy) -> (CertificateKey, CertificateKey) {
    let key = KeyPair::generate().unwrap();
    let quote = quote(mesh, &report_data(&key)).await;
    // The event log is everybody's: the machine's own certificate carries it.
    let genuine = evidence::of(&machine.certificate().await);
    let honest = Attestation { report_data: quote[REPORT_DATA].try_into().unwrap(), quote, ..genuine };
    let bent = Attestation { report_data: report_data(&key), ..honest.clone() };
    (certificate(&key, Some(&honest)), certificate(&key, Some(&bent)))
}

#[tokio::test]
async fn tagged_data_make_no_certificate() {
    let (machine, own_mesh) = machine_with(&json!({ "get_key": ["*"], "quote": "app-data" })).await;
    let (mesh, backend, _demo) = demo().await;
    let (honest, bent) = forged(&machine, &own_mesh).await;
    for (certificate, reason) in
        [(honest, "report data: expected "), (bent, "report data: expected the quote's, ")]
    {
        let mark = log::mark();
        let outcome = call(mesh.inbound, Some(certificate), GET).await;
        outcome.refusal();
        mark.line(&["handshake refused", &format!("peer={} ", outcome.from), reason]).await;
    }
    assert_eq!(backend.seen(), Seen::nothing());
    // Nor is one made for it, with evidence or without.
    for evidence in [true, false] {
        let (status, answer) = ask(&own_mesh, "GetTlsKey", &json!({ "usage_ra_tls": evidence })).await;
        assert!(
            status == 403 && answer["error"].as_str().unwrap().contains("speaks as the appliance"),
            "{answer}"
        );
    }
}

/// What `raw` gives away, and the control of the test above.
#[tokio::test]
async fn whoever_may_ask_for_raw_quotes_speaks_as_the_appliance() {
    let (machine, own_mesh) = machine_with(&json!({ "quote": "raw" })).await;
    let (mesh, backend, _demo) = demo().await;
    let (forged, _) = forged(&machine, &own_mesh).await;
    let outcome = call(mesh.inbound, Some(forged), GET).await;
    assert_eq!((outcome.status(), outcome.body()), (200, "the page"));
    assert_eq!(field(&backend.only_request(), "x-dstack-app-id"), [machine.app.to_string()]);

    let (status, answer) = ask(&own_mesh, "GetQuote", &json!({ "report_data": "00".repeat(65) })).await;
    assert_eq!(status, 400);
    let words = "Report data is too long: expected at most 64 bytes, found 65";
    assert_eq!(answer["error"], words, "the agent's own");
    let (status, answer) =
        ask(&own_mesh, "GetTlsKey", &json!({ "subject": "x", "usage_ra_tls": true })).await;
    assert_eq!((status, answer["certificate_chain"].as_array().unwrap().len()), (200, 2));
}

#[tokio::test]
async fn the_rest_is_what_the_agent_says() {
    let (machine, mesh) = machine_with(&json!({ "get_key": ["web/*"] })).await;
    let agent: &AgentClient = machine.agent();
    let (status, info) = ask(&mesh, "Info", &json!({})).await;
    assert_eq!((status, info), (200, serde_json::to_value(agent.info().await.unwrap()).unwrap()));
    let (status, version) = ask(&mesh, "Version", &json!({})).await;
    assert_eq!((status, version), (200, serde_json::to_value(agent.version().await.unwrap()).unwrap()));

    let mark = log::mark();
    let arguments = json!({ "path": "web/session", "purpose": "sealing", "algorithm": "ed25519" });
    let (status, key) = ask(&mesh, "GetKey", &arguments).await;
    let expected = agent.get_key("web/session", "sealing", "ed25519").await.unwrap();
    let secret = hex::encode(expected.key);
    assert_eq!((status, key), (200, serde_json::to_value(expected).unwrap()));
    assert!(!mark.text().contains(&secret[..32]), "the key is in the log");
    let (status, error) = ask(&mesh, "GetKey", &json!({ "path": "web/", "algorithm": "rsa" })).await;
    assert!(status == 400 && error["error"].as_str().unwrap().contains("Unsupported algorithm"), "{error}");
    let (status, _) = ask(&mesh, "GetKey", &json!({ "path": "vms", "purpose": "signing" })).await;
    assert_eq!(status, 403);
    let (status, _) = ask(&mesh, "GetQuote", &json!({ "report_data": "00" })).await;
    assert_eq!(status, 403, "no quotes unless the document says so");
}
