//! Real evidence in files and directories, and collateral from everywhere.

use std::path::{Path, PathBuf};

use casemate_measure::KeyProvider;
use casemate_measure::tdx::EventType;
use casemate_verify::quote::TdReport;
use casemate_verify::{Evidence, QuoteCollateralV3};
use serde_json::{Value, json};

use super::server::{Answer, none, ok, serve_plainly};
use super::{Desk, TRUST, classes, inspect, inspect_at, machine, pem, run, text};
use crate::kms::{APP, Kms};
use crate::machine::image;

const ANSWER: &str = include_str!("../../fixtures/dstack_getquote.json");
const COLLATERAL: &str = include_str!("../../fixtures/tdx_quote_outdated_collateral.json");
/// When [`COLLATERAL`] is valid.
const VALID: &str = "2026-02-25T06:13:20Z";
/// What the machine was asked for.
const ASKED: [&str; 2] = ["--report-data", "1234"];

/// Names and contents.
type Files<'a> = &'a [(&'a str, &'a [u8])];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn answer() -> Value {
    serde_json::from_str(ANSWER).unwrap()
}

fn quote() -> Vec<u8> {
    hex::decode(answer()["quote"].as_str().unwrap()).unwrap()
}

/// The machine's log: a list in JSON, which the agent's answer has as a string.
fn log() -> Value {
    match &answer()["event_log"] {
        Value::String(text) => serde_json::from_str(text).unwrap(),
        other => other.clone(),
    }
}

fn policy(desk: &Desk) -> PathBuf {
    let launch = TdReport::of_quote(&quote()).unwrap().launch();
    let compose = "3763bc34552cf3a27ff71ad5f7a90471562a1a2df552dfc1998cba2d60da27e7";
    let id = "1b7a49378403249b6986a907844cab0921eca32dd47e657f3c10311ccaeccf8b";
    let policy = json!({
        "version": 1,
        "images": [{ "mrtd": launch.mrtd, "rtmr0": launch.rtmr0, "rtmr1": launch.rtmr1, "rtmr2": launch.rtmr2 }],
        "apps": [{ "name": "lium", "app_id": compose[..40], "compose_hash": compose }],
        "key_providers": [{ "name": "local-sgx", "id": id }]
    });
    desk.file("dstack.policy", policy.to_string())
}

/// A directory with these files.
fn directory(desk: &Desk, name: &str, files: Files<'_>) -> PathBuf {
    let directory = desk.folder.path().join(name);
    std::fs::create_dir(&directory).unwrap();
    for (name, bytes) in files {
        std::fs::write(directory.join(name), bytes).unwrap();
    }
    directory
}

fn dstack(target: &Path, more: &[&Path]) -> (i32, Value) {
    inspect_at(VALID, target, more)
}

#[test]
fn a_real_dstack_machine_is_trusted() {
    let desk = Desk::new();
    let policy = policy(&desk);
    let target = directory(
        &desk,
        "d",
        &[
            ("quote.json", ANSWER.as_bytes()),
            ("collateral.json", COLLATERAL.as_bytes()),
            ("README", b"not read"),
        ],
    );
    let options: [&Path; 4] = ["--policy".as_ref(), &policy, ASKED[0].as_ref(), ASKED[1].as_ref()];
    let (exit, report) = dstack(&target, &options);
    assert_eq!((exit, &report["verdict"]), (0, &json!("trusted")), "{report}");
    let peer = &report["peer"];
    assert_eq!((&peer["tee"], &peer["binding"]), (&json!("tdx"), &json!("report-data")));
    assert_eq!(peer["fmspc"], "90c06f000000");
    assert_eq!(peer["ppid"], "897d3eb76ea887b783f9ad3d0771034b");
    assert_eq!(peer["piid"], "af3b9e752ee6e3f88eb745536ae57b0d");
    assert_eq!((&peer["spki_pin"], &peer["certificate_not_after"]), (&Value::Null, &Value::Null));
    assert_eq!(peer["collateral"]["evaluation_number"], 18);

    let (exit, report) = dstack(&target, &options[..2]);
    assert_eq!((exit, classes(&report)), (1, vec!["binding"]), "{report}");
    assert_eq!(report["peer"]["binding"], "nothing");
    let (exit, report) = dstack(&target, &[options[0], options[1], options[2], "1235".as_ref()]);
    assert_eq!((exit, &report["verdict"], classes(&report)), (1, &json!("not-authentic"), vec!["binding"]));

    // Of another time.
    let (exit, report) = inspect_at("2026-05-25T06:13:20Z", &target, &options);
    assert_eq!(
        (exit, &report["verdict"], classes(&report)),
        (1, &json!("not-authentic"), vec!["collateral"])
    );
    // The policy of another app.
    let other = desk.policy(image());
    let (exit, report) = dstack(&target, &["--policy".as_ref(), &other, options[2], options[3]]);
    assert_eq!((exit, &report["verdict"]), (1, &json!("not-trusted")));
    for class in ["image", "app", "key-provider"] {
        assert!(classes(&report).contains(&class), "{report}");
    }
}

#[test]
fn a_person_sees_each_check_in_its_order() {
    let desk = Desk::new();
    let target = directory(
        &desk,
        "d",
        &[("quote.json", ANSWER.as_bytes()), ("collateral.json", COLLATERAL.as_bytes())],
    );
    let other = desk.policy(image());
    let options: [&Path; 4] = ["--at".as_ref(), VALID.as_ref(), ASKED[0].as_ref(), ASKED[1].as_ref()];
    let marks = |more: &[&Path]| -> (Vec<String>, String) {
        let said = text(&run([&[target.as_path()], &options[..], more].concat()).stdout);
        let marks = said.lines().filter(|line| line.starts_with(['✓', '✗', '–']));
        (
            marks.map(|line| line.chars().take(15).collect::<String>().trim_end().to_owned()).collect(),
            said.clone(),
        )
    };
    let (checks, said) = marks(&["--policy".as_ref(), &other]);
    let expected = [
        "✓ form",
        "✓ root",
        "✓ quote",
        "✓ collateral",
        "✓ event log",
        "✓ boot events",
        "✓ identity",
        "✓ binding",
        "✗ image",
        "✗ app",
        "✗ key provider",
        "✓ tcb",
        "– module",
        "– platform",
        "✓ freshness",
    ];
    assert_eq!(checks, expected, "{said}");
    assert!(said.contains("; the firmware's leads to RTMR0 to RTMR2"), "{said}");
    assert!(said.ends_with("verdict         NOT TRUSTED\n"), "{said}");

    // After what is not authentic nothing is reached.
    std::fs::remove_file(target.join("collateral.json")).unwrap();
    let (checks, said) = marks(&[]);
    assert_eq!(checks[..4], ["✓ form", "✓ root", "– quote", "✗ collateral"], "{said}");
    assert!(checks[4..].iter().all(|check| check.starts_with('–')), "{said}");
    assert!(said.contains("verdict         UNDECIDED\n") && said.contains("pass --collateral"), "{said}");
}

#[test]
fn evidence_of_every_form_gives_the_same_peer() {
    let desk = Desk::new();
    let beside = ("collateral.json", COLLATERAL.as_bytes());
    let json = directory(&desk, "json", &[("quote.json", ANSWER.as_bytes()), beside]);
    let (_, expected) = dstack(&json, &[]);
    assert_eq!(expected["verdict"], "not-judged", "{expected}");

    let (quote, log) = (quote(), log().to_string());
    let digits = hex::encode(&quote);
    let forms: [(&str, Files<'_>); 2] = [
        ("bin", &[("quote.bin", &quote), ("event_log.json", log.as_bytes()), beside]),
        ("hex", &[("quote.hex", digits.as_bytes()), ("event_log.json", log.as_bytes()), beside]),
    ];
    for (name, files) in forms {
        let (exit, report) = dstack(&directory(&desk, name, files), &[]);
        assert_eq!((exit, &report["peer"]), (1, &expected["peer"]), "{name}: {report}");
    }
    // A quote without its log can be authentic, but nobody.
    let alone = directory(&desk, "alone", &[("quote.bin", &quote), beside]);
    let (exit, report) = dstack(&alone, &[]);
    assert_eq!((exit, &report["verdict"], classes(&report)), (1, &json!("not-authentic"), vec!["log"]));
}

/// Of the firmware's part and of RTMR3's: one digest, one payload.
#[test]
fn logs_that_lead_elsewhere_are_refused() {
    let desk = Desk::new();
    let quote = quote();
    let change = |name: &str, change: &dyn Fn(&mut Value)| {
        let mut log = log();
        change(&mut log);
        let log = log.to_string();
        let files: [(&str, &[u8]); 3] = [
            ("quote.bin", &quote),
            ("event_log.json", log.as_bytes()),
            ("collateral.json", COLLATERAL.as_bytes()),
        ];
        dstack(&directory(&desk, name, &files), &[])
    };
    let first = |log: &Value, register: i64| {
        log.as_array()
            .unwrap()
            .iter()
            .position(|event| event["imr"] == register && event["digest"] != "")
            .unwrap()
    };
    let (exit, report) = change("firmware", &|log| {
        let index = first(log, 0);
        log[index]["digest"] = "ab".repeat(48).into();
    });
    assert_eq!(
        (exit, classes(&report), &report["reasons"][0]["what"]),
        (1, vec!["log"], &json!("firmware log"))
    );
    let (exit, report) = change("runtime", &|log| {
        let events = log.as_array_mut().unwrap();
        let event = events.iter_mut().find(|event| event["event"] == "app-id").unwrap();
        event["event_payload"] = "ab".repeat(20).into();
    });
    assert_eq!(
        (exit, classes(&report), &report["reasons"][0]["what"]),
        (1, vec!["log"], &json!("event log"))
    );
}

/// A certificate is bound by its key, and the firmware's log beside it must hold all the same.
#[test]
fn a_firmware_log_beside_a_certificate_is_judged() {
    let desk = Desk::new();
    let leaf = machine().certificate().1;
    let log: Vec<Value> =
        log().as_array().unwrap().iter().filter(|event| event["imr"] != 3).cloned().collect();
    let log = json!(log).to_string();
    let target = directory(&desk, "d", &[("leaf.der", &leaf), ("event_log.json", log.as_bytes())]);
    let (exit, report) = inspect(&target, &[TRUST.as_ref()]);
    assert_eq!(
        (exit, &report["verdict"], classes(&report)),
        (1, &json!("not-authentic"), vec!["log"]),
        "{report}"
    );
    std::fs::remove_file(target.join("event_log.json")).unwrap();
    assert_eq!(inspect(&target, &[TRUST.as_ref()]).1["verdict"], "not-judged");
}

#[test]
fn directories_hold_one_piece_of_evidence() {
    let desk = Desk::new();
    let (quote, leaf) = (quote(), machine().certificate().1);
    let cases: [(&str, Files<'_>, &str); 4] = [
        ("empty", &[("notes.txt", b"")], "expected one file of evidence (quote.bin, "),
        ("two", &[("quote.bin", &quote), ("leaf.der", &leaf)], "found leaf.der, quote.bin"),
        (
            "bad",
            &[("quote.bin", &quote), ("collateral.json", b"{}")],
            "collateral.json: collateral: expected JSON",
        ),
        (
            "swapped",
            &[("quote.bin", &quote), ("ccel.bin", &quote)],
            "ccel.bin: expected an event log, found evidence",
        ),
    ];
    for (name, files, words) in cases {
        let target = directory(&desk, name, files);
        let output = run([target.as_path()]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{name}: {said}");
        assert!(said.contains(words) && output.stdout.is_empty(), "{name}: {said}");
    }
    // Two logs of one boot must agree.
    let other = json!([{ "imr": 3, "event_type": EventType::DSTACK_RUNTIME.0, "digest": "", "event": "app-id", "event_payload": "01" }]);
    let target = directory(
        &desk,
        "other",
        &[("quote.json", ANSWER.as_bytes()), ("event_log.json", other.to_string().as_bytes())],
    );
    let said = run([target.as_path()]);
    assert_eq!(said.status.code(), Some(64));
    assert!(
        text(&said.stderr).contains("event_log.json: expected RTMR3's events as in "),
        "{}",
        text(&said.stderr)
    );
}

#[test]
fn collateral_is_found_by_its_platform_and_never_ignored() {
    let desk = Desk::new();
    let target = desk.file("quote.json", ANSWER);
    let with = |collateral: &Path| dstack(&target, &["--collateral".as_ref(), collateral]);

    // Among those of other platforms, and JSON that is none.
    let (exit, report) = with(&fixture(""));
    assert_eq!((exit, &report["verdict"]), (1, &json!("not-judged")), "{report}");
    let (exit, report) = with(&fixture("tdx_quote_outdated_collateral.json"));
    assert_eq!((exit, &report["verdict"]), (1, &json!("not-judged")), "{report}");

    let (exit, report) = dstack(&target, &[]);
    assert_eq!((exit, &report["verdict"], classes(&report)), (2, &json!("undecided"), vec!["collateral"]));
    // A file that is given must hold.
    let (exit, report) = with(&fixture("tdx_quote_collateral.json"));
    assert_eq!(
        (exit, &report["verdict"], classes(&report)),
        (1, &json!("not-authentic"), vec!["collateral"])
    );
    assert!(report["error"].as_str().unwrap().contains("tdx_quote_collateral.json"), "{report}");
    // A directory without any for that platform leaves it open.
    let others = directory(
        &desk,
        "others",
        &[("a.json", include_bytes!("../../fixtures/tdx_quote_td15ex_collateral.json"))],
    );
    let (exit, report) = with(&others);
    assert_eq!((exit, &report["verdict"]), (2, &json!("undecided")), "{report}");
    assert!(report["error"].as_str().unwrap().contains("has collateral for FMSPC "), "{report}");
    let empty = directory(&desk, "empty", &[("a.json", b"{}")]);
    assert_eq!(with(&empty).0, 64);

    // One that holds is enough, whatever lies beside it for the same platform; forged alone it is a reason.
    let forged = COLLATERAL.replacen("UpToDate", "OutOfDate", 1);
    let both = directory(&desk, "both", &[("a.json", forged.as_bytes()), ("b.json", COLLATERAL.as_bytes())]);
    assert_eq!(with(&both).1["verdict"], "not-judged");
    std::fs::remove_file(both.join("b.json")).unwrap();
    let (exit, report) = with(&both);
    assert_eq!((exit, classes(&report)), (1, vec!["collateral"]), "{report}");

    // Nor is it ignored where the verdict does not need it.
    let certificate = desk.file("leaf.der", machine().certificate().1);
    let policy = desk.policy(image());
    let bad = fixture("tdx_quote_collateral.json");
    let options: [&Path; 5] = [TRUST.as_ref(), "--policy".as_ref(), &policy, "--collateral".as_ref(), &bad];
    let (exit, report) = inspect(&certificate, &options);
    assert_eq!((exit, &report["verdict"]), (1, &json!("not-trusted")), "{report}");
    assert!(report["reasons"][0]["what"].as_str().unwrap().starts_with("collateral "), "{report}");
}

/// A PCCS with that machine's collateral.
fn pccs(path: &str) -> Answer {
    let parts: QuoteCollateralV3 = serde_json::from_str(COLLATERAL).unwrap();
    let encoded = |chain: &str| chain.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let signed = |name: &str, json: &str, signature: &[u8]| {
        format!(r#"{{"{name}":{json},"signature":"{}"}}"#, hex::encode(signature)).into_bytes()
    };
    let (header, chain, body) = match path {
        "/base/sgx/certification/v4/pckcrl?ca=platform&encoding=der" => {
            ("SGX-PCK-CRL-Issuer-Chain", parts.pck_crl_issuer_chain, parts.pck_crl)
        }
        "/base/tdx/certification/v4/tcb?fmspc=90C06F000000" => {
            let body = signed("tcbInfo", &parts.tcb_info, &parts.tcb_info_signature);
            ("TCB-Info-Issuer-Chain", parts.tcb_info_issuer_chain, body)
        }
        "/base/tdx/certification/v4/qe/identity" => {
            let body = signed("enclaveIdentity", &parts.qe_identity, &parts.qe_identity_signature);
            ("SGX-Enclave-Identity-Issuer-Chain", parts.qe_identity_issuer_chain, body)
        }
        "/base/sgx/certification/v4/rootcacrl" => return ok(hex::encode(parts.root_ca_crl).into_bytes()),
        _ => return none(),
    };
    (200, format!("{header}: {}\r\n", encoded(&chain)), body)
}

#[test]
fn a_pccs_is_asked() {
    let desk = Desk::new();
    let target = desk.file("quote.json", ANSWER);
    let with = |url: &str| dstack(&target, &["--collateral".as_ref(), url.as_ref()]);
    let address = serve_plainly(pccs);
    let (exit, report) = with(&format!("http://{address}/base/"));
    assert_eq!((exit, &report["verdict"]), (1, &json!("not-judged")), "{report}");

    // One that knows nothing leaves it open.
    let (exit, report) = with(&format!("http://{address}/elsewhere"));
    assert_eq!((exit, &report["verdict"]), (2, &json!("undecided")), "{report}");
    assert!(report["error"].as_str().unwrap().contains("found 404"), "{report}");
    // One that lies does not.
    let liar = serve_plainly(|path| match pccs(path) {
        (200, header, body) if path.contains("/tcb?") => {
            (200, header, String::from_utf8(body).unwrap().replacen("UpToDate", "OutOfDate", 1).into_bytes())
        }
        answer => answer,
    });
    let (exit, report) = with(&format!("http://{liar}/base"));
    assert_eq!(
        (exit, &report["verdict"], classes(&report)),
        (1, &json!("not-authentic"), vec!["collateral"]),
        "{report}"
    );
    // Without TLS only this machine is asked: the address is one that nobody has (RFC 5737).
    let (exit, report) = with("http://192.0.2.1/base");
    assert_eq!(exit, 2);
    assert!(report["error"].as_str().unwrap().contains("http:// is for loopback addresses"), "{report}");
}

/// The whole chain of a PEM file is looked at.
#[test]
fn a_kms_vouches_through_the_chain() {
    let desk = Desk::new();
    let kms = Kms::new();
    let machine = kms.machine(&KeyProvider::Kms(kms.id()));
    let Evidence::Certificate(shown) = kms.evidence(&machine, APP, "app:custom") else {
        panic!("no certificate")
    };
    let policy = |name: &str, kms: &Kms| {
        let provider = json!([{ "name": "kms", "id": hex::encode(kms.id()) }]);
        let app = json!([{ "name": "app", "app_id": APP, "compose_hash": null }]);
        let policy = json!({ "version": 1, "kms": [kms.trusted()], "apps": app, "key_providers": provider });
        desk.file(name, policy.to_string())
    };
    let (right, other) = (policy("right.json", &kms), policy("other.json", &Kms::new()));
    let chain = desk.file("chain.pem", shown.chain.iter().map(|der| pem(der)).collect::<String>());
    let (exit, report) = inspect(&chain, &[TRUST.as_ref(), "--policy".as_ref(), &right]);
    assert_eq!((exit, &report["verdict"]), (0, &json!("trusted")), "{report}");
    let (exit, report) = inspect(&chain, &[TRUST.as_ref(), "--policy".as_ref(), &other]);
    assert_eq!((exit, classes(&report)), (1, vec!["image", "key-provider"]), "{report}");
    // The leaf alone leads nowhere.
    let leaf = desk.file("leaf.pem", pem(&shown.chain[0]));
    let (exit, report) = inspect(&leaf, &[TRUST.as_ref(), "--policy".as_ref(), &right]);
    assert_eq!((exit, classes(&report)), (1, vec!["image"]), "{report}");
}
