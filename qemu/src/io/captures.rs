//! The file of captured digests, on disk.

use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::acpi::AcpiTable;
use crate::error::Error;

/// Reads the file; an empty table if there is none.
///
/// # Errors
/// If it is there and not such a file.
pub fn read(path: &Path) -> Result<AcpiTable, Error> {
    match std::fs::read(path) {
        Ok(text) => AcpiTable::read(&text).map_err(json(path)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(AcpiTable::default()),
        Err(error) => Err(Error::file(path)(error)),
    }
}

/// Replaces the file whole: whatever happens, what was captured before is kept.
///
/// # Errors
/// What the file system says.
pub fn write(path: &Path, table: &AcpiTable) -> Result<(), Error> {
    let text = table.text().map_err(json(path))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| Path::new("."));
    let mut fresh = tempfile::NamedTempFile::new_in(folder).map_err(Error::file(folder))?;
    fresh.write_all(text.as_bytes()).map_err(Error::file(path))?;
    let readable = std::fs::Permissions::from_mode(0o644);
    fresh.as_file().set_permissions(readable).map_err(Error::file(path))?;
    fresh.persist(path).map(drop).map_err(|error| Error::file(path)(error.error))
}

fn json(path: &Path) -> impl FnOnce(serde_json::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Json { path, expected: "captured ACPI digests", source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acpi::{Blobs, Capture};

    #[test]
    fn captures_are_added_to_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("acpi.json");
        for shape in ["b", "a", "b"] {
            let mut table = read(&path).unwrap();
            let blobs = Blobs { loader: vec![1], rsdp: vec![2], tables: vec![3] };
            table.add(Capture::of("11.1.3".into(), shape.into(), &blobs)).unwrap();
            write(&path, &table).unwrap();
        }
        let shapes = read(&path).unwrap();
        let shapes: Vec<_> = shapes.entries().iter().map(|entry| entry.shape.as_str()).collect();
        assert_eq!(shapes, ["a", "b"]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing but the file is left");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
    }

    #[test]
    fn another_file_is_named_and_a_missing_folder_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("acpi.json");
        std::fs::write(&path, "{\"version\": 1}").unwrap();
        let error = read(&path).unwrap_err();
        assert_eq!(error.exit_status(), 3);
        let start = format!("{}: expected captured ACPI digests: unknown field", path.display());
        assert!(error.to_string().starts_with(&start), "{error}");
        let nowhere = dir.path().join("no/acpi.json");
        let error = write(&nowhere, &AcpiTable::default()).unwrap_err().to_string();
        assert!(error.starts_with(&dir.path().join("no").display().to_string()), "{error}");
    }
}
