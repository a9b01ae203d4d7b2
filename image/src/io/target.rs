//! Where the init is compiled: a folder of this checkout's own, which goes when the checkout has gone.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::error::{ImageError, Result};
use crate::io::store::cache_root;

/// What a build holds while it is in a folder.
const LOCK: &str = ".casemate-lock";
/// The checkout that a folder is for: its path, and nothing else.
const CHECKOUT: &str = ".casemate-checkout";

/// `CASEMATE_TARGET`, or a folder of this checkout's own: flags name its path, so two checkouts share nothing. Half a
/// gigabyte each: those of checkouts that are no more are removed.
///
/// # Errors
/// If the folder cannot be made.
pub(super) fn ready(workspace: &Path) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CASEMATE_TARGET").filter(|v| !v.is_empty()) {
        let path = std::path::absolute(&path).map_err(ImageError::at(PathBuf::from(&path)))?;
        fs::create_dir_all(&path).map_err(ImageError::at(&path))?;
        return Ok(path);
    }
    let all = cache_root()?.join("build");
    remove_orphans(&all);
    let checkout = workspace.as_os_str().as_bytes();
    let name = hex::encode(Sha256::digest(checkout));
    let path = all.join(name.get(..16).unwrap_or(&name));
    fs::create_dir_all(&path).map_err(ImageError::at(&path))?;
    let note = path.join(CHECKOUT);
    fs::write(&note, checkout).map_err(ImageError::at(&note))?;
    Ok(path)
}

/// The lock of a target folder, which is held from the build to the read: cargo links the result to one name for both
/// flavours.
///
/// # Errors
/// If its file cannot be made.
pub(super) fn lock_file(target: &Path) -> Result<File> {
    let path = target.join(LOCK);
    File::create(&path).map_err(ImageError::at(&path))
}

/// Removes the folders whose checkout is gone. What cannot be read, or is in use, stays: this is house-keeping, and no
/// build fails for it.
fn remove_orphans(all: &Path) {
    for folder in fs::read_dir(all).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let Ok(checkout) = fs::read(folder.join(CHECKOUT)) else { continue };
        let gone = fs::symlink_metadata(std::ffi::OsStr::from_bytes(&checkout))
            .is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        if gone && File::open(folder.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok()) {
            drop(fs::remove_dir_all(&folder));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_belongs_to_no_checkout_and_no_build_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let there = dir.path().join("there");
        fs::create_dir(&there).unwrap();
        let gone = dir.path().join("gone");
        let all = dir.path().join("build");
        for (name, checkout) in
            [("kept", Some(&there)), ("busy", Some(&gone)), ("orphan", Some(&gone)), ("older", None)]
        {
            let folder = all.join(name);
            fs::create_dir_all(folder.join("release")).unwrap();
            lock_file(&folder).unwrap();
            if let Some(checkout) = checkout {
                fs::write(folder.join(CHECKOUT), checkout.as_os_str().as_bytes()).unwrap();
            }
        }
        let build = lock_file(&all.join("busy")).unwrap();
        build.lock().unwrap();
        remove_orphans(&all);
        let mut left: Vec<_> = fs::read_dir(&all)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["busy", "kept", "older"]);
        drop(build);
        remove_orphans(&all);
        assert!(!all.join("busy").exists());
        remove_orphans(&all.join("never made"));
    }
}
