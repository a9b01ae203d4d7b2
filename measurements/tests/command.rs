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
fn reference_prints_the_tables() {
    let (status, out, _) = run(&["reference"]);
    assert_eq!(status, Some(0));
    assert!(out.contains("| `egress.mode` |") && out.contains("| `secure_time` |"));
    assert!(out.contains("| bzImage | sections | RTMR1 |"));
}

const REPORT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/dstack_quote_report.json");
const CCEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/ccel.bin");

/// Every line of it fits a terminal of 80 columns, which acts on none of it.
fn check_terminal(text: &str) {
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line:?}");
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
}

/// A file in a folder of its own, removed with it.
fn file(folder: &tempfile::TempDir, name: &str, content: &str) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

fn report() -> serde_json::Value {
    serde_json::from_str(include_str!("fixtures/dstack_quote_report.json")).unwrap()
}

#[test]
fn replay_says_which_registers_a_log_leads_to() {
    let (status, out, err) = run(&["replay", REPORT]);
    assert_eq!((status, err.as_str()), (Some(0), ""));
    check_terminal(&out);
    for words in [
        "log        answer of a dstack agent, 28 events\n",
        "RTMR0      13 events: equal\n",
        "RTMR3      8 events: equal\n",
        "    22  08000001  b883bee0b216618b…  quoted    computed  compose-hash\n",
        "result     all four registers are what the log's events make\n",
    ] {
        assert!(out.contains(words), "{words:?}: {out}");
    }
    let (status, out, _) = run(&["replay", REPORT, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((status, &json["registers"][3]["comparison"]["result"]), (Some(0), &"equal".into()));
    assert_eq!(json["events"][22]["name"], "compose-hash");

    let (status, out, _) = run(&["replay", CCEL]);
    assert_eq!(status, Some(0));
    check_terminal(&out);
    assert!(out.contains("there is nothing to compare with") && out.contains("not compared with anything"));
    // The firmware's log of one machine and the quote of another.
    let (status, out, _) = run(&["replay", CCEL, "--quote", REPORT]);
    assert_eq!(status, Some(1));
    check_terminal(&out);
    assert!(
        out.contains("RTMR0      13 events: DIFFERS\n")
            && out.contains("result     RTMR0, RTMR1, RTMR2, RTMR3 are not")
    );
}

#[test]
fn replay_shows_a_hostile_log_and_points_at_its_events() {
    let folder = tempfile::tempdir().unwrap();
    let mut report = report();
    let digest = report["event_log"][22]["digest"].as_str().unwrap().replacen('b', "c", 1);
    report["event_log"][22]["digest"] = digest.into();
    report["event_log"].as_array_mut().unwrap().push(serde_json::json!({
        "imr": 3, "event_type": 134_217_729, "digest": "", "event": "\u{1b}[2J\u{202e}:".repeat(50), "event_payload": "",
    }));
    let (status, out, _) = run(&["replay", &file(&folder, "log.json", &report.to_string())]);
    assert_eq!(status, Some(1));
    check_terminal(&out);
    for words in [
        "  the first 8 events lead to the register; the others came later, or never\n",
        "! the log's digest is not the one that the payload makes\n",
        "    28  08000001  ",
        "beyond    computed  \\u{1b}[2J",
        "the name has a colon",
        "RTMR3 is not what the log's events make; what contradicts itself:\n           event 22 (RTMR3)\n",
    ] {
        assert!(out.contains(words), "{words:?}: {out}");
    }
}

#[test]
fn diff_names_the_first_event_that_differs_and_why() {
    use casemate_measure::log;
    use casemate_measure::tdx::{Alternative, Digest, Event, Expected};

    let folder = tempfile::tempdir().unwrap();
    let log = log::read("FILE", report().to_string().as_bytes()).unwrap();
    let events = log::replay(&log).events.into_iter().map(|event| Event {
        rtmr: event.rtmr,
        event_type: event.event_type,
        name: event.name.unwrap_or_else(|| "separator".to_owned()),
        digest: Digest::Known(event.digest),
        origin: "recorded; a very long origin that says where the digest came from, in more words than fit"
            .to_owned(),
    });
    let mut expected = Expected {
        mrtd: log.registers.unwrap().mrtd,
        mrconfigid: None,
        os_image_hash: None,
        mr_system: None,
        mr_aggregated: None,
        events: events.collect(),
        alternatives: Vec::new(),
    };
    let write =
        |expected: &Expected| file(&folder, "expected.json", &serde_json::to_string(expected).unwrap());
    let (status, out, err) = run(&["diff", &write(&expected), REPORT]);
    assert_eq!((status, err.as_str()), (Some(0), ""));
    assert!(
        out.contains("MRTD       equal\nRTMR0      equal\n") && out.ends_with("result     equal\n"),
        "{out}"
    );

    let real = expected.clone();
    expected.events[0].digest = Digest::Known(casemate_measure::Register([1; 48]));
    expected.alternatives = vec![Alternative::new("memory 64 GiB", &expected, &real)];
    expected.events[26].digest = Digest::Unpinned;
    let (status, out, _) = run(&["diff", &write(&expected), REPORT]);
    assert_eq!(status, Some(1));
    check_terminal(&out);
    for words in [
        "RTMR0      DIFFERS\n",
        "  because  memory 64 GiB\n",
        "  first difference: number 0, event 0 of the log\n",
        "    because  memory 64 GiB\n",
        "RTMR1      equal\n",
        "RTMR3      not pinned: every other event is as expected\n",
        "  not pinned: number 6, event 26 of the log\n",
        "result     not equal\n",
    ] {
        assert!(out.contains(words), "{words:?}: {out}");
    }
    let (status, out, _) = run(&["diff", &write(&expected), REPORT, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(status, Some(1));
    let rtmr0 = &json["registers"][1];
    assert_eq!((&rtmr0["register"], &rtmr0["verdict"]), (&"rtmr0".into(), &"differs".into()));
    assert_eq!(rtmr0["differences"][0]["explained_by"][0], "memory 64 GiB");
}

#[test]
fn logs_that_cannot_be_read_end_with_64() {
    let folder = tempfile::tempdir().unwrap();
    let expected = file(&folder, "expected.json", "{}");
    let quote = report()["quote"].as_str().unwrap().to_owned();
    let quote = file(&folder, "quote.hex", &quote);
    for arguments in [
        &["replay"][..],
        &["replay", "/no/such/file"],
        &["replay", "/dev/zero"],
        &["replay", &quote],
        &["replay", EXAMPLE],
        &["replay", CCEL, "--quote", CCEL],
        &["diff", REPORT],
        &["diff", &expected, REPORT],
        &["diff", REPORT, REPORT],
    ] {
        let (status, out, err) = run(arguments);
        assert_eq!((status, out.as_str()), (Some(64), ""), "{arguments:?}");
        assert!(!err.is_empty());
    }
}
