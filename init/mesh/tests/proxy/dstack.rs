//! From a service to the guest agent: a fake one, which keeps what reaches it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use casemate_mesh::{Mesh, MeshError, Outbound, ServiceDstack, ServiceQuote};
use hyper::body::Incoming;
use hyper::{Request, Response};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::client::{self, empty, full};
use crate::world::{self, App, Known};

/// An agent that answers with what it was asked, once it may.
struct FakeAgent {
    folder: TempDir,
    heard: Arc<Mutex<Vec<String>>>,
    may_answer: Arc<Semaphore>,
}

impl FakeAgent {
    /// Its answer to a request, head and body.
    fn answering(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("dstack.sock")).unwrap();
        let (heard, may_answer) = (Arc::<Mutex<Vec<String>>>::default(), Arc::new(Semaphore::new(1000)));
        let (answer, keep, permits) = (Arc::new(answer), Arc::clone(&heard), Arc::clone(&may_answer));
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (answer, heard, permits) = (Arc::clone(&answer), Arc::clone(&keep), Arc::clone(&permits));
                tokio::spawn(async move {
                    let request = request(&mut stream).await;
                    heard.lock().unwrap().push(request.clone());
                    permits.acquire().await.unwrap().forget();
                    drop(stream.write_all(answer(&request).as_bytes()).await);
                });
            }
        });
        Self { folder, heard, may_answer }
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    async fn until_heard(&self, calls: usize) {
        tokio::time::timeout(client::PATIENCE, async {
            while self.heard().len() < calls {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap();
    }
}

async fn request(stream: &mut UnixStream) -> String {
    let mut text = client::until(stream, "\r\n\r\n").await;
    let length =
        text.split_once("content-length: ").map_or("0", |(_, rest)| rest.split("\r\n").next().unwrap());
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    text.push_str(&String::from_utf8(body).unwrap());
    text
}

fn http(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// What the agent answers to a request for a quote: the report data that it was given, as our agent does.
fn quoting(request: &str) -> String {
    let (_, body) = request.split_once("\r\n\r\n").unwrap();
    let asked: Value = serde_json::from_str(body).unwrap();
    http(
        "200 OK",
        &json!({ "quote": "00", "event_log": "[]", "report_data": asked["report_data"] }).to_string(),
    )
}

/// The outbound listeners of services with these permissions.
async fn services(agent: &FakeAgent, permissions: &[Option<ServiceDstack>]) -> Vec<SocketAddr> {
    let own = App::new(1);
    let mut config = world::config(&own);
    let mut listeners = Vec::new();
    for (number, dstack) in permissions.iter().enumerate() {
        config.outbound.push(Outbound { service: format!("s{number}"), dstack: dstack.clone() });
        listeners.push(StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    }
    let addresses = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
    let mesh = Mesh::open_with(config, listeners, Vec::new(), Arc::new(Known::new(&[&own]))).unwrap();
    let mesh = mesh.with_agent(agent.folder.path().join("dstack.sock"));
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let ended = mesh.run(own, || ready.send(()).unwrap()).await;
        panic!("the mesh ended: {ended:?}");
    });
    is_ready.await.unwrap();
    addresses
}

fn may(quote: ServiceQuote) -> Option<ServiceDstack> {
    Some(ServiceDstack { get_key: vec!["web/*".to_owned()], quote })
}

async fn one(agent: &FakeAgent, quote: ServiceQuote) -> SocketAddr {
    services(agent, &[may(quote)]).await[0]
}

async fn send(to: SocketAddr, request: Request<client::Body>) -> Response<Incoming> {
    client::plain(to).await.send_request(request).await.unwrap()
}

async fn post(to: SocketAddr, path: &str, body: impl Into<String>) -> (u16, Value) {
    let request = Request::post(path).header("host", "dstack").header("content-type", "application/json");
    let answer = send(to, request.body(full(body.into())).unwrap()).await;
    assert_eq!(answer.headers()["content-type"], "application/json");
    (answer.status().as_u16(), serde_json::from_str(&client::text(answer).await).unwrap())
}

async fn get(to: SocketAddr, path: &str, fields: &[(&str, &str)]) -> (u16, String) {
    let mut request = Request::get(path).header("host", "dstack");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let answer = send(to, request.body(empty()).unwrap()).await;
    (answer.status().as_u16(), client::text(answer).await)
}

#[tokio::test]
async fn app_data_reach_the_agent_as_a_tagged_hash_and_nothing_else_does() {
    let agent = FakeAgent::answering(quoting);
    let service = one(&agent, ServiceQuote::AppData).await;
    let tagged = {
        use sha2::{Digest as _, Sha512};
        hex::encode(Sha512::digest(b"app-data:\x01\x02"))
    };
    let request = Request::post("/GetQuote?json&report_data=ff&x=%22")
        .header("host", "a.b")
        .header("authorization", "secret")
        .header("x-dstack-app-id", "forged")
        .header("expect", "100-continue")
        .body(full(r#"{"report_data":"0x0102","subject":"forged"}"#))
        .unwrap();
    let answer = send(service, request).await;
    assert_eq!(answer.status(), 200);
    let answer: Value = serde_json::from_str(&client::text(answer).await).unwrap();
    let expected =
        json!({ "quote": "00", "event_log": "[]", "report_data": tagged, "report_data_tag": "app-data" });
    assert_eq!(answer, expected);
    let expected = format!(
        "POST /GetQuote?json HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 146\r\n\r\n\
         {{\"report_data\":\"{tagged}\"}}"
    );
    assert_eq!(agent.heard(), [expected]);

    // A body beside a GET is nobody's.
    let request = Request::get("/GetQuote?report_data=0102").header("host", "x");
    let request =
        request.header("content-type", "application/json").body(full(r#"{"report_data":"03"}"#)).unwrap();
    let answer: Value = serde_json::from_str(&client::text(send(service, request).await).await).unwrap();
    assert_eq!(answer["report_data"], tagged);
}

#[tokio::test]
async fn what_the_document_does_not_allow_never_reaches_the_agent() {
    let agent = FakeAgent::answering(quoting);
    let all = [may(ServiceQuote::None), may(ServiceQuote::AppData), None];
    let addresses = services(&agent, &all).await;
    let (none, app_data, without) = (addresses[0], addresses[1], addresses[2]);
    for (service, path, body, status, text) in [
        (none, "/GetQuote", r#"{"report_data":"00"}"#, 403, "dstack.quote is \"none\""),
        (none, "/GetTlsKey", "{}", 403, "GetTlsKey: "),
        (none, "/GetKey", r#"{"path":"vms"}"#, 403, "GetKey: path \"vms\""),
        (app_data, "/GetTlsKey", r#"{"usage_ra_tls":true}"#, 403, "speaks as the appliance"),
        (app_data, "/Attest", r#"{"report_data":"00"}"#, 403, "\"Attest\": "),
        (app_data, "/prpc/GetQuote", r#"{"report_data":"00"}"#, 403, "\"prpc/GetQuote\": "),
        (app_data, "/GetQuote", r#"{"report_data":"00","report_data":"00"}"#, 400, "duplicate"),
        (app_data, "/GetQuote", "[\"00\"]", 400, "expected a JSON object"),
    ] {
        let (found, answer) = post(service, path, body).await;
        let error = answer["error"].as_str().unwrap();
        assert!(found == status && error.contains(text), "{path} {body}: {found} {error}");
    }
    // Without `dstack` nothing is different from what it was.
    let (status, answer) = get(without, "/GetQuote?report_data=00", &[]).await;
    assert!(status == 400 && answer.starts_with("no target: "), "{status} {answer}");
    // And neither is a request that means another app.
    let target = "07".repeat(20);
    for (fields, status) in [
        (vec![("x-dstack-target-app", target.as_str())], 403),
        (vec![("x-dstack-target-port", "443")], 400),
        (vec![("x-dstack-target-instance", target.as_str())], 400),
        (vec![("x-dstack-use-tls", "true")], 400),
    ] {
        let (found, answer) = get(app_data, "/Info", &fields).await;
        assert!(found == status && answer.contains("target"), "{fields:?}: {found} {answer}");
    }
    assert_eq!(agent.heard(), [""; 0]);
}

#[tokio::test]
async fn what_it_allows_comes_back_as_the_agent_says_it() {
    let agent = FakeAgent::answering(|request| match request.split(' ').nth(1).unwrap() {
        "/Info?json" => http("200 OK", &format!("{{\"tcb_info\":\"{}\"}}", "x".repeat(8 << 20))),
        "/GetKey?json" => http("200 OK", "{ \"key\": \"ab\",  \"signature_chain\":[]}"),
        "/GetQuote?json" => http("400 Bad Request", "{\n  \"error\": \"no TEE\"\n}"),
        "/Version?json" => http("503 Service Unavailable", "{\"error\":\"too many connections\"}"),
        _ => http("403 Forbidden", "{\"error\":\"uid 103 may not use this socket\"}"),
    });
    let service = one(&agent, ServiceQuote::Raw).await;
    // Above whatever is gathered: it is not.
    let (status, info) = get(service, "/Info", &[]).await;
    assert_eq!((status, info.len()), (200, (8 << 20) + 15));
    assert_eq!(
        get(service, "/GetKey?path=web/a", &[]).await,
        (200, "{ \"key\": \"ab\",  \"signature_chain\":[]}".into())
    );
    assert_eq!(
        get(service, "/GetQuote?report_data=00", &[]).await,
        (400, "{\n  \"error\": \"no TEE\"\n}".into())
    );
    assert_eq!(get(service, "/Version", &[]).await.0, 503);
    let (status, error) = post(service, "/GetTlsKey", "{}").await;
    assert!(status == 502 && error["error"].as_str().unwrap().contains("found 403"), "{status} {error}");

    // One connection, several calls: kept, and each asked anew.
    let mut sender = client::plain(service).await;
    for _ in 0..3 {
        let request =
            Request::post("/GetKey?json").header("host", "x").body(full("{\"path\":\"web/\"}")).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        client::text(answer).await;
        sender.ready().await.unwrap();
    }
    assert_eq!(agent.heard().len(), 8);
}

#[tokio::test]
async fn an_agent_that_is_wrong_or_gone_is_a_502() {
    for (answer, text) in [
        (
            http("200 OK", "{\"quote\":\"00\",\"report_data\":\"00\"}"),
            "expected the report data that were asked for",
        ),
        (http("200 OK", "[]"), "expected a JSON object"),
        (http("200 OK", &"x".repeat((256 << 10) + 1)), "at most 262144 bytes"),
        (http("200 OK", "x").replace("length: 1", "length: 2"), "broke before the answer"),
        (http("302 Found", ""), "expected status 200, 400 or 503"),
        ("SSH-2.0\r\n\r\n".to_owned(), "broke before the answer"),
        (String::new(), "broke before the answer"),
    ] {
        let agent = FakeAgent::answering(move |_| answer.clone());
        let service = one(&agent, ServiceQuote::AppData).await;
        let (status, error) = post(service, "/GetQuote", "{}").await;
        let error = error["error"].as_str().unwrap();
        assert!(status == 502 && error.contains(text), "{text}: {status} {error}");
        std::fs::remove_file(agent.folder.path().join("dstack.sock")).unwrap();
        let (status, error) = post(service, "/GetQuote", "{}").await;
        assert!(status == 502 && error["error"].as_str().unwrap().contains("cannot be reached"), "{error}");
    }
}

#[tokio::test]
async fn large_bodies_are_refused_whatever_they_say_of_themselves() {
    let agent = FakeAgent::answering(quoting);
    let service = one(&agent, ServiceQuote::AppData).await;
    let data = "ab".repeat(32_000);
    let (status, answer) = post(service, "/GetQuote", format!("{{\"report_data\":\"{data}\"}}")).await;
    assert_eq!((status, &answer["report_data_tag"]), (200, &json!("app-data")));
    let data = "ab".repeat(33_000);
    let (status, answer) = post(service, "/GetQuote", format!("{{\"report_data\":\"{data}\"}}")).await;
    assert!(status == 400 && answer["error"].as_str().unwrap().contains("at most 65536 bytes"), "{answer}");
    assert_eq!(agent.heard().len(), 1);
}

#[tokio::test]
async fn no_service_takes_all_of_the_agents_places() {
    let agent = FakeAgent::answering(quoting);
    agent.may_answer.forget_permits(1000);
    let addresses = services(&agent, &[may(ServiceQuote::AppData), may(ServiceQuote::AppData)]).await;
    let key = |service| async move { post(service, "/GetKey", r#"{"path":"web/"}"#).await.0 };
    let mut waiting: Vec<_> = (0..3).map(|_| tokio::spawn(key(addresses[0]))).collect();
    agent.until_heard(3).await;
    // One alone has what one may have; another still finds a place, and then there is none for the first.
    let (status, error) = post(addresses[0], "/Version", "{}").await;
    assert!(status == 503 && error["error"].as_str().unwrap().contains("too many calls"), "{status} {error}");
    waiting.push(tokio::spawn(key(addresses[1])));
    agent.until_heard(4).await;
    // Who hangs up gives nothing back while the agent is still at it.
    waiting.remove(0).abort();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(key(addresses[0]).await, 503);
    agent.may_answer.add_permits(1000);
    for answered in waiting {
        assert_eq!(answered.await.unwrap(), 200);
    }
    tokio::time::timeout(client::PATIENCE, async {
        while key(addresses[0]).await != 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(agent.heard().len(), 5);
}

#[tokio::test]
async fn evidence_is_asked_for_one_by_one() {
    let agent = FakeAgent::answering(quoting);
    agent.may_answer.forget_permits(1000);
    let addresses = services(&agent, &[may(ServiceQuote::AppData), may(ServiceQuote::Raw)]).await;
    let quote = |service| async move { post(service, "/GetQuote", "{}").await.0 };
    let first = tokio::spawn(quote(addresses[0]));
    agent.until_heard(1).await;
    let second = tokio::spawn(quote(addresses[1]));
    // Whatever needs no evidence goes past; and who hangs up keeps its turn, since the agent is still at it.
    let past = tokio::spawn(async move { post(addresses[1], "/GetKey", r#"{"path":"web/"}"#).await.0 });
    agent.until_heard(2).await;
    first.abort();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(agent.heard()[1].contains("/GetKey?json"));
    assert_eq!(agent.heard().len(), 2);
    agent.may_answer.add_permits(2);
    agent.until_heard(3).await;
    agent.may_answer.add_permits(1);
    assert_eq!((past.await.unwrap(), second.await.unwrap()), (200, 200));
}

#[tokio::test]
async fn services_that_may_ask_need_an_agent() {
    let own = App::new(1);
    let mut config = world::config(&own);
    config.outbound = vec![Outbound { service: "web".to_owned(), dstack: may(ServiceQuote::None) }];
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mesh = Mesh::open_with(config, vec![listener], Vec::new(), Arc::new(Known::new(&[&own]))).unwrap();
    let error = mesh.run(own, || ()).await.unwrap_err();
    assert!(matches!(&error, MeshError::NoAgent { service } if service == "web"), "{error}");
}
