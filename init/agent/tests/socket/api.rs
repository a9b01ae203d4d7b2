//! The calls as an SDK makes them.

use casemate_agent::client::{AgentClient, ClientError};
use casemate_agent::{Agent, AgentError, Callers, TlsKeyRequest};
use casemate_measure::{EventLog, KeyProvider, RuntimeEvent};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::host::{DOCUMENT, Served, error, handover, launch};

fn json(body: &str) -> Value {
    serde_json::from_str(body).unwrap()
}

#[tokio::test]
async fn version_and_info_say_what_was_handed_over() {
    let served = Served::start();
    let version = served.client().version().await.unwrap();
    assert_eq!((version.version.as_str(), version.rev.as_str()), ("1.2.3", ""));

    let (info, given) = (served.client().info().await.unwrap(), handover());
    assert_eq!(info.app_id, given.app_id.0);
    assert_eq!(info.instance_id, given.instance_id.unwrap().0);
    assert_eq!(info.compose_hash, Sha256::digest(DOCUMENT).to_vec());
    assert_eq!(info.app_name, "an app");
    assert_eq!(info.key_provider_info, r#"{"name":"none","id":""}"#);
    assert_eq!(
        hex::encode(&info.device_id),
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    );
    let tcb = json(&info.tcb_info);
    assert_eq!(tcb["app_compose"], DOCUMENT);
    assert_eq!(tcb["mrtd"], "11".repeat(48));
    assert_eq!(tcb["rtmr0"], "22".repeat(48));
    assert_eq!(tcb["rtmr1"], "33".repeat(48));
    assert_eq!(tcb["rtmr2"], "44".repeat(48));
    assert_eq!(tcb["rtmr3"], given.events.replay().to_string());
    let registers = [[0x11; 48], [0x22; 48], [0x33; 48], [0x44; 48], given.events.replay().0].concat();
    assert_eq!(info.mr_aggregated, Sha256::digest(registers).to_vec());
    assert_eq!(tcb["mr_aggregated"], hex::encode(&info.mr_aggregated));
    // Info's log is whole: each digest is there.
    let log = tcb["event_log"].as_array().unwrap();
    assert_eq!(log.len(), 7);
    for (shown, event) in log.iter().zip(given.events.events()) {
        assert_eq!(shown["imr"], 3);
        assert_eq!(shown["event_type"], 134_217_729);
        assert_eq!(shown["event"], event.event);
        assert_eq!(shown["event_payload"], hex::encode(&event.payload));
        assert_eq!(shown["digest"], event.digest().to_string());
    }
}

#[tokio::test]
async fn a_bound_mrconfigid_is_in_the_aggregate() {
    let mut given = handover();
    let mut bound = launch();
    bound.mrconfigid = casemate_measure::MrConfigId::v1(&given.compose_hash);
    given.tee = casemate_agent::TeeHandover::Simulator { launch: bound };
    let registers = [[0x11; 48], [0x22; 48], [0x33; 48], [0x44; 48], given.events.replay().0].concat();
    let expected = Sha256::digest([registers, bound.mrconfigid.0.to_vec(), vec![0; 96]].concat()).to_vec();
    let served = Served::with(given, Callers::Anyone);
    assert_eq!(served.client().info().await.unwrap().mr_aggregated, expected);
}

#[tokio::test]
async fn every_form_of_a_call_is_answered_alike() {
    let served = Served::start();
    let expected = (200, r#"{"version":"1.2.3","rev":""}"#.to_owned());
    assert_eq!(served.get("/Version").await, expected);
    assert_eq!(served.post("Version", "").await, expected);
    assert_eq!(served.post("Version", "{}").await, expected);
    assert_eq!(served.call("POST", "/Version?json=1", "", "{\"x\":1}").await, expected);
    assert_eq!(served.call("POST", "/Version", "content-type: application/json\r\n", "{}").await, expected);
    let head = served.raw(b"GET /Version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(head.to_lowercase().contains("content-type: application/json\r\n"), "{head}");

    let quote = |(status, body): (u16, String)| {
        assert_eq!(status, 200, "{body}");
        json(&body)["report_data"].as_str().unwrap().to_owned()
    };
    let expected = format!("ab01{}", "0".repeat(124));
    assert_eq!(quote(served.get("/GetQuote?report_data=ab01").await), expected);
    assert_eq!(quote(served.get("/GetQuote?report_data=0xAB01").await), expected);
    assert_eq!(quote(served.post("GetQuote", r#"{"report_data":"0xab01"}"#).await), expected);
    assert_eq!(quote(served.post("GetQuote", "").await), "0".repeat(128));
    let full = "7f".repeat(64);
    assert_eq!(quote(served.get(&format!("/GetQuote?report_data={full}")).await), full);

    let by_query = json(&served.get("/GetKey?path=a%2Fb&purpose=p&algorithm=ed25519").await.1);
    let by_body =
        json(&served.post("GetKey", r#"{"path":"a/b","purpose":"p","algorithm":"ed25519"}"#).await.1);
    assert_eq!(by_query["key"], by_body["key"]);
    assert_eq!(by_query["signature_chain"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn errors_are_status_400_and_say_what_is_wrong() {
    let served = Served::start();
    let unknown = "unknown method: expected GetTlsKey, GetKey, GetQuote, Info or Version, found ";
    assert_eq!(served.get("/").await, error(&format!("{unknown}\"\"")));
    assert_eq!(served.get("/getquote").await, error(&format!("{unknown}\"getquote\"")));
    assert_eq!(served.get("/prpc/Info").await, error(&format!("{unknown}\"prpc/Info\"")));
    for method in ["Attest", "EmitEvent", "GpuInfo", "Sign", "Verify"] {
        let expected = error(&format!("not implemented in this version: {method}"));
        assert_eq!(served.post(method, "{}").await, expected);
        assert_eq!(served.get(&format!("/{method}")).await, expected);
    }
    assert_eq!(
        served.post("GetQuote", &format!(r#"{{"report_data":"{}"}}"#, "00".repeat(65))).await,
        error("Report data is too long: expected at most 64 bytes, found 65")
    );
    assert_eq!(
        served.post("GetQuote", r#"{"report_data":[1]}"#).await,
        error(
            "field `report_data`: expected an even number of hex digits, found a list of other things than strings"
        )
    );
    assert_eq!(
        served.post("GetKey", r#"{"algorithm":"rsa"}"#).await,
        error("Unsupported algorithm: expected `secp256k1`, `k256` or `ed25519`, found \"rsa\"")
    );
    assert_eq!(
        served.post("GetTlsKey", r#"{"not_before":5,"not_after":5}"#).await,
        error("not_before must be earlier than not_after: found 5 and 5")
    );
    assert_eq!(
        served.post("GetTlsKey", r#"{"not_after":253402300800}"#).await,
        error("field `not_after`: expected seconds since 1970 up to the year 9999, found 253402300800")
    );
    assert_eq!(
        served.post("GetTlsKey", r#"{"alt_names":["ü.example"]}"#).await,
        error("field `alt_names`: expected an IP address or an ASCII name, found \"ü.example\"")
    );
    assert_eq!(
        served.post("GetTlsKey", &format!(r#"{{"subject":"{}"}}"#, "x".repeat(254))).await,
        error("field `subject`: expected at most 253 bytes, found 254")
    );
    assert_eq!(
        served.post("GetTlsKey", r#"{"with_app_info":true}"#).await,
        error("not implemented in this version: GetTlsKey with `with_app_info`")
    );
    assert_eq!(
        served.call("PUT", "/Info?json", "", "{}").await,
        error("expected GET or POST, found \"PUT\"")
    );
}

#[tokio::test]
async fn protobuf_is_refused_in_protobuf() {
    let served = Served::start();
    let (status, body) = served.call("POST", "/Info", "content-type: application/octet-stream\r\n", "").await;
    assert_eq!(status, 400);
    let message = body.strip_prefix('\n').unwrap().get(1..).unwrap();
    assert!(message.starts_with("protobuf mode is not implemented in this version"), "{body}");
    assert_eq!(usize::from(body.as_bytes()[1]), message.len());
}

#[tokio::test]
async fn the_client_tells_refusals_from_broken_servers() {
    let served = Served::start();
    let refused = served.client().get_quote(&[0; 65]).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "GetQuote: refused with status 400: Report data is too long: expected at most 64 bytes, found 65"
    );
    let nobody = AgentClient::new("/nonexistent/dstack.sock").version().await.unwrap_err();
    assert!(matches!(&nobody, ClientError::Connect { .. }), "{nobody:?}");
    assert!(nobody.to_string().starts_with("/nonexistent/dstack.sock: "), "{nobody}");

    let dir = tempfile::tempdir().unwrap();
    for (name, answer) in [
        ("closed", ""),
        ("noise", "SSH-2.0-x\r\n"),
        ("html", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n<p/>\n"),
        ("empty", "HTTP/1.1 200 OK\r\ncontent-length: 36\r\n\r\n{\"key\": \"x\", \"certificate_chain\": []}"),
        ("short", "HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{}"),
    ] {
        let socket = dir.path().join(name);
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let task = tokio::spawn(async move {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            let (mut stream, _) = listener.accept().await.unwrap();
            // The whole request, so that closing is not a reset.
            let mut seen = Vec::new();
            while !seen.ends_with(b"}") {
                stream.read_buf(&mut seen).await.unwrap();
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let error = AgentClient::new(&socket).get_tls_key(TlsKeyRequest::default()).await.unwrap_err();
        let expected = matches!(
            (name, &error),
            ("closed" | "noise" | "short", ClientError::Http { .. })
                | ("html" | "empty", ClientError::Answer { .. })
        );
        assert!(expected, "{name}: {error:?}");
        task.await.unwrap();
    }
}

#[test]
fn a_handover_that_contradicts_itself_is_refused() {
    let refusal = |change: fn(&mut casemate_agent::Handover)| {
        let mut given = handover();
        change(&mut given);
        match Agent::new(given).unwrap_err() {
            AgentError::Handover { field, .. } => field.to_owned(),
            other => other.to_string(),
        }
    };
    assert_eq!(refusal(|h| h.document.push(' ')), "compose_hash");
    assert_eq!(refusal(|h| h.compose_hash.0[0] ^= 1), "compose_hash");
    assert_eq!(refusal(|h| h.app_id.0[19] ^= 1), "events.app-id");
    assert_eq!(refusal(|h| h.instance_id = None), "events.instance-id");
    assert_eq!(refusal(|h| h.key_provider.push(' ')), "events.key-provider");
    assert_eq!(refusal(|h| h.events = EventLog::default()), "events.compose-hash");
    // What comes after `system-ready` is not looked up.
    assert_eq!(
        refusal(|h| {
            let mut events = h.events.events().to_vec();
            events.insert(0, RuntimeEvent::new("system-ready", []));
            h.events = EventLog::new(events);
        }),
        "events.compose-hash"
    );
    let kms = refusal(|h| {
        let provider = KeyProvider::Kms(vec![1]);
        let before = casemate_agent::events_before_parsing(&h.compose_hash, &h.app_id);
        let after = casemate_agent::events_after_parsing(h.instance_id.as_ref(), &provider);
        h.events = EventLog::new(before.into_iter().chain(after).collect());
        h.key_provider = provider.event_payload();
    });
    assert!(kms.starts_with("handover: key_provider: expected `none`"), "{kms}");
}

#[test]
fn a_handover_survives_its_wire_form() {
    let given = handover();
    let text = serde_json::to_string(&given).unwrap();
    assert_eq!(serde_json::from_str::<casemate_agent::Handover>(&text).unwrap(), given);
    let mut other: Value = json(&text);
    other["extra"] = Value::Null;
    let error = serde_json::from_value::<casemate_agent::Handover>(other).unwrap_err();
    assert!(error.to_string().contains("unknown field `extra`"), "{error}");
}
