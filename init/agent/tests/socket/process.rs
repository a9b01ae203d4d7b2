//! The agent as PID 1 starts it.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::sync::mpsc;
use std::time::Duration;

use casemate_agent::client::AgentClient;
use casemate_agent::{AgentError, run};

use crate::host::handover;

#[tokio::test]
async fn run_replaces_a_stale_socket_and_says_when_it_is_ready() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("dstack.sock");
    // An earlier life's: nobody listens.
    drop(UnixListener::bind(&socket).unwrap());
    let (ready, is_ready) = mpsc::channel();
    let path = socket.clone();
    // `run` never returns; the thread ends with the test process.
    std::thread::spawn(move || run(handover(), &path, move || ready.send(()).unwrap()));
    is_ready.recv_timeout(Duration::from_secs(20)).unwrap();
    let found = fs::metadata(&socket).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o7777, 0o666);

    // The uid of this test is what decides: root is a caller, others are not.
    let answer = AgentClient::new(&socket).version().await;
    if fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own)).unwrap() == 0 {
        assert_eq!(answer.unwrap().version, "1.2.3");
    } else {
        assert!(answer.unwrap_err().to_string().contains("403"));
    }
}

#[test]
fn run_refuses_a_path_that_holds_something_else() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "precious").unwrap();
    let error = run(handover(), &file, || panic!("not ready")).unwrap_err();
    assert!(matches!(error, AgentError::NotASocket { .. }), "{error}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    let error = run(handover(), &dir.path().join("no/such/dir/s"), || panic!("not ready")).unwrap_err();
    assert!(error.to_string().ends_with("bind: No such file or directory (os error 2)"), "{error}");
}
