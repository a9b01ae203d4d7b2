//! What every room has: the workspace's lints, version, edition and licence, dependencies from the one table, a README
//! that is its front page.

use std::fs;
use std::path::Path;

use toml_span::Value;

use crate::workspace::{members, toml, top};

/// What stands at the top level (design section 4), besides dot files and what `.gitignore` names.
const TOP: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "attestation",
    "clippy.toml",
    "configs",
    "deny.toml",
    "image",
    "init",
    "measurements",
    "qemu",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "tests",
];

#[test]
fn the_top_level_is_fixed() {
    let names = fs::read_dir(top()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let others: Vec<_> = names
        .filter(|name| !name.starts_with('.') && !["target", "out"].contains(&name.as_str()))
        .filter(|name| !TOP.contains(&name.as_str()))
        .collect();
    assert!(others.is_empty(), "at the top level: {others:?}");
}

fn is_true(value: &Value<'_>, pointer: &str) -> bool {
    value.pointer(pointer).is_some_and(|value| value.as_bool() == Some(true))
}

/// What is wrong with a member's manifest.
fn judge(manifest: &Value<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    for inherited in [
        "/lints",
        "/package/version",
        "/package/edition",
        "/package/rust-version",
        "/package/license",
        "/package/publish",
    ] {
        if !is_true(manifest, &format!("{inherited}/workspace")) {
            wrong.push(format!("{inherited} is not the workspace's"));
        }
    }
    for table in ["/dependencies", "/dev-dependencies", "/build-dependencies"] {
        let Some(dependencies) = manifest.pointer(table).and_then(Value::as_table) else { continue };
        for (name, dependency) in dependencies {
            if !is_true(dependency, "/workspace") {
                wrong.push(format!("{table}/{name} is not from the one version table"));
            }
        }
    }
    if manifest.pointer("/target").is_some() {
        wrong.push("/target: there is one target".to_owned());
    }
    wrong
}

#[test]
fn every_room_inherits_lints_version_edition_licence_and_dependencies() {
    let mut wrong = Vec::new();
    for member in members() {
        let manifest = toml(&member.manifest_path);
        wrong.extend(judge(&manifest).into_iter().map(|why| format!("{}: {why}", member.name)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_manifest_of_its_own_mind_is_seen() {
    let right = "[package]\nversion.workspace = true\nedition.workspace = true\nrust-version.workspace = true\n\
                 license.workspace = true\npublish.workspace = true\n[lints]\nworkspace = true\n[dependencies]\na.workspace = true\n";
    assert_eq!(judge(&toml_span::parse(right).unwrap()), [""; 0]);
    for (from, to) in [
        ("[lints]\nworkspace = true\n", ""),
        ("version.workspace = true", "version = \"1.0.0\""),
        ("a.workspace = true", "a = \"1\""),
        ("[dependencies]\n", "[dev-dependencies]\nb = { version = \"1\" }\n[dependencies]\n"),
    ] {
        let bent = right.replacen(from, to, 1);
        assert_eq!(judge(&toml_span::parse(&bent).unwrap()).len(), 1, "{bent}");
    }
}

#[test]
fn every_room_has_a_readme_that_is_its_front_page() {
    for member in members() {
        let room = member.manifest_path.parent().expect("a manifest lies in a folder");
        let readme = read(&room.join("README.md"));
        assert!(readme.lines().count() > 5, "{}: its README.md says nothing", member.name);
        let library = room.join("src/lib.rs");
        let front = if library.exists() { library } else { room.join("src/main.rs") };
        assert!(
            read(&front).contains("#![doc = include_str!(\"../README.md\")]"),
            "{}: README.md is not the front page of its documentation",
            front.display()
        );
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
