//! What no file is or says.

use std::fs;
use std::path::Path;

use crate::workspace::{files, top};

/// A file longer than this is two files.
const LINES: usize = 600;

/// Longer files, each with the reason why it is one file.
const LONG: &[(&str, &str)] = &[];

/// Hosts that the machine's own package configuration knows, and nobody else should: registries, mirrors, image stores.
/// In two halves each, so that this list does not name them either.
const HOSTS: &[(&str, &str)] = &[
    ("crates", ".io"),
    ("debian", ".org"),
    ("debian", ".net"),
    ("ubuntu", ".com"),
    ("docker", ".io"),
    ("docker", ".com"),
    ("ghcr", ".io"),
    ("gcr", ".io"),
    ("quay", ".io"),
    ("pypi", ".org"),
    ("pythonhosted", ".org"),
    ("npmjs", ".org"),
    ("golang", ".org"),
    ("kernel", ".org/pub"),
];

/// Places on the machines of whoever wrote it.
const PLACES: &[(&str, &str)] = &[("/wo", "rk/"), ("/ro", "ot/")];

/// The kernel's link to the root of a process is no such place.
const KERNELS: (&str, &str) = ("/proc/1/ro", "ot/");

/// Cargo writes the name of its default registry there by itself.
const MAY_NAME: &[&str] = &["Cargo.lock", "tests/sdk/rust/Cargo.lock"];

/// What is wrong with a text.
fn judge(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let kernels = format!("{}{}", KERNELS.0, KERNELS.1);
    for (number, line) in text.lines().enumerate() {
        let line = line.replace(&kernels, "");
        for (left, right) in HOSTS.iter().chain(PLACES) {
            let name = format!("{left}{right}");
            if line.contains(&name) {
                wrong.push(format!("line {}: names {name}", number.saturating_add(1)));
            }
        }
    }
    wrong
}

#[test]
fn no_file_is_long_without_a_reason() {
    for path in files().iter().filter(|path| path.extension().is_some_and(|e| e == "rs")) {
        let lines = fs::read_to_string(top().join(path)).unwrap().lines().count();
        let listed = LONG.iter().any(|(long, _)| Path::new(long) == path);
        assert!(lines <= LINES || listed, "{}: {lines} lines, at most {LINES}", path.display());
        assert!(lines > LINES || !listed, "{}: needs no reason any more", path.display());
    }
    for (path, reason) in LONG {
        assert!(top().join(path).exists() && !reason.is_empty(), "{path}");
    }
}

#[test]
fn no_file_names_a_registry_a_mirror_or_a_machine_of_ours() {
    let mut wrong = Vec::new();
    let mut read = 0;
    for path in files() {
        // What is no text has no lines to read.
        let Ok(text) = fs::read_to_string(top().join(&path)) else { continue };
        read += 1;
        if !MAY_NAME.iter().any(|name| Path::new(name) == path) {
            wrong.extend(judge(&text).into_iter().map(|why| format!("{}: {why}", path.display())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(read > 20, "only {read} files were read");
}

#[test]
fn a_name_is_seen() {
    for (left, right) in HOSTS.iter().chain(PLACES) {
        assert_eq!(judge(&format!("first\nsee {left}{right}x")).len(), 1, "{left}{right}");
    }
    assert_eq!(judge("see example.org"), [""; 0]);
}
