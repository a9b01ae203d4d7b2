//! Reading and writing files, with the path in every error.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use casemate_verify::evidence::MAX_EVIDENCE;

/// The largest file that is read, bytes: the bounds of an attestation and of a document are below it.
const MAX_FILE: usize = 16 << 20;
/// The most entries of a directory that are looked at.
const MAX_ENTRIES: usize = 4096;

/// A whole file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let bytes = read_at_most(path, MAX_FILE + 1)?;
    if bytes.len() > MAX_FILE {
        return Err(format!("{}: expected at most {MAX_FILE} bytes, found more", path.display()));
    }
    Ok(bytes)
}

/// A file of evidence. Of one that is longer than any evidence, as much as shows that.
pub(crate) fn read_evidence(path: &Path) -> Result<Vec<u8>, String> {
    read_at_most(path, MAX_EVIDENCE + 1)
}

fn read_at_most(path: &Path, limit: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let with_path = |error: io::Error| format!("{}: {error}", path.display());
    File::open(path).map_err(with_path)?.take(limit as u64).read_to_end(&mut bytes).map_err(with_path)?;
    Ok(bytes)
}

/// The files of a directory by name, those that a name in UTF-8 has, in order.
pub(crate) fn list(directory: &Path) -> Result<Vec<(String, PathBuf)>, String> {
    let with_path = |error: io::Error| format!("{}: {error}", directory.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(with_path)?.take(MAX_ENTRIES) {
        let path = entry.map_err(with_path)?.path();
        if let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|_| path.is_file()) {
            files.push((name.to_owned(), path.clone()));
        }
    }
    files.sort();
    Ok(files)
}

/// Writes a file whole, or to stdout.
pub(crate) fn write(path: Option<&Path>, bytes: &[u8]) -> Result<(), String> {
    match path {
        Some(path) => std::fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display())),
        None => io::stdout().write_all(bytes).map_err(|error| format!("stdout: {error}")),
    }
}
