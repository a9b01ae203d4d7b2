//! What `--json` prints, against its schema.

use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::{Value, json};

use super::{Desk, TRUST, inspect, machine};
use crate::machine::image;

const SCHEMA: &str = include_str!("../../../verdict.schema.json");

fn compiled() -> (Schemas, SchemaIndex) {
    let mut schemas = Schemas::new();
    let mut compiler = Compiler::new();
    compiler.add_resource("urn:casemate:verdict", serde_json::from_str(SCHEMA).unwrap()).unwrap();
    let index = compiler.compile("urn:casemate:verdict", &mut schemas).unwrap();
    (schemas, index)
}

/// Whether a report is of the schema.
pub(super) fn check(report: &Value) -> Result<(), String> {
    let (schemas, index) = compiled();
    schemas.validate(report, index).map_err(|error| format!("{error:#}"))
}

#[test]
fn the_schema_refuses_what_is_not_printed() {
    let desk = Desk::new();
    let certificate = desk.file("leaf.der", machine().certificate().1);
    let policy = desk.policy(image());
    let (exit, trusted) = inspect(&certificate, &[TRUST.as_ref(), "--policy".as_ref(), &policy]);
    assert_eq!(exit, 0);
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut report = trusted.clone();
        change(&mut report);
        assert!(check(&report).is_err(), "{report}");
    };
    // Every field is there, of the report and of the peer.
    for field in trusted.as_object().unwrap().keys() {
        refused(&|report| drop(report.as_object_mut().unwrap().remove(field)));
    }
    for part in ["/peer", "/peer/registers", "/peer/collateral"] {
        for field in trusted.pointer(part).unwrap().as_object().unwrap().keys() {
            refused(&|report| drop(report.pointer_mut(part).unwrap().as_object_mut().unwrap().remove(field)));
        }
    }
    refused(&|report| report["verdict"] = "perhaps".into());
    refused(&|report| report["version"] = 2.into());
    refused(&|report| report["peer"] = Value::Null);
    refused(&|report| report["error"] = "but".into());
    refused(&|report| {
        report["reasons"] = json!([{ "class": "app", "what": "a", "expected": "b", "found": "c" }])
    });
    refused(&|report| report["verdict"] = "not-authentic".into());
    refused(&|report| report["verdict"] = "undecided".into());
    refused(&|report| report["verdict"] = "not-trusted".into());
    refused(&|report| report["peer"]["app_id"] = "AB".repeat(20).into());
    refused(&|report| report["peer"]["binding"] = "trust me".into());

    let (_, mut refusal) = inspect(&certificate, &[]);
    assert_eq!(refusal["verdict"], "not-authentic");
    refusal["reasons"][0].as_object_mut().unwrap().remove("class");
    assert!(check(&refusal).is_err());
}

/// Every class of the library has its word in the schema.
#[test]
fn the_schema_knows_the_classes() {
    use casemate_verify::Class::*;
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let words = schema.pointer("/$defs/reason/properties/class/enum").unwrap().as_array().unwrap();
    let classes = [
        Form,
        NotImplemented,
        Validity,
        Binding,
        Root,
        Collateral,
        Signature,
        Revocation,
        Attributes,
        Log,
        BootEvent,
        Identity,
        Image,
        App,
        KeyProvider,
        Tcb,
        Module,
        Platform,
        Freshness,
        Policy,
    ];
    assert_eq!(words.len(), classes.len());
    for class in classes {
        assert!(words.contains(&class.word().into()), "{class:?}");
    }
}
