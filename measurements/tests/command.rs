//! The command: what it prints, and its exit status.
#![expect(clippy::unwrap_used, reason = "a test that cannot run the command has failed")]

use std::process::{Command, Output};

use casemate_measure::ComposeHash;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/node.app-compose.json");

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_casemate-measure")).args(arguments).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn compose_prints_the_identities() {
    let hash = ComposeHash::of(include_bytes!("../../configs/node.app-compose.json"));
    let (status, out, err) = run(&["compose", EXAMPLE]);
    assert_eq!((status, err.as_str()), (Some(0), ""));
    assert!(out.contains(&format!("compose hash    {hash}\napp id          {}\n", hash.app_id())), "{out}");
    assert!(out.contains(&format!("MRCONFIGID v1   01{hash}{}\n", "0".repeat(30))), "{out}");
    assert!(out.contains("tag             tag:internal-only\n"), "{out}");

    let (status, out, _) = run(&["compose", EXAMPLE, "--json"]);
    assert_eq!(status, Some(0));
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["compose_hash"], hash.to_string());
    assert_eq!(json["app_id"], hash.app_id().to_string());
    assert_eq!(json["name"], "casemate-node");
    assert_eq!(json["mrconfigid"]["v2"].as_str().map(str::len), Some(96));
}

#[test]
fn what_is_wrong_ends_with_64_and_one_line() {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let (status, out, err) = run(&["compose", manifest]);
    assert_eq!((status, out.as_str(), err.lines().count()), (Some(64), "", 1));
    assert!(err.contains("Cargo.toml: expected one JSON document"), "{err}");

    let (status, _, err) = run(&["compose", "/no/such/file"]);
    assert_eq!(status, Some(64));
    assert!(err.starts_with("casemate-measure: /no/such/file: "), "{err}");

    let (status, _, err) = run(&["compose", "/dev/zero"]);
    assert_eq!(status, Some(64));
    assert!(err.contains("expected at most 4194304 bytes"), "{err}");

    for arguments in [&["compose"][..], &["decompose"], &["compose", EXAMPLE, "--fast"], &[]] {
        assert_eq!(run(arguments).0, Some(64), "{arguments:?}");
    }
    assert_eq!(run(&["--help"]).0, Some(0));
}

#[test]
fn reference_prints_both_tables() {
    let (status, out, _) = run(&["reference"]);
    assert_eq!(status, Some(0));
    assert!(out.contains("| `egress.mode` |") && out.contains("| `secure_time` |"));
}
