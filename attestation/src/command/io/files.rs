//! Reading and writing files, with the path in every error.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

/// The largest file that is read, bytes: the bound of an attestation and of a document are below it.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// A whole file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let with_path = |error: io::Error| format!("{}: {error}", path.display());
    File::open(path).map_err(with_path)?.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(with_path)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("{}: expected at most {MAX_FILE} bytes, found more", path.display()));
    }
    Ok(bytes)
}

/// Writes a file whole, or to stdout.
pub(crate) fn write(path: Option<&Path>, bytes: &[u8]) -> Result<(), String> {
    match path {
        Some(path) => std::fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display())),
        None => io::stdout().write_all(bytes).map_err(|error| format!("stdout: {error}")),
    }
}
