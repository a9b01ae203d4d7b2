//! A served agent, and raw HTTP to it.

use std::path::PathBuf;
use std::time::Duration;

use casemate_agent::client::AgentClient;
use casemate_agent::{Agent, Callers, Handover, TeeHandover, boot_events, serve_to};
use casemate_measure::{
    ComposeHash, EventLog, InstanceId, KeyProvider, LaunchRegisters, MrConfigId, Register,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

pub(crate) const DOCUMENT: &str = "{\"name\": \"an app\", \"text\": \"\\u0001 \\\"ü\\\"\"}\n";
/// No test waits longer for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const fn launch() -> LaunchRegisters {
    LaunchRegisters {
        mrtd: Register([0x11; 48]),
        rtmr0: Register([0x22; 48]),
        rtmr1: Register([0x33; 48]),
        rtmr2: Register([0x44; 48]),
        mrconfigid: MrConfigId::ZERO,
    }
}

pub(crate) fn handover() -> Handover {
    let compose_hash = ComposeHash::of(DOCUMENT.as_bytes());
    let app_id = compose_hash.app_id();
    let instance_id = InstanceId::derive(&[9; 20], &app_id);
    Handover {
        document: DOCUMENT.to_owned(),
        app_name: "an app".to_owned(),
        compose_hash,
        app_id,
        instance_id: Some(instance_id),
        key_provider: KeyProvider::None.event_payload(),
        events: EventLog::new(boot_events(&compose_hash, &app_id, Some(&instance_id))),
        tee: TeeHandover::Simulator { launch: launch() },
        version: "1.2.3".to_owned(),
    }
}

/// Lives as long as the test's runtime; the directory as long as this value.
pub(crate) struct Served {
    _dir: TempDir,
    pub(crate) socket: PathBuf,
}

impl Served {
    pub(crate) fn start() -> Self {
        Self::with(handover(), Callers::Anyone)
    }

    pub(crate) fn with(handover: Handover, callers: Callers) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("dstack.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(serve_to(listener, Agent::new(handover).unwrap(), callers));
        Self { _dir: dir, socket }
    }

    pub(crate) fn client(&self) -> AgentClient {
        AgentClient::new(&self.socket)
    }

    /// Sends these bytes and returns everything until the server closes.
    pub(crate) async fn raw(&self, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        let mut answer = Vec::new();
        let exchange = async {
            // A server that refused has closed already: what it said is in the buffer.
            if stream.write_all(request).await.is_ok() {
                stream.shutdown().await.ok();
            }
            stream.read_to_end(&mut answer).await.ok();
        };
        timeout(PATIENCE, exchange).await.unwrap();
        String::from_utf8(answer).unwrap()
    }

    /// Status and body of a request with these headers.
    pub(crate) async fn call(&self, method: &str, target: &str, headers: &str, body: &str) -> (u16, String) {
        let length = body.len();
        let request = format!(
            "{method} {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n{body}"
        );
        parse(&self.raw(request.as_bytes()).await)
    }

    pub(crate) async fn get(&self, target: &str) -> (u16, String) {
        self.call("GET", target, "", "").await
    }

    pub(crate) async fn post(&self, method: &str, body: &str) -> (u16, String) {
        self.call("POST", &format!("/{method}?json"), "", body).await
    }
}

/// Status and body of a response.
pub(crate) fn parse(response: &str) -> (u16, String) {
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((response, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, body.to_owned())
}

/// The body of an error with this text, as dstack prints it.
pub(crate) fn error(text: &str) -> (u16, String) {
    (400, format!("{{\n  \"error\": {}\n}}", serde_json::Value::from(text)))
}
