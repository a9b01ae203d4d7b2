//! The command, run as a person runs it.

mod documents;
mod files;
mod schema;
mod server;
mod servers;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use casemate_measure::{ComposeHash, LaunchRegisters, Register};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::machine::{Machine, NOW, image};

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

/// Runs on a target with the usual options of these tests, and JSON, which must be of its schema.
fn inspect(target: &Path, more: &[&Path]) -> (i32, Value) {
    inspect_at(&NOW.to_string(), target, more)
}

fn inspect_at(time: &str, target: &Path, more: &[&Path]) -> (i32, Value) {
    let usual: [&Path; 4] = [target, "--json".as_ref(), "--at".as_ref(), time.as_ref()];
    let output = run(usual.into_iter().chain(more.iter().copied()));
    let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    if report != Value::Null {
        schema::check(&report).unwrap_or_else(|error| panic!("{error}\n{report}"));
    }
    (output.status.code().unwrap(), report)
}

/// The classes of the reasons, in order.
fn classes(report: &Value) -> Vec<&str> {
    report["reasons"].as_array().unwrap().iter().map(|reason| reason["class"].as_str().unwrap()).collect()
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
    assert_eq!(classes(&report), ["image"]);
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
    assert_eq!(classes(&report), ["root"]);
}

#[test]
fn text_says_what_is_not_measured_and_what_is_simulated() {
    let desk = Desk::new();
    let certificate = desk.file("leaf.der", machine().certificate().1);
    let now = NOW.to_string();
    let output = run([certificate.as_path(), TRUST.as_ref(), "--at".as_ref(), now.as_ref()]);
    let said = text(&output.stdout);
    for line in [
        "✓ form          RA-TLS certificate, chain of 1",
        "✓ validity      from 2026-11-21T00:00:00Z to 2026-11-29T00:00:00Z",
        "✓ binding       the certificate's key",
        "✓ event log     leads to RTMR3 ",
        "– image         not judged: MRTD not measured",
        "tee             SIMULATED: its keys are public",
        "mrtd            not measured",
        "mrconfigid      not bound",
        "verdict         NOT TRUSTED: authentic, not judged (no --policy)",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
}

#[test]
fn wrong_arguments_and_files_are_usage() {
    let desk = Desk::new();
    let certificate = desk.file("leaf.der", machine().certificate().1);
    let bad_policy = desk.file("bad.json", r#"{"version":1,"images":[],"apps":[],"extra":1}"#);
    let missing = desk.folder.path().join("missing");
    let cases: [&[&Path]; 15] = [
        &[],
        &["no port".as_ref()],
        &["--nonsense".as_ref()],
        &[&certificate, "--policy".as_ref(), &bad_policy],
        &[&certificate, "--policy".as_ref(), &missing],
        &[&certificate, "--collateral".as_ref(), &missing],
        &[&certificate, "--collateral".as_ref(), &bad_policy],
        &[&certificate, "--collateral".as_ref(), "ftp://localhost".as_ref()],
        &[&certificate, "--nonce".as_ref()],
        &[&certificate, "--report-data".as_ref(), "1234".as_ref()],
        &[&certificate, "--report-data".as_ref(), "xy".as_ref()],
        &[&certificate, "--at".as_ref(), "yesterday".as_ref()],
        &["localhost:1".as_ref(), "--report-data".as_ref(), "1234".as_ref()],
        &["policy".as_ref(), "--document".as_ref(), &missing],
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
fn hostile_bytes_are_a_verdict() {
    let desk = Desk::new();
    for (name, bytes) in
        [("noise.bin", vec![7_u8; 4096]), ("empty.bin", Vec::new()), ("open.json", b"{".to_vec())]
    {
        let (exit, report) = inspect(&desk.file(name, bytes), &[]);
        assert_eq!((exit, &report["verdict"]), (1, &json!("not-authentic")), "{name}: {report}");
        assert_eq!(classes(&report), ["form"], "{name}");
    }
    // What a certificate's subject says reaches no terminal as it is.
    let mut broken = machine().certificate().1;
    broken.extend(b"\x1b[2J");
    let output = run([desk.file("leaf.der", broken).as_path()]);
    assert!(output.status.code() == Some(1) && !output.stdout.contains(&0x1b), "{}", text(&output.stdout));
}

fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
