//! Documents that the builder refuses, in an image all the same, with a manifest that lists them: PID 1 measures them, and
//! then refuses them, too.

use std::fs;

use casemate_measure::ComposeHash;
use casemate_measure::manifest::DOCUMENT_PATH;
use casemate_measure::status::{Reason, Stage};

use crate::images::{DEMO, Image, workspace};
use crate::initramfs::Initramfs;
use crate::machine::{Machine, Options, qemu};

fn refused(name: &str, document: Vec<u8>, says: &str) {
    if !qemu() {
        return;
    }
    let hash = ComposeHash::of(&document);
    let mut initramfs = Initramfs::of(Image::demo());
    initramfs.replace_listed(DOCUMENT_PATH, document);
    let image = Image::demo().with_initramfs(&format!("document-{name}"), &initramfs.compressed());
    let ended = Machine::switch_on(&image, Options::default()).wait_end();
    ended.assert_failed(Stage::Document, Reason::DocumentRefused);
    assert_eq!(ended.last().digest, hash.0, "{ended}");
    let line = ended.console.iter().find(|line| line.starts_with("casemate: reading the document: "));
    let line = line.unwrap_or_else(|| panic!("no reason on the console: {ended}"));
    assert!(line.contains(DOCUMENT_PATH) && line.contains(says), "expected {says:?}: {line}");
}

/// The demo's document with one text in it replaced.
fn demo_with(from: &str, to: &str) -> Vec<u8> {
    let demo = fs::read_to_string(workspace().join(DEMO)).unwrap();
    assert!(demo.contains(from), "{from}");
    demo.replacen(from, to, 1).into()
}

#[test]
fn an_unknown_key() {
    let document = demo_with(r#""role": "node","#, r#""role": "node", "shell": true,"#);
    refused("unknown-key", document, "casemate.shell: expected one of the keys");
}

#[test]
fn a_key_twice_in_another_spelling() {
    let document = demo_with(r#""role": "node","#, r#""role": "node", "r\u006fle": "node","#);
    refused("duplicate-key", document, "casemate.role: expected each key once");
}

#[test]
fn a_wrong_type() {
    refused(
        "wrong-type",
        demo_with(r#""uid": 1000,"#, r#""uid": "1000","#),
        "casemate.services[0].uid: expected",
    );
}

#[test]
fn nesting_without_end() {
    refused("nesting", vec![b'['; 10 << 20], "expected at most 4194304 bytes, found 10485760");
}

#[test]
fn nesting_that_is_short_enough() {
    refused("nesting-short", vec![b'['; 3 << 20], "expected at most 64 levels of nesting");
}

#[test]
fn a_field_of_dstack_that_is_not_carried_out() {
    let document = demo_with(
        r#""runner": "casemate","#,
        r#""runner": "casemate", "docker_compose_file": "services: {}","#,
    );
    refused("dstack-field", document, "docker_compose_file");
}
