//! `casemate-agent simulate` and `certificate`, as a person runs them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use casemate_agent::client::AgentClient;
use casemate_measure::ComposeHash;
use casemate_verify::{TrustAnchor, Verifier};
use x509_parser::pem::Pem;

use crate::host::launch;

const DOCUMENT: &str = include_str!("../../../../configs/node.app-compose.json");

/// Ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn agent() -> Command {
    Command::new(env!("CARGO_BIN_EXE_casemate-agent"))
}

fn simulate(dir: &Path) -> Command {
    let mut command = agent();
    command.args(["simulate", "--image"]).arg(dir).arg("--document").arg(dir.join("app-compose.json"));
    command.arg("--socket").arg(dir.join("agent.sock")).stdout(Stdio::null());
    command
}

fn files(dir: &Path) {
    fs::write(dir.join("registers.json"), serde_json::to_string(&launch()).unwrap()).unwrap();
    fs::write(dir.join("app-compose.json"), DOCUMENT).unwrap();
}

async fn wait_for_agent(socket: &Path) -> AgentClient {
    let (client, start) = (AgentClient::new(socket), Instant::now());
    while let Err(error) = client.version().await {
        assert!(start.elapsed() < Duration::from_secs(20), "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    client
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn a_certificate_of_a_simulated_agent_proves_document_and_image() {
    let dir = tempfile::tempdir().unwrap();
    files(dir.path());
    let running = Running(simulate(dir.path()).spawn().unwrap());
    let socket = dir.path().join("agent.sock");
    let client = wait_for_agent(&socket).await;
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(client.info().await.unwrap().app_name, "casemate-node");

    // Twice: the files are replaced.
    for _ in 0..2 {
        let made = agent()
            .args(["certificate", "--socket"])
            .arg(&socket)
            .arg("--out")
            .arg(dir.path())
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", text(&made));
    }
    let key = dir.path().join("client.key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(fs::read_to_string(&key).unwrap().starts_with("-----BEGIN PRIVATE KEY-----"));
    let chain = fs::read(dir.path().join("client.crt")).unwrap();
    let chain: Vec<Pem> = Pem::iter_from_buffer(&chain).collect::<Result<_, _>>().unwrap();
    assert_eq!(chain.len(), 2);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let peer = Verifier::new([TrustAnchor::Simulator], Default::default())
        .verify_certificate(&chain[0].contents, now)
        .unwrap();
    assert_eq!(peer.compose_hash(), ComposeHash::of(DOCUMENT.as_bytes()));
    assert_eq!(peer.launch(), launch());
    assert!((now + 86_000..=now + 86_400).contains(&peer.key().unwrap().not_after));

    // An orderly end leaves no socket.
    let mut running = running;
    let pid = nix::unistd::Pid::from_raw(running.0.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(running.0.wait().unwrap().success());
    assert!(!socket.exists());
}

#[test]
fn bad_input_ends_in_one_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    files(dir.path());
    let failure = || {
        let output = simulate(dir.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(!dir.path().join("agent.sock").is_socket_file());
        let text = text(&output);
        assert_eq!(text.lines().count(), 1, "{text}");
        text
    };
    let document = dir.path().join("app-compose.json");
    fs::write(&document, DOCUMENT.replace("\"role\"", "\"rolle\"")).unwrap();
    let error = failure();
    assert!(error.contains("app-compose.json") && error.contains("rolle"), "{error}");
    fs::write(&document, " ".repeat((4 << 20) + 1)).unwrap();
    assert!(failure().contains("app-compose.json: expected at most 4194304 bytes"));
    fs::write(&document, DOCUMENT).unwrap();

    let socket = dir.path().join("agent.sock");
    fs::write(&socket, "precious").unwrap();
    assert!(failure().contains("agent.sock: expected a socket or nothing"));
    assert_eq!(fs::read_to_string(&socket).unwrap(), "precious");
    fs::remove_file(&socket).unwrap();

    let registers = dir.path().join("registers.json");
    fs::write(&registers, "{\"mrtd\": \"00\"}").unwrap();
    let error = failure();
    assert!(error.contains("registers.json") && error.contains("expected 96 hex digits"), "{error}");
    fs::remove_file(&registers).unwrap();
    assert!(failure().contains("registers.json: No such file"));

    let nobody =
        agent().args(["certificate", "--socket"]).arg(&socket).arg("--out").arg(dir.path()).output().unwrap();
    assert_eq!(nobody.status.code(), Some(1));
    assert!(text(&nobody).contains("agent.sock: No such file"), "{}", text(&nobody));
    assert!(!dir.path().join("client.key").exists());
}

trait SocketFile {
    fn is_socket_file(&self) -> bool;
}

impl SocketFile for std::path::PathBuf {
    fn is_socket_file(&self) -> bool {
        use std::os::unix::fs::FileTypeExt as _;
        fs::metadata(self).is_ok_and(|found| found.file_type().is_socket())
    }
}
