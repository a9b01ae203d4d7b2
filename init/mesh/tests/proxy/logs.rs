//! Who reads the log rings, and what they get.

use std::fs::File;

use casemate_mesh::ring::{Batch, CAPACITY, Writer, file_len};
use casemate_mesh::{Caller, Mesh, MeshError};
use serde_json::{Value, json};

use crate::backend::Backend;
use crate::client;
use crate::world::{self, App, Known, Running};

const LOGS: &str = "/.well-known/casemate/logs";

/// A ring as PID 1 writes it, and the mesh's descriptor of it.
struct Ring {
    writer: Writer<File>,
    reader: File,
}

impl Ring {
    fn new() -> Self {
        let path = tempfile::NamedTempFile::new().unwrap();
        path.as_file().set_len(file_len()).unwrap();
        let reader = File::open(path.path()).unwrap();
        Self { writer: Writer::new(path.into_file(), CAPACITY).unwrap(), reader }
    }

    fn say(&mut self, lines: impl IntoIterator<Item = impl AsRef<[u8]>>) {
        let mut batch = Batch::default();
        for (time, line) in (0..).zip(lines) {
            batch.push(1000 + time, false, line.as_ref());
        }
        self.writer.append(batch).unwrap();
    }
}

/// A mesh whose only backend admits `allowed`, with the rings `web` and `casemate`, for `readers`.
async fn mesh(
    backend: &Backend,
    own: &App,
    known: &[&App],
    allowed: Caller,
    readers: &[&App],
) -> (Running, Ring) {
    let (web, mut pid1) = (Ring::new(), Ring::new());
    pid1.say(["ready"]);
    let mut config = world::config(own);
    config.backends = vec![world::backend(backend.address, vec![allowed])];
    config.log_readers = readers.iter().map(|app| app.id).collect();
    config.logs = vec!["web".to_owned(), "casemate".to_owned()];
    let files = vec![web.reader.try_clone().unwrap(), pid1.reader];
    (world::start_with(own, config, files, Known::new(known)).await, web)
}

async fn get(mesh: &Running, own: &App, caller: Option<&App>, path: &str) -> (u16, String) {
    request(mesh, own, caller, "GET", path).await
}

async fn request(mesh: &Running, own: &App, caller: Option<&App>, method: &str, path: &str) -> (u16, String) {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let answer = client::talk(mesh.inbound, own, caller, &request).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

async fn json(mesh: &Running, own: &App, caller: &App, path: &str) -> Value {
    let (status, body) = get(mesh, own, Some(caller), path).await;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

#[tokio::test]
async fn a_reader_gets_the_index_and_the_lines() {
    let backend = Backend::reflecting().await;
    let (own, reader) = (App::new(1), App::new(2));
    let (mesh, mut web) = mesh(&backend, &own, &[&reader], Caller::Any, &[&reader]).await;
    web.say([b"one".as_slice(), b"\x1b[2J\xff", b"three"]);

    let index = json(&mesh, &own, &reader, LOGS).await;
    let entry = |name: &str, lines: u32| json!({ "name": name, "lines": lines, "dropped": 0 });
    assert_eq!(index, json!({ "version": 1, "logs": [entry("web", 3), entry("casemate", 1)] }));

    let line = |n: u64, text: &str| json!({ "sequence": n, "boottime_ms": 999 + n, "text": text });
    let all = [line(1, "one"), line(2, "\u{1b}[2J\u{fffd}"), line(3, "three")];
    let page = |last: u64, more: bool, lines: &[Value]| json!({ "version": 1, "name": "web", "last": last, "more": more, "missed": 0, "dropped": 0, "lines": lines });
    let web_log = format!("{LOGS}/web");
    assert_eq!(json(&mesh, &own, &reader, &web_log).await, page(3, false, &all));
    assert_eq!(json(&mesh, &own, &reader, &format!("{web_log}?limit=2")).await, page(2, true, &all[..2]));
    assert_eq!(
        json(&mesh, &own, &reader, &format!("{web_log}?after=2&limit=2")).await,
        page(3, false, &all[2..])
    );
    assert_eq!(json(&mesh, &own, &reader, &format!("{web_log}?after=9")).await, page(9, false, &[]));
    let raw = get(&mesh, &own, Some(&reader), &web_log).await.1;
    assert!(raw.is_ascii() && !raw.contains('\u{1b}'), "{raw:?}");
    // Absolute form, and whatever else the request carries, is the same path.
    assert_eq!(json(&mesh, &own, &reader, &format!("http://web{web_log}")).await["last"], 3);

    for (path, status) in [
        ("/.well-known/casemate/logs/db", 404),
        ("/.well-known/casemate/logs/", 404),
        ("/.well-known/casemate/logs/web/", 404),
        ("/.well-known/casemate/logs?after=1", 400),
        ("/.well-known/casemate/logs/web?since=1", 400),
        ("/.well-known/casemate/collateral", 404),
    ] {
        assert_eq!(get(&mesh, &own, Some(&reader), path).await.0, status, "{path}");
    }
    assert_eq!(request(&mesh, &own, Some(&reader), "POST", &web_log).await.0, 405);
    assert_eq!(backend.connections(), 0, "the service is called web, and is not asked");
}

#[tokio::test]
async fn lines_that_are_gone_are_counted_and_an_answer_is_bounded() {
    let backend = Backend::reflecting().await;
    let (own, reader) = (App::new(1), App::new(2));
    let (mesh, mut web) = mesh(&backend, &own, &[&reader], Caller::Any, &[&reader]).await;
    for _ in 0..30 {
        web.say(vec![[b'\x01'; 1000]; 100]);
    }
    let first = json(&mesh, &own, &reader, &format!("{LOGS}/web")).await;
    let (dropped, missed) = (first["dropped"].as_u64().unwrap(), first["missed"].as_u64().unwrap());
    // 3000 lines of 1020 bytes, in a ring of 1 MiB.
    assert_eq!((dropped, missed), (3000 - (1 << 20) / 1020, dropped));
    let lines = first["lines"].as_array().unwrap();
    assert_eq!(lines[0]["sequence"], dropped + 1);
    assert_eq!(lines.len(), (64 << 10) / (1000 + 64), "64 KiB of lines in one answer");
    assert_eq!(first["more"], true);

    let (mut after, mut seen) = (0, 0);
    loop {
        let page = json(&mesh, &own, &reader, &format!("{LOGS}/web?after={after}")).await;
        seen += page["lines"].as_array().unwrap().len();
        after = page["last"].as_u64().unwrap();
        if page["more"] == false {
            break;
        }
    }
    assert_eq!((after, seen as u64), (3000, 3000 - dropped));
}

#[tokio::test]
async fn nobody_else_reads_a_line() {
    let backend = Backend::reflecting().await;
    let (own, reader, other) = (App::new(1), App::new(2), App::new(3));
    let (mesh, mut web) = mesh(&backend, &own, &[&reader, &other], Caller::Any, &[&reader]).await;
    web.say(["a secret"]);
    for path in
        [LOGS.to_owned(), format!("{LOGS}/web"), format!("{LOGS}/web?after=0"), format!("{LOGS}/none")]
    {
        for (caller, who) in [(None, "nobody"), (Some(&other), "another app")] {
            for method in ["GET", "POST", "HEAD"] {
                let (status, body) = request(&mesh, &own, caller, method, &path).await;
                assert_eq!(status, 403, "{who}: {method} {path}: {body}");
                assert!(!body.contains("secret") && !body.contains("sequence"), "{body}");
            }
        }
        assert!(
            client::talk(mesh.inbound, &own, Some(&App::new(2)), &path).await.is_err(),
            "a stranger's certificate"
        );
    }
    // The paths are the mesh's own: no spelling of them reaches the backend, whoever asks.
    assert_eq!(backend.connections(), 0);
    assert_eq!(get(&mesh, &own, Some(&other), "/page").await.0, 200);
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn a_reader_that_may_not_call_reads_and_nothing_else() {
    let backend = Backend::reflecting().await;
    let (own, reader, caller) = (App::new(1), App::new(2), App::new(3));
    let (mesh, mut web) = mesh(&backend, &own, &[&reader, &caller], Caller::App(caller.id), &[&reader]).await;
    web.say(["one"]);
    assert_eq!(json(&mesh, &own, &reader, &format!("{LOGS}/web")).await["lines"][0]["text"], "one");
    assert_eq!(get(&mesh, &own, Some(&reader), "/health").await, (200, "ok\n".to_owned()));
    for path in ["/", "/page", "/.well-known/casemate"] {
        let (status, body) = get(&mesh, &own, Some(&reader), path).await;
        assert_eq!((status, body.contains("is not allowed here")), (403, true), "{path}: {body}");
    }
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn without_readers_nobody_reads() {
    let backend = Backend::reflecting().await;
    let (own, caller) = (App::new(1), App::new(2));
    let (mesh, _web) = mesh(&backend, &own, &[&own, &caller], Caller::Any, &[]).await;
    for caller in [Some(&caller), Some(&own), None] {
        assert_eq!(get(&mesh, &own, caller, LOGS).await.0, 403);
    }
}

/// Whatever lies in the file: an answer with a status code, and the mesh goes on.
#[tokio::test]
async fn a_damaged_ring_is_an_answer() {
    let backend = Backend::reflecting().await;
    let (own, reader) = (App::new(1), App::new(2));
    let mut config = world::config(&own);
    config.backends = vec![world::backend(backend.address, vec![Caller::Any])];
    config.log_readers = vec![reader.id];
    config.logs = vec!["zeroes".to_owned(), "short".to_owned()];
    let zeroes = tempfile::tempfile().unwrap();
    zeroes.set_len(file_len()).unwrap();
    let files = vec![zeroes, tempfile::tempfile().unwrap()];
    let mesh = world::start_with(&own, config, files, Known::new(&[&reader])).await;
    let index = json(&mesh, &own, &reader, LOGS).await;
    assert_eq!(index["logs"][1], json!({ "name": "short", "lines": null, "dropped": null }));
    assert_eq!(get(&mesh, &own, Some(&reader), &format!("{LOGS}/zeroes")).await.0, 503);
    assert_eq!(get(&mesh, &own, Some(&reader), &format!("{LOGS}/short")).await.0, 500);
    assert_eq!(get(&mesh, &own, Some(&reader), "/page").await.0, 200);
}

#[test]
fn rings_are_counted() {
    let own = App::new(1);
    let mut config = world::config(&own);
    config.logs = vec!["web".to_owned()];
    let error = Mesh::open(config, Vec::new(), Vec::new()).unwrap_err();
    assert!(matches!(error, MeshError::Logs { names: 1, rings: 0 }), "{error}");
}
