//! Servers: handshakes, challenges and their answers.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;

use casemate_verify::challenge::{self, Nonce};
use casemate_verify::ratls;
use rcgen::{KeyPair, PublicKeyData as _};
use serde_json::{Value, json};

use super::server::{Answer, Asked, none, ok, serve};
use super::{Desk, TRUST, classes, inspect, machine, run, text};
use crate::machine::{Machine, NOW, certificate, image};

const NONCE: &str = "--nonce";

/// The nonce in a path.
fn nonce(path: &str) -> Nonce {
    let digits = path.strip_prefix("/.well-known/casemate/attestation?nonce=").unwrap();
    hex::decode(digits).unwrap().try_into().unwrap()
}

fn answer(attestation: &ratls::Attestation) -> Answer {
    let attestation = hex::encode(attestation.encode_v0());
    ok(json!({ "version": 1, "attestation": attestation }).to_string().into_bytes())
}

/// A machine's server; `answer` says what it answers to a challenge, knowing its key.
fn server(answer: impl Fn(&Machine, &[u8], Asked<'_>) -> Answer + Send + 'static) -> String {
    let machine = machine();
    let (key, leaf) = machine.certificate();
    let spki = key.subject_public_key_info();
    serve(&key, leaf, move |asked| answer(&machine, &spki, asked)).to_string()
}

/// What answers a challenge.
type Answers = fn(&Machine, &[u8], Asked<'_>) -> Answer;

fn honest() -> String {
    server(|machine, spki, (path, exporter)| {
        answer(&machine.attest(challenge::report_data(&nonce(path), &exporter, spki)))
    })
}

#[test]
fn a_server_is_asked_over_tls() {
    let desk = Desk::new();
    let (key, genuine) = machine().certificate();
    let address = serve(&key, genuine, |_| none()).to_string();
    let policy = desk.policy(image());
    let (exit, report) = inspect(address.as_ref(), &[TRUST.as_ref(), "--policy".as_ref(), &policy]);
    assert_eq!((exit, &report["verdict"]), (0, &json!("trusted")), "{report}");
    assert_eq!((&report["target"], &report["peer"]["binding"]), (&json!(address), &json!("key")));

    let key = KeyPair::generate().unwrap();
    let bare = certificate(&key, &[]);
    let address = serve(&key, bare, |_| none()).to_string();
    let (exit, report) = inspect(address.as_ref(), &[TRUST.as_ref()]);
    assert_eq!((exit, &report["verdict"]), (1, &json!("not-authentic")));
    assert_eq!(classes(&report), ["form"]);
}

#[test]
fn nobody_there_is_no_verdict() {
    let closed = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().to_string();
    for more in [&[][..], &[NONCE.as_ref()]] {
        let (exit, report) = inspect(closed.as_ref(), more);
        assert_eq!((exit, &report["verdict"], &report["peer"]), (2, &json!("undecided"), &Value::Null));
        assert!(report["error"].as_str().unwrap().contains("refused"), "{report}");
    }
    let said = run([Path::new(&closed)]);
    assert_eq!(text(&said.stdout).lines().count(), 3, "{}", text(&said.stdout));
    assert!(text(&said.stderr).contains("refused"));

    // Somebody who speaks no TLS.
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        listener.accept().unwrap().0.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap()
    });
    assert_eq!(inspect(address.to_string().as_ref(), &[]).0, 2);
}

#[test]
fn a_challenge_is_answered_on_its_own_connection() {
    let desk = Desk::new();
    let policy = desk.policy(image());
    let address = honest();
    let options: [&Path; 3] = [TRUST.as_ref(), "--policy".as_ref(), &policy];
    let (exit, report) = inspect(address.as_ref(), &[&options[..], &[NONCE.as_ref()]].concat());
    assert_eq!((exit, &report["verdict"]), (0, &json!("trusted")), "{report}");
    assert_eq!(report["peer"]["binding"], "challenge");
    assert!(report["peer"]["spki_pin"].is_string());

    let (exit, report) = inspect(address.as_ref(), &[TRUST.as_ref(), NONCE.as_ref()]);
    assert_eq!((exit, &report["verdict"]), (1, &json!("not-judged")));
    assert_eq!(report["peer"]["binding"], "challenge");
    let now = NOW.to_string();
    let said = run([address.as_ref(), TRUST.as_ref(), NONCE.as_ref(), "--at".as_ref(), now.as_ref()]);
    let said = text(&said.stdout);
    assert!(said.contains("✓ form          answer to a challenge, certificate with a chain of 1"), "{said}");
    assert!(said.contains("✓ binding       the certificate's key, this connection, our nonce"), "{said}");
}

#[test]
fn a_policy_that_demands_a_challenge_makes_one() {
    let desk = Desk::new();
    let written = std::fs::read(desk.policy(image())).unwrap();
    let mut strict: Value = serde_json::from_slice(&written).unwrap();
    strict["freshness"]["challenge"] = true.into();
    let strict = desk.file("strict.json", strict.to_string());
    let options: [&Path; 3] = [TRUST.as_ref(), "--policy".as_ref(), &strict];
    let (exit, report) = inspect(honest().as_ref(), &options);
    assert_eq!((exit, &report["peer"]["binding"]), (0, &json!("challenge")), "{report}");

    let certificate = desk.file("leaf.der", machine().certificate().1);
    let (exit, report) = inspect(&certificate, &options);
    assert_eq!((exit, classes(&report)), (1, vec!["binding"]), "{report}");
    assert_eq!(report["reasons"][0]["expected"], "an answer to a challenge");
}

#[test]
fn answers_for_another_connection_nonce_or_key_are_refused() {
    let forged: [Answers; 5] = [
        // Relayed: the machine answered on a connection to somebody else.
        |machine, spki, (path, _)| {
            answer(&machine.attest(challenge::report_data(&nonce(path), &[7; 32], spki)))
        },
        // Replayed.
        |machine, spki, (_, exporter)| {
            answer(&machine.attest(challenge::report_data(&[7; 32], &exporter, spki)))
        },
        // For another certificate.
        |machine, _, (path, exporter)| {
            answer(&machine.attest(challenge::report_data(&nonce(path), &exporter, &[7; 91])))
        },
        // What the certificate carries.
        |machine, spki, _| answer(&machine.attest(ratls::report_data_for_key(spki))),
        // Another's quote under the right report data.
        |machine, spki, (path, exporter)| {
            let mut other = machine.attest([7; 64]);
            other.report_data = challenge::report_data(&nonce(path), &exporter, spki);
            answer(&other)
        },
    ];
    for (index, forged) in forged.into_iter().enumerate() {
        let (exit, report) = inspect(server(forged).as_ref(), &[TRUST.as_ref(), NONCE.as_ref()]);
        assert_eq!((exit, &report["verdict"]), (1, &json!("not-authentic")), "{index}: {report}");
        assert_eq!(classes(&report), ["binding"], "{index}: {report}");
    }
}

#[test]
fn what_is_no_answer_is_not_taken_for_one() {
    let bad: [(fn() -> Answer, i32); 7] = [
        (none, 2),
        (|| (200, "Transfer-Encoding: chunked\r\n".into(), b"no chunk".to_vec()), 2),
        (|| ok(vec![b' '; (1 << 20) + 1]), 2),
        (|| ok(Vec::new()), 1),
        (|| ok(br#"{"version":2,"attestation":""}"#.to_vec()), 1),
        (|| ok(br#"{"version":1,"attestation":"00"}"#.to_vec()), 1),
        (|| ok(br#"{"version":1,"attestation":"xy"}"#.to_vec()), 1),
    ];
    for (index, (bad, expected)) in bad.into_iter().enumerate() {
        let address = server(move |_, _, _| bad());
        let (exit, report) = inspect(address.as_ref(), &[TRUST.as_ref(), NONCE.as_ref()]);
        assert_eq!(exit, expected, "{index}: {report}");
        assert!(report["peer"].is_null() && report["error"].is_string(), "{index}: {report}");
    }
}
