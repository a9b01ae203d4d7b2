//! What the rules are judged on: `cargo metadata`, manifests and the files of the tree.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot read the tree has failed")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use toml_span::Value;

/// The part of `cargo metadata` (format version 1) that the rules need.
#[derive(Deserialize)]
pub(crate) struct Metadata {
    /// All packages asked for.
    pub packages: Vec<Package>,
}

/// A package.
#[derive(Deserialize)]
pub(crate) struct Package {
    pub name: String,
    pub version: String,
    /// Where it comes from; `None` for a folder.
    pub source: Option<String>,
    /// An SPDX expression.
    pub license: Option<String>,
    /// Its Cargo.toml.
    pub manifest_path: PathBuf,
    pub dependencies: Vec<Dependency>,
}

/// A dependency as a manifest declares it.
#[derive(Deserialize)]
pub(crate) struct Dependency {
    pub name: String,
    /// The version requirement.
    pub req: String,
    /// `None`, `dev` or `build`.
    pub kind: Option<String>,
    /// The folder it lies in, if it is of this workspace.
    pub path: Option<PathBuf>,
}

/// The top level of the tree.
pub(crate) fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the top level").to_owned()
}

/// The members of the workspace.
pub(crate) fn members() -> Vec<Package> {
    metadata(&["--no-deps"]).packages
}

/// The members and everything that a build for the target takes in.
pub(crate) fn everything() -> Vec<Package> {
    metadata(&["--filter-platform", "x86_64-unknown-linux-gnu"]).packages
}

fn metadata(arguments: &[&str]) -> Metadata {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(arguments)
        .current_dir(top())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata speaks format version 1")
}

/// A TOML file.
pub(crate) fn toml(path: &Path) -> Value<'static> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    // The parsed value borrows from the text; a test reads a handful of small files.
    toml_span::parse(text.leak()).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file of the tree that is ours, as path from the top level.
pub(crate) fn files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(top().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            let kind = entry.file_type().unwrap();
            if kind.is_dir() && !NOT_OURS.contains(&path.to_str().unwrap_or_default()) {
                folders.push(path);
            } else if kind.is_file() {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// What git keeps, and what `.gitignore` names.
const NOT_OURS: &[&str] =
    &[".git", "target", "out", "tests/fuzz/target", "tests/fuzz/corpus", "tests/fuzz/artifacts"];
