//! The output folder: written beside its place and moved there whole, so that there is never half an image.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use tempfile::TempDir;

use crate::error::{ImageError, Result};

/// A folder in the making; dropped without [`Staged::commit`] it is gone.
#[derive(Debug)]
pub(crate) struct Staged {
    target: PathBuf,
    dir: TempDir,
    /// A file that says that an existing target may be replaced.
    marker: &'static str,
}

impl Staged {
    /// Starts beside `target`. An existing target is replaced only if it is empty or has a file `marker` in it.
    ///
    /// # Errors
    /// If it is something else, or its parent cannot be written.
    pub(crate) fn beside(target: &Path, marker: &'static str) -> Result<Self> {
        let target = std::path::absolute(target).map_err(ImageError::at(target))?;
        check(&target, marker)?;
        let parent = target
            .parent()
            .ok_or_else(|| ImageError::Usage("the root directory cannot be an output folder".into()))?;
        fs::create_dir_all(parent).map_err(ImageError::at(parent))?;
        let dir = tempfile::Builder::new()
            .prefix(".casemate-")
            .tempdir_in(parent)
            .map_err(ImageError::at(parent))?;
        Ok(Self { target, dir, marker })
    }

    /// Where to write.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file, mode 0644 under every umask.
    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path().join(name);
        fs::write(&path, bytes)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o644)))
            .map_err(ImageError::at(&path))
    }

    /// Moves it to its place; what was there goes away afterwards.
    pub(crate) fn commit(self) -> Result<PathBuf> {
        check(&self.target, self.marker)?;
        fs::set_permissions(self.path(), fs::Permissions::from_mode(0o755))
            .map_err(ImageError::at(self.path()))?;
        if self.target.exists() {
            renameat2(AT_FDCWD, self.path(), AT_FDCWD, &self.target, RenameFlags::RENAME_EXCHANGE)
                .map_err(|errno| ImageError::Io { path: self.target.clone(), source: errno.into() })?;
            // The temporary folder now holds the old content and is removed with it.
            self.dir.close().map_err(ImageError::at(&self.target))?;
        } else {
            fs::rename(self.path(), &self.target).map_err(ImageError::at(&self.target))?;
            // There is nothing left to remove.
            let _gone = self.dir.keep();
        }
        Ok(self.target)
    }
}

/// Whether `target` is free, empty, or one of ours that may be replaced.
///
/// # Errors
/// If it is something else.
pub(crate) fn check(target: &Path, marker: &str) -> Result<()> {
    let mut entries = match fs::read_dir(target) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(ImageError::at(target))?,
    };
    if entries.next().is_none() || target.join(marker).exists() {
        return Ok(());
    }
    Err(ImageError::NotReplaced { path: target.to_owned(), marker: marker.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn dropped_it_leaves_nothing_and_committed_it_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("deep/out");
        let staged = Staged::beside(&out, "manifest.json").unwrap();
        staged.file("manifest.json", b"1").unwrap();
        drop(staged);
        assert!(names(&dir.path().join("deep")).is_empty());
        for content in [b"1", b"2"] {
            let staged = Staged::beside(&out, "manifest.json").unwrap();
            staged.file("manifest.json", content).unwrap();
            staged.file(std::str::from_utf8(content).unwrap(), b"").unwrap();
            staged.commit().unwrap();
        }
        assert_eq!(names(&dir.path().join("deep")), ["out"]);
        assert_eq!(names(&out), ["2", "manifest.json"]);
    }

    #[test]
    fn what_is_no_image_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "years of work").unwrap();
        let error = Staged::beside(dir.path(), "manifest.json").unwrap_err();
        assert!(error.to_string().contains("not replaced"), "{error}");
    }
}
