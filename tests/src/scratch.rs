//! Folders among the machine's temporary ones. Each goes with whoever made it; what a run left that was killed goes with the next.

use std::fs::{self, DirBuilder, File};
use std::io::{Error, ErrorKind};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A folder of somebody who lives. It is locked meanwhile; the kernel unlocks it when their process ends, however it does.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    _lock: File,
}

/// Whoever makes a folder has locked it by then.
const LOCKED: Duration = Duration::from_secs(60);

impl Scratch {
    /// An empty folder, whose name begins so; others of that name whose owners are dead are removed.
    ///
    /// # Errors
    /// What the file system says.
    pub fn new(prefix: &str) -> Result<Self, Error> {
        Self::new_in(&std::env::temp_dir(), prefix)
    }

    fn new_in(place: &Path, prefix: &str) -> Result<Self, Error> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        sweep(place, prefix)?;
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = place.join(format!("{prefix}{}-{number}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                // Of an earlier process with this number.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                made => made?,
            }
            let lock = File::open(&path)?;
            lock.lock()?;
            return Ok(Self { path, _lock: lock });
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.path));
    }
}

/// Removes what nobody holds any more.
fn sweep(place: &Path, prefix: &str) -> Result<(), Error> {
    for found in fs::read_dir(place)? {
        let found = found?;
        if !found.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()) {
            continue;
        }
        // It may go meanwhile: its owner removes it, or somebody else does who is here.
        let Ok(folder) = File::open(found.path()) else { continue };
        let old = folder
            .metadata()
            .and_then(|data| data.modified())
            .is_ok_and(|made| made.elapsed().is_ok_and(|age| age > LOCKED));
        if old && folder.try_lock().is_ok() {
            drop(fs::remove_dir_all(found.path()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    const PREFIX: &str = "casemate-scratch-of-a-test.";

    fn grows_old(folder: &Path) {
        let long_ago = SystemTime::now() - 2 * LOCKED;
        File::open(folder).unwrap().set_modified(long_ago).unwrap();
    }

    fn left(place: &Path, name: &str) -> PathBuf {
        let folder = place.join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("file"), "left").unwrap();
        folder
    }

    #[test]
    fn what_the_dead_left_goes_and_what_the_living_have_stays() {
        let place = Scratch::new("casemate-place-of-a-test.").unwrap();
        let living = Scratch::new_in(place.path(), PREFIX).unwrap();
        fs::write(living.path().join("file"), "mine").unwrap();
        let dead = left(place.path(), &format!("{PREFIX}1-1"));
        let fresh = left(place.path(), &format!("{PREFIX}1-2"));
        let others = left(place.path(), "somebody-else.1-1");
        for folder in [living.path(), &dead, &others] {
            grows_old(folder);
        }
        let next = Scratch::new_in(place.path(), PREFIX).unwrap();
        assert!(!dead.exists());
        for folder in [living.path(), &fresh, &others, next.path()] {
            assert!(folder.exists(), "{}", folder.display());
        }
        assert_eq!(fs::read_to_string(living.path().join("file")).unwrap(), "mine");
        let path = living.path().to_owned();
        drop(living);
        assert!(!path.exists());
    }
}
