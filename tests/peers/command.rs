//! `casemate-verify`, as an auditor runs it, against a mesh that serves.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use casemate_measure::LaunchRegisters;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::backend::Seen;
use crate::callers::demo;
use crate::machine::{CALLER, DEMO, Document, another_image, image};

const TRUST: &str = "--trust-simulator";

/// The command, and a folder for what it reads and writes.
struct Desk {
    program: PathBuf,
    folder: TempDir,
}

/// What the command said.
#[derive(Debug)]
struct Said {
    exit: i32,
    report: Value,
    error: String,
}

impl Desk {
    /// Builds the command, alone, as `cargo verify` does.
    async fn new() -> Self {
        let mut cargo = Command::from(casemate_tests::cargo::cargo());
        cargo.args([
            "build",
            "--locked",
            "-p",
            "casemate-verify",
            "--message-format",
            "json-render-diagnostics",
        ]);
        let built = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().await.unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let messages = String::from_utf8(built.stdout).unwrap();
        let program = messages.lines().find_map(|line| {
            let message: Value = serde_json::from_str(line).ok()?;
            message.get("executable")?.as_str().map(PathBuf::from)
        });
        Self { program: program.unwrap(), folder: tempfile::tempdir().unwrap() }
    }

    async fn run(&self, arguments: &[&str]) -> Said {
        let output = Command::new(&self.program).args(arguments).output().await.unwrap();
        Said {
            exit: output.status.code().unwrap(),
            report: serde_json::from_slice(&output.stdout).unwrap_or(Value::Null),
            error: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Judges a server.
    async fn verify(&self, server: SocketAddr, options: &[&str]) -> Said {
        let server = server.to_string();
        self.run(&[&[server.as_str(), "--json"], options].concat()).await
    }

    /// The policy that the command writes for a document on an image.
    async fn policy(&self, name: &str, document: Document, launch: LaunchRegisters) -> String {
        let path = |name: &str| self.folder.path().join(name);
        std::fs::write(path("registers.json"), serde_json::to_vec(&launch).unwrap()).unwrap();
        std::fs::write(path(document.name), document.text).unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let (image, file, out) = (text(self.folder.path()), text(&path(document.name)), text(&path(name)));
        let said = self.run(&["policy", "--image", &image, "--document", &file, "--out", &out]).await;
        assert_eq!(said.exit, 0, "{said:?}");
        out
    }
}

#[tokio::test]
async fn every_exit_status_against_a_live_mesh() {
    let desk = Desk::new().await;
    let (mesh, backend, machine) = demo().await;
    let right = desk.policy("right.json", DEMO, image()).await;

    let said = desk.verify(mesh.inbound, &["--policy", &right, TRUST]).await;
    assert_eq!((said.exit, &said.report["verdict"]), (0, &json!("trusted")), "{said:?}");
    assert_eq!(said.report["peer"]["app_id"], machine.app.to_string());
    assert_eq!(said.report["peer"]["compose_hash"], machine.compose.to_string());
    assert_eq!(said.report["peer"]["tee"], "simulator");
    assert_eq!(said.report["peer"]["registers"]["rtmr2"], image().rtmr2.to_string());
    assert_eq!(said.report["peer"]["tags"], json!(["tag:internal-only"]));

    let said = desk.verify(mesh.inbound, &["--policy", &right]).await;
    assert_eq!((said.exit, &said.report["verdict"]), (1, &json!("not-authentic")), "{said:?}");
    let error = said.report["error"].as_str().unwrap();
    assert!(error.contains("the simulated TEE, which this verifier was not told to trust"), "{error}");
    assert!(error.contains("--trust-simulator") && said.report["peer"].is_null(), "{said:?}");

    let said = desk.verify(mesh.inbound, &[TRUST]).await;
    assert_eq!((said.exit, &said.report["verdict"]), (1, &json!("not-judged")), "{said:?}");
    assert_eq!(said.report["peer"]["app_id"], machine.app.to_string());

    for (name, document, launch, what) in
        [("image.json", DEMO, another_image(), "images[0].rtmr2"), ("app.json", CALLER, image(), "app")]
    {
        let policy = desk.policy(name, document, launch).await;
        let said = desk.verify(mesh.inbound, &["--policy", &policy, TRUST]).await;
        assert_eq!((said.exit, &said.report["verdict"]), (1, &json!("not-trusted")), "{said:?}");
        let reasons = said.report["reasons"].as_array().unwrap();
        assert!(reasons.iter().any(|reason| reason["what"] == what), "{reasons:?}");
    }

    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let said = desk.verify(nobody, &["--policy", &right, TRUST]).await;
    assert_eq!(said.exit, 2, "{said:?}");
    assert!(said.error.contains("refused"), "{said:?}");

    for arguments in [&["--policy", &right][..], &["localhost"], &["--nonsense", "localhost:1"]] {
        let said = desk.run(arguments).await;
        assert_eq!((said.exit, said.report), (64, Value::Null), "{arguments:?}");
        assert!(!said.error.is_empty(), "{arguments:?}");
    }
    // It asked for a handshake, several times, and for nothing else.
    assert_eq!(backend.seen(), Seen::nothing());
}
