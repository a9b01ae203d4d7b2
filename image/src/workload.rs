//! Workloads: the root directories of services, from a directory, an image archive, or the demonstration's package.

use std::fs;
use std::path::PathBuf;

use casemate_measure::section::{DnsLabel, Section};
use sha2::{Digest as _, Sha256};

use crate::cpio;
use crate::error::{ImageError, Result};
use crate::io::directory;
use crate::lock::Pinned;
use crate::oci;
use crate::path::MemberPath;
use crate::tree::{Node, Tree};
use crate::unpack::MAX_BYTES;

/// Where a workload that was unpacked from a package says which: a [`Pinned`] record.
pub(crate) const PROVENANCE: &str = "usr/share/casemate/package.json";

/// `--workload NAME=PATH`.
#[derive(Clone, Debug)]
pub struct WorkloadSpec {
    /// What `rootfs` of a service calls it.
    pub name: DnsLabel,
    /// A directory, or an OCI or `docker save` archive.
    pub path: PathBuf,
}

impl std::str::FromStr for WorkloadSpec {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (name, path) = text.split_once('=').ok_or("expected NAME=DIR or NAME=OCI_TAR")?;
        let name = DnsLabel::new(name).ok_or_else(|| {
            format!("{name:?}: expected a DNS label (lowercase letters, digits, hyphens; at most 63)")
        })?;
        Ok(Self { name, path: PathBuf::from(path) })
    }
}

/// A workload in memory.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Its name.
    pub name: DnsLabel,
    /// Its root directory.
    pub tree: Tree,
    /// SHA-256 of its canonical archive.
    pub sha256: [u8; 32],
    /// The package it was unpacked from, by its own account.
    pub package: Option<Pinned>,
}

impl Workload {
    /// Reads it.
    ///
    /// # Errors
    /// If it cannot be read, is larger than the bounds, or holds what an image must not carry.
    pub fn read(spec: &WorkloadSpec) -> Result<Self> {
        let metadata = fs::metadata(&spec.path).map_err(ImageError::at(&spec.path))?;
        let tree = if metadata.is_dir() {
            directory::read(&spec.path)?
        } else {
            if metadata.len() > MAX_BYTES {
                let what = spec.path.display().to_string();
                return Err(ImageError::TooLarge { what, limit: MAX_BYTES, unit: "bytes" });
            }
            let bytes = fs::read(&spec.path).map_err(ImageError::at(&spec.path))?;
            oci::read(&spec.path.display().to_string(), &bytes)?
        };
        let sha256 = Sha256::digest(cpio::canonical(&tree)?).into();
        let package = provenance(&spec.path.display().to_string(), &tree)?;
        Ok(Self { name: spec.name.clone(), tree, sha256, package })
    }
}

/// The record in a tree, if there is one. `title` is for errors.
pub(crate) fn provenance(title: &str, tree: &Tree) -> Result<Option<Pinned>> {
    let record = MemberPath::parse(PROVENANCE).ok().and_then(|path| tree.get(&path));
    let Some(Node::File { content, .. }) = record else { return Ok(None) };
    serde_json::from_slice(content).map(Some).map_err(|error| {
        ImageError::form(format!("{title}: {PROVENANCE}"), "JSON", "a package record", error.to_string())
    })
}

/// Checks that the document's services can start from these workloads.
///
/// # Errors
/// The first service whose root directory was not given, or whose program is no executable file in it.
pub fn check(document: &str, section: &Section, workloads: &[Workload]) -> Result<()> {
    for service in &section.services {
        let rootfs = service.rootfs.as_str();
        let workload =
            workloads.iter().find(|w| w.name == service.rootfs).ok_or_else(|| ImageError::NoWorkload {
                document: document.to_owned(),
                service: service.name.to_string(),
                given: workloads.iter().map(|w| w.name.as_str()).collect::<Vec<_>>().join(", "),
                found: rootfs.to_owned(),
            })?;
        let program = service.exec.first().map_or("", String::as_str);
        let found = MemberPath::parse(program.trim_start_matches('/'))
            .ok()
            .and_then(|path| workload.tree.resolve(&path).ok().flatten());
        let found = match found {
            Some((_, Node::File { executable: true, .. })) => continue,
            Some((path, Node::File { .. })) => format!("{path}, which is not executable"),
            Some((path, node)) => format!("{path}, a {}", node.kind()),
            None => "nothing there".to_owned(),
        };
        let field = format!("services: {}: exec[0]: {program:?}", service.name);
        return Err(ImageError::form(
            document,
            field,
            format!("an executable file in workload {rootfs}"),
            found,
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs() {
        let spec: WorkloadSpec = "web=out/web".parse().unwrap();
        assert_eq!((spec.name.as_str(), spec.path), ("web", PathBuf::from("out/web")));
        assert!("web".parse::<WorkloadSpec>().is_err());
        assert!("../web=x".parse::<WorkloadSpec>().unwrap_err().contains("DNS label"));
    }
}
