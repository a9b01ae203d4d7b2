//! The logs of a machine, read by another app through the mesh; and nothing secret in them or in anything else that leaves it.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::console::process;
use crate::https::get;
use crate::images::Image;
use crate::machine::{Machine, Options, qemu};
use crate::peer;

/// An app that serves nothing; its name makes it one or another.
fn caller(name: &str) -> String {
    format!(
        r#"{{"manifest_version": 2, "name": "{name}", "runner": "casemate", "key_provider": "none", "secure_time": false,
        "casemate": {{"version": 1, "node": {{"name": "{name}", "type": "test"}}, "vpn": {{"mode": "direct"}}, "mesh": {{"images": ["same"]}}}}}}"#
    )
}

/// `web` says who called it, `flood` more than a ring holds.
fn document(reader: &str) -> String {
    format!(
        r#"{{
  "manifest_version": 2, "name": "boot-logs", "runner": "casemate", "key_provider": "none", "secure_time": false,
  "casemate": {{
    "version": 1, "role": "node", "node": {{ "name": "logs", "type": "test" }},
    "network": {{ "mode": "dhcp" }}, "vpn": {{ "mode": "direct" }}, "egress": {{ "mode": "internal-only" }},
    "mesh": {{
      "backends": [{{ "listen": 443, "kind": "http", "to": "web:8000", "allow": ["any"] }}],
      "verify": "quote", "images": ["same"]
    }},
    "logs": {{ "readers": ["{reader}"] }},
    "services": [
      {{
        "name": "web", "rootfs": "web", "uid": 1000, "ports": [8000],
        "exec": ["/bin/sh", "-c", "echo {WORDS}; echo to standard error >&2; exec httpd -f -vv -p 8000 -h /www"]
      }},
      {{ "name": "flood", "rootfs": "web", "uid": 1001, "exec": ["/bin/sh", "-c", "exec yes {FLOOD}"] }}
    ]
  }}
}}"#
    )
}

const WORDS: &str = "the web service is here";
const FLOOD: &str = "a line that nobody asked for and everybody gets";
const LOGS: &str = "/.well-known/casemate/logs";

#[test]
fn are_read_by_the_app_that_the_document_names() {
    if !qemu() {
        return;
    }
    let reader = caller("reader");
    let image = Image::of("logs", &document(&peer::app_of(&reader).to_string()));
    let permitted = peer::certificate(&image, &reader);
    let other = peer::certificate(&image, &caller("other"));
    let machine = Machine::switch_on(&image, Options::default());
    machine.wait_ready();
    let mesh = machine.mesh.unwrap();
    // A busy host may be too late for one; what is answered counts.
    let get = |certificate, path: &str| machine.wait(path, || get(mesh, certificate, path).ok());
    let json = |path: &str| -> Value {
        let (status, body) = get(Some(&permitted), path);
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    };

    // Everybody of the image may call the service, and one app may read what it says.
    assert_eq!(get(Some(&other), "/").0, 200);
    let web = machine.wait("the caller in the service's log", || {
        let page = json(&format!("{LOGS}/web"));
        texts(&page).iter().any(|text| text.contains("response:200")).then_some(page)
    });
    let said = texts(&web);
    assert_eq!(said[..2], [WORDS, "to standard error"], "{web}");
    assert_eq!((&web["missed"], &web["dropped"]), (&Value::from(0), &Value::from(0)), "{web}");

    let dropped = |index: &Value, name: &str| {
        let logs = index["logs"].as_array().unwrap();
        logs.iter().find(|log| log["name"] == name).unwrap()["dropped"].as_u64().unwrap()
    };
    let index = machine
        .wait("more than a ring holds", || Some(json(LOGS)).filter(|index| dropped(index, "flood") > 0));
    let names: BTreeSet<&str> =
        index["logs"].as_array().unwrap().iter().map(|log| log["name"].as_str().unwrap()).collect();
    assert_eq!(names, BTreeSet::from(["agent", "casemate", "dhcp", "flood", "mesh", "web"]));
    assert_eq!(dropped(&index, "web"), 0, "a neighbour's flood costs it nothing");
    let flood = json(&format!("{LOGS}/flood?limit=3"));
    let (missed, first) = (flood["missed"].as_u64().unwrap(), &flood["lines"][0]);
    assert!(missed >= dropped(&index, "flood"), "{flood}");
    assert_eq!(
        (first["sequence"].as_u64(), first["text"].as_str()),
        (Some(missed + 1), Some(FLOOD)),
        "{flood}"
    );

    for (who, certificate) in [("another app", Some(&other)), ("a stranger", None)] {
        for path in [LOGS.to_owned(), format!("{LOGS}/web"), format!("{LOGS}/flood?limit=1")] {
            let (status, body) = get(certificate, &path);
            assert_eq!(status, 403, "{who}: {path}: {body}");
            assert!(!body.contains(WORDS) && !body.contains(FLOOD), "{body}");
        }
    }

    // The machine is not kept from its work by it: counters move on, and it goes in order.
    let status = machine.wait_status("a status document", |_| true);
    assert_eq!(process(&status, "flood")["restarts"], 0, "{status}");
    assert_eq!(
        status["mesh"],
        serde_json::json!({ "ready": true, "ports": [443], "log_readers": 1 }),
        "{status}"
    );

    let mut all: Vec<String> = Vec::new();
    for name in names.iter().filter(|name| **name != "flood") {
        let (mut after, mut more) = (0, true);
        while more {
            let page = json(&format!("{LOGS}/{name}?after={after}"));
            all.extend(texts(&page).into_iter().map(str::to_owned));
            (after, more) = (page["last"].as_u64().unwrap(), page["more"] == true);
        }
    }
    assert!(all.len() >= 5, "{all:?}");
    let ended = machine.power_off();
    ended.assert_orderly();
    all.extend(ended.console.clone());
    all.extend(ended.frames.iter().map(|frame| hex::encode(frame.digest)));
    all.push(status.to_string());
    nothing_like_a_key(&all, &status);
}

fn texts(page: &Value) -> Vec<&str> {
    page["lines"].as_array().unwrap().iter().map(|line| line["text"].as_str().unwrap()).collect()
}

/// The keys of a machine never leave it, so that nobody can look for them by value: but whatever has the form of one must be
/// a known public value. In hexadecimal 32 bytes and more, in base64 likewise, and PEM or DER of a private key.
fn nothing_like_a_key(texts: &[String], status: &Value) {
    let mut public: BTreeSet<&str> =
        status["registers"].as_object().unwrap().values().map(|r| r.as_str().unwrap()).collect();
    let nothing = "0".repeat(64);
    public.extend([status["identity"]["compose_hash"].as_str().unwrap(), &nothing]);
    for text in texts {
        for form in ["PRIVATE KEY", "MIGHAgEA", "MIGTAgEA", "MHcCAQEE", "308187020100", "30770201"] {
            assert!(!text.contains(form), "{form}: {text}");
        }
        for token in text.split(|c: char| !c.is_ascii_hexdigit()).filter(|token| token.len() >= 64) {
            assert!(
                public.contains(token),
                "an unknown value of {} hex digits: {token} in {text}",
                token.len()
            );
        }
        for token in text.split(|c: char| !c.is_ascii_alphanumeric() && !"+/_=-".contains(c)) {
            let random = token.len() >= 43
                && token.bytes().any(|b| b.is_ascii_digit())
                && token.bytes().any(|b| b.is_ascii_uppercase())
                && token.bytes().any(|b| b.is_ascii_lowercase());
            assert!(
                !random || public.contains(token),
                "{} characters of base64: {token} in {text}",
                token.len()
            );
        }
    }
}
