//! Inputs to begin with.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::Target;

/// The folders that hold a target's seeds: its own, which may be absent, and those it shares with other tests.
pub fn folders(target: &Target) -> Vec<PathBuf> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let top = package.join("../..");
    let own = package.join("seeds").join(target.name);
    std::iter::once(own)
        .chain(target.more_seeds.iter().map(|folder| top.join(folder)))
        .filter(|folder| folder.is_dir())
        .collect()
}

/// The files in them, sorted, with their content.
///
/// # Errors
/// What the kernel says.
pub fn files(target: &Target) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut found = Vec::new();
    let mut folders = folders(target);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let content = fs::read(&path)?;
                found.push((path, content));
            }
        }
    }
    found.sort();
    Ok(found)
}
