//! `manifest.json` of an image directory: every input and output with its digest.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The whole file. Written by `casemate-image`, checked by `casemate-qemu` before it starts anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageManifest {
    /// Format version, 1.
    pub version: u32,
    /// `dev` or `prod`.
    pub flavor: Flavor,
    /// File name in the image directory to what it is. `manifest.json` itself is not listed.
    pub outputs: BTreeMap<String, FileDigest>,
    /// What went in: packages, the init binary, the document, workloads, the compiler.
    pub inputs: Vec<Input>,
}

/// Which guest binary an image carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flavor {
    /// Development.
    Dev,
    /// Production.
    Prod,
}

/// Size and digest of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileDigest {
    /// Length in bytes.
    pub size: u64,
    /// SHA-256.
    #[serde(with = "hex::serde")]
    pub sha256: [u8; 32],
}

/// One input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// `package`, `init`, `document`, `workload`, `compiler`, …
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its version, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// SHA-256 of its bytes (of a canonical archive of them, for a directory).
    #[serde(with = "hex::serde")]
    pub sha256: [u8; 32],
    /// Its licence, SPDX, where it is a work of others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// Where its source is to be had, for a work under a copyleft licence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}
