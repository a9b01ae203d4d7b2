//! Documents for tests: a small valid one, and changes to it.
#![expect(clippy::unwrap_used, reason = "a test that cannot make its document has failed")]

use casemate_measure::document::DocumentError;
use casemate_measure::{MeasuredConfig, Platform};
use serde_json::{Value, json};

/// The smallest document with one service, one backend and one target.
pub(crate) fn small() -> Value {
    json!({
        "manifest_version": 2, "name": "small", "runner": "casemate", "secure_time": false,
        "casemate": {
            "version": 1,
            "node": { "name": "small-1", "type": "small" },
            "vpn": { "mode": "direct" },
            "mesh": {
                "backends": [{ "listen": 443, "kind": "http", "to": "web:8000", "allow": ["any"] }],
                "targets": { "3763bc34552cf3a27ff71ad5f7a90471562a1a2d": "10.0.2.2:18443" },
                "images": ["same"],
            },
            "services": [{ "name": "web", "exec": ["/bin/httpd"], "rootfs": "web", "uid": 1000, "ports": [8000] }],
        },
    })
}

/// Sets what is at a JSON pointer (RFC 6901), `null` included.
pub(crate) fn set(document: &mut Value, pointer: &str, value: Value) {
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    match document.pointer_mut(parent).unwrap() {
        Value::Array(items) if last == "-" => items.push(value),
        Value::Array(items) => *items.get_mut(last.parse::<usize>().unwrap()).unwrap() = value,
        object => drop(object.as_object_mut().unwrap().insert(last.to_owned(), value)),
    }
}

/// Takes away what is at a JSON pointer.
pub(crate) fn remove(document: &mut Value, pointer: &str) {
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    let object = document.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    assert!(object.remove(last).is_some(), "{pointer} was not there");
}

/// The small document with some changes.
pub(crate) fn changed(changes: &[(&str, Value)]) -> Value {
    let mut document = small();
    for (pointer, value) in changes {
        set(&mut document, pointer, value.clone());
    }
    document
}

/// Parses for the appliance.
pub(crate) fn parse(document: &Value) -> Result<MeasuredConfig, DocumentError> {
    MeasuredConfig::parse("doc.json", &serde_json::to_vec(document).unwrap(), Platform::Appliance)
}

/// The error of a document that is to be refused.
pub(crate) fn refusal(document: &Value) -> String {
    match parse(document) {
        Err(error) => error.to_string(),
        Ok(_) => format!("accepted: {document:#}"),
    }
}
