//! `cargo measure image` over an image directory that is made here: what it prints, what `diff` makes of it, and how it ends
//! when a file is not what it should be.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot make its input has failed"
)]

#[path = "../kernel/build.rs"]
mod build;
mod compared;
mod directory;
mod explained;
mod hostile;

use std::path::Path;
use std::process::{Command, Output};

/// A document that an appliance carries out.
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/demo.app-compose.json");
const INSTANCE: &str = "4444444444444444444444444444444444444444";

/// Exit status, stdout, stderr.
fn measure(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_casemate-measure")).args(arguments).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// `image DIR --vm DIR/shape.json`, and what else is said.
fn image(dir: &Path, more: &[&str]) -> (Option<i32>, String, String) {
    let shape = dir.join("shape.json");
    let arguments = ["image", dir.to_str().unwrap(), "--vm", shape.to_str().unwrap()];
    measure(&[&arguments, more].concat())
}

/// As [`image`], of an image that nothing is wrong with.
fn printed(dir: &Path, more: &[&str]) -> String {
    let (status, out, err) = image(dir, more);
    assert_eq!((status, err.as_str()), (Some(0), ""));
    out
}
