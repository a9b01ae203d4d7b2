//! The command, run as a person runs it.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use casemate_measure::{ComposeHash, LaunchRegisters, Register};
use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::machine::{Machine, NOW, certificate, image};

const DOCUMENT: &str = r#"{
  "manifest_version": 2, "name": "small", "runner": "casemate", "secure_time": false,
  "casemate": {
    "version": 1, "role": "node", "node": { "name": "n", "type": "t" }, "network": { "mode": "dhcp" },
    "vpn": { "mode": "direct" }, "egress": { "mode": "internal-only" }
  }
}"#;

struct Desk {
    folder: TempDir,
}

impl Desk {
    fn new() -> Self {
        Self { folder: TempDir::new().unwrap() }
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// An image directory and a document, and the policy that the command writes from them.
    fn policy(&self, launch: LaunchRegisters) -> PathBuf {
        self.file("registers.json", serde_json::to_vec(&launch).unwrap());
        let document = self.file("app-compose.json", DOCUMENT);
        let out = self.folder.path().join("policy.json");
        let made = run([
            "policy".as_ref(),
            "--image".as_ref(),
            self.folder.path(),
            "--document".as_ref(),
            &document,
            "--out".as_ref(),
            &out,
        ]);
        assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
        out
    }
}

fn run<'a>(arguments: impl IntoIterator<Item = &'a Path>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_casemate-verify"));
    command.args(arguments).output().unwrap()
}

/// Runs on a target with the usual options of these tests, and JSON.
fn inspect(target: &Path, more: &[&Path]) -> (i32, Value) {
    let now = NOW.to_string();
    let usual: [&Path; 4] = [target, "--json".as_ref(), "--at".as_ref(), now.as_ref()];
    let output = run(usual.into_iter().chain(more.iter().copied()));
    let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code().unwrap(), report)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn machine() -> Machine {
    Machine::boot(DOCUMENT.as_bytes(), image())
}

const TRUST: &str = "--trust-simulator";

#[test]
fn a_written_policy_trusts_what_it_was_written_for() {
    let desk = Desk::new();
    let policy = desk.policy(image());
    let certificate = desk.file("leaf.der", machine().certificate().1);
    let options: [&Path; 3] = [TRUST.as_ref(), "--policy".as_ref(), &policy];
    let (exit, report) = inspect(&certificate, &options);
    assert_eq!((exit, &report["verdict"]), (0, &json!("trusted")), "{report}");

    let compose = ComposeHash::of(DOCUMENT.as_bytes());
    let peer = &report["peer"];
    assert_eq!(peer["tee"], "simulator");
    assert_eq!(peer["tcb_status"], "UpToDate");
    assert_eq!(peer["app_id"], compose.app_id().to_string());
    assert_eq!(peer["compose_hash"], compose.to_string());
    assert_eq!(peer["tags"], json!(["tag:internal-only"]));
    assert_eq!(peer["registers"]["rtmr2"], image().rtmr2.to_string());
    assert_eq!(peer["registers"]["mrtd"], Value::Null);
    assert_eq!(peer["registers"]["mrconfigid"], Value::Null);
    assert!(peer["spki_pin"].as_str().unwrap().starts_with("sha256//"));
    assert_eq!(
        (&report["version"], &report["error"], &report["reasons"]),
        (&json!(1), &Value::Null, &json!([]))
    );

    let other = LaunchRegisters { rtmr2: Register::digest(b"other code"), ..LaunchRegisters::ZERO };
    let certificate = desk.file("other.der", Machine::boot(DOCUMENT.as_bytes(), other).certificate().1);
    let (exit, report) = inspect(&certificate, &options);
    assert_eq!((exit, &report["verdict"]), (1, &json!("not-trusted")));
    assert_eq!(report["reasons"][0]["what"], "images[0].rtmr2");
    assert_eq!(report["peer"]["tags"], json!([]));
}

#[test]
fn without_a_policy_nothing_is_trusted() {
    let desk = Desk::new();
    let (_, der) = machine().certificate();
    let armoured = pem(&der);
    for (name, bytes) in [("leaf.der", der), ("leaf.pem", armoured.into_bytes())] {
        let (exit, report) = inspect(&desk.file(name, bytes), &[TRUST.as_ref()]);
        assert_eq!((exit, &report["verdict"]), (1, &json!("not-judged")), "{name}: {report}");
        assert_ne!(report["peer"], Value::Null);
    }
}

#[test]
fn the_simulator_is_refused_by_name_unless_trusted_in_words() {
    let desk = Desk::new();
    let certificate = desk.file("leaf.der", machine().certificate().1);
    let (exit, report) = inspect(&certificate, &["--policy".as_ref(), &desk.policy(image())]);
    assert_eq!((exit, &report["verdict"]), (1, &json!("not-authentic")));
    assert_eq!(
        report["error"],
        "quote: expected made by an Intel TDX module, found the simulated TEE, which this verifier was not told to trust; \
         see --trust-simulator"
    );
    assert_eq!(report["peer"], Value::Null);
}

#[test]
fn text_says_what_is_not_measured_and_what_is_simulated() {
    let desk = Desk::new();
    let certificate = desk.file("leaf.der", machine().certificate().1);
    let now = NOW.to_string();
    let output = run([certificate.as_path(), TRUST.as_ref(), "--at".as_ref(), now.as_ref()]);
    let said = text(&output.stdout);
    for line in [
        "tee           SIMULATED: its keys are public",
        "mrtd          not measured",
        "mrconfigid    not bound",
        "verdict       NOT TRUSTED: authentic, not judged (no --policy)",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
}

/// Serves one handshake on a loopback port.
fn serve(key: &KeyPair, certificate: Vec<u8>) -> SocketAddr {
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(certificate)], key.into())
        .unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut connection = ServerConnection::new(Arc::new(config)).unwrap();
        while connection.is_handshaking() {
            connection.complete_io(&mut stream).unwrap();
        }
    });
    address
}

#[test]
fn a_server_is_asked_over_tls() {
    let desk = Desk::new();
    let (key, genuine) = machine().certificate();
    let address = serve(&key, genuine).to_string();
    let policy = desk.policy(image());
    let (exit, report) = inspect(address.as_ref(), &[TRUST.as_ref(), "--policy".as_ref(), &policy]);
    assert_eq!((exit, &report["verdict"]), (0, &json!("trusted")), "{report}");
    assert_eq!(report["target"], address);

    let key = KeyPair::generate().unwrap();
    let bare = certificate(&key, &[]);
    let address = serve(&key, bare).to_string();
    let (exit, report) = inspect(address.as_ref(), &[TRUST.as_ref()]);
    assert_eq!((exit, &report["verdict"]), (1, &json!("not-authentic")));
}

#[test]
fn nobody_there_is_no_verdict() {
    let closed = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    assert_eq!(inspect(closed.to_string().as_ref(), &[]).0, 2);

    // Somebody who speaks no TLS.
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        listener.accept().unwrap().0.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap()
    });
    assert_eq!(inspect(address.to_string().as_ref(), &[]).0, 2);
}

#[test]
fn wrong_arguments_and_files_are_usage() {
    let desk = Desk::new();
    let certificate = desk.file("leaf.der", machine().certificate().1);
    let bad_policy = desk.file("bad.json", r#"{"version":1,"images":[],"apps":[],"extra":1}"#);
    let missing = desk.folder.path().join("missing");
    let cases: [&[&Path]; 7] = [
        &[],
        &["no port".as_ref()],
        &["--nonsense".as_ref()],
        &[&certificate, "--policy".as_ref(), &bad_policy],
        &[&certificate, "--policy".as_ref(), &missing],
        &[&certificate, "--collateral".as_ref(), &bad_policy],
        &["policy".as_ref(), "--image".as_ref(), &missing, "--document".as_ref(), &missing],
    ];
    for arguments in cases {
        let output = run(arguments.iter().copied());
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
    let said = text(&run([certificate.as_path(), "--policy".as_ref(), &bad_policy]).stderr);
    assert!(said.contains("bad.json: line 1, column ") && said.contains("unknown field `extra`"), "{said}");
    assert_eq!(run(["--help".as_ref()]).status.code(), Some(0));
}

#[test]
fn a_policy_of_an_unmeasured_image_is_not_written() {
    let desk = Desk::new();
    desk.file("registers.json", serde_json::to_vec(&LaunchRegisters::ZERO).unwrap());
    let document = desk.file("app-compose.json", DOCUMENT);
    let folder = desk.folder.path();
    let output =
        run(["policy".as_ref(), "--image".as_ref(), folder, "--document".as_ref(), document.as_path()]);
    assert_eq!(output.status.code(), Some(64));
    let said = text(&output.stderr);
    assert!(
        said.contains("registers.json: images[0].rtmr2: expected a measured register, found zero"),
        "{said}"
    );
}

fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
