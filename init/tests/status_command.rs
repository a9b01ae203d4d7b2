//! `casemate-init status`, as a person runs it, on documents as PID 1 writes them.
#![expect(clippy::unwrap_used, reason = "tests: what fails here fails the test")]

use std::process::{Command, Output};

use casemate_init::log::Counts;
use casemate_init::status::{Document, Egress, Log, Process, StageTime};
use serde_json::Value;

fn run(arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_casemate-init")).arg("status").args(arguments).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn it_shows_the_document_for_a_person_and_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("status.json");
    let process = |name: &str| Process { name: name.to_owned(), restarts: 3, ..Process::default() };
    let document = Document {
        version: 1,
        flavor: "dev",
        egress: Egress { mode: "internal-only", locked: true, counters: Vec::new() },
        processes: vec![process("web"), process("\u{1b}[2Jx")],
        logs: vec![Log { name: "web".to_owned(), counts: Counts { lines: 5, dropped: 2 } }],
        stages: vec![StageTime { stage: "mounts", entered_ms: 12 }],
        ..Document::default()
    };
    document.store(&path).unwrap();
    let file = path.to_str().unwrap();

    let (code, shown, error) = run(&["--file", file]);
    assert_eq!((code, error.as_str()), (0, ""), "{shown}");
    let line = |path: &str| {
        let found = shown.lines().find(|line| line.starts_with(&format!("{path} ")));
        found.unwrap_or_else(|| panic!("no line {path}:\n{shown}")).trim_start_matches(path).trim().to_owned()
    };
    assert_eq!(line("flavor"), "dev");
    assert_eq!(line("egress.locked"), "true");
    assert_eq!(line("identity"), "-");
    let web = line("logs.web");
    assert!(web.contains("lines 5") && web.contains("dropped 2"), "{web}");
    assert_eq!(line("stages.mounts"), "entered_ms 12");
    assert!(line("processes.web").contains("restarts 3"), "{shown}");
    assert!(shown.contains("processes.\\u{1b}[2Jx ") && !shown.contains('\u{1b}'), "{shown}");

    let (code, shown, _) = run(&["--json", "--file", file]);
    let json: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((code, json), (0, serde_json::to_value(&document).unwrap()));
}

#[test]
fn without_a_document_it_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("status.json");
    let file = path.to_str().unwrap();
    let (code, shown, error) = run(&["--file", file]);
    assert_eq!((code, shown.as_str()), (1, ""));
    assert!(error.contains(file) && error.contains("no status document"), "{error}");

    for (text, found) in
        [("{", "EOF"), ("{}", "found none"), (r#"{"version":2}"#, "found version 2"), ("[1]", "found none")]
    {
        std::fs::write(&path, text).unwrap();
        let (code, shown, error) = run(&["--file", file, "--json"]);
        assert_eq!((code, shown.as_str()), (1, ""), "{text}");
        assert!(error.contains(file) && error.contains(found), "{text}: {error}");
    }
    for wrong in [&["--file"][..], &["--jsn"], &["--json", "--json"], &["x"]] {
        let (code, shown, error) = run(wrong);
        assert_eq!((code, shown.as_str()), (64, ""), "{wrong:?}");
        assert!(error.contains("usage: casemate-init status"), "{error}");
    }
}
