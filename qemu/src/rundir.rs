//! A run directory: where one machine keeps its socket, logs and status, and where scripts find them.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::Error;
use crate::report::Report;

/// Linux `UNIX_PATH_MAX` is 108 (include/uapi/linux/un.h), with its NUL.
const SOCKET_PATH_MAX: usize = 107;
/// What is written of a sparse file at once, in bytes: a page.
const SPARSE: usize = 4096;

/// The names of a run directory's files; nothing is opened by making one.
#[derive(Clone, Debug)]
pub struct RunDir(PathBuf);

/// Held while a machine runs in a directory; the lock goes with the process.
#[derive(Debug)]
pub struct Claim {
    /// The directory.
    pub dir: RunDir,
    _lock: File,
}

impl RunDir {
    /// A directory that exists.
    ///
    /// # Errors
    /// If it does not exist, or QEMU could not be told of a socket in it.
    pub fn existing(path: &Path) -> Result<Self, Error> {
        let path = std::fs::canonicalize(path).map_err(Error::file(path))?;
        if path.to_str().is_none() {
            return Err(Error::PathText(path));
        }
        let dir = Self(path);
        if dir.qmp().as_os_str().as_bytes().len() > SOCKET_PATH_MAX {
            return Err(Error::SocketPath(dir.qmp()));
        }
        Ok(dir)
    }

    /// Makes the directory (mode 0700) if it is not there, claims it, and clears what an earlier machine left.
    ///
    /// # Errors
    /// [`Error::Busy`] if a machine runs in it; else what the file system says.
    pub fn claim(path: &Path) -> Result<Claim, Error> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Error::file(path))?;
        let dir = Self::existing(path)?;
        let mut lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(dir.pid())
            .map_err(Error::file(dir.pid()))?;
        // Somebody who only asks whether a machine runs here holds a shared lock for a moment.
        let claimed = (0..10).any(|turn| {
            std::thread::sleep(Duration::from_millis(5 * turn));
            lock.try_lock().is_ok()
        });
        if !claimed {
            return Err(Error::Busy(dir.0));
        }
        lock.set_len(0)
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(Error::file(dir.pid()))?;
        for stale in [dir.status(), dir.qmp(), dir.console(), dir.qemu_log(), dir.share()] {
            match std::fs::remove_file(&stale) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::File { path: stale, source: error });
                }
                _ => {}
            }
        }
        Ok(Claim { dir, _lock: lock })
    }

    /// Whether a machine runs in it.
    pub fn is_claimed(&self) -> bool {
        File::open(self.pid()).is_ok_and(|file| file.try_lock_shared().is_err())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Holds the pid of `casemate-qemu boot`, and its lock.
    pub fn pid(&self) -> PathBuf {
        self.0.join("pid")
    }

    /// The report.
    pub fn status(&self) -> PathBuf {
        self.0.join("status.json")
    }

    /// QEMU's monitor.
    pub fn qmp(&self) -> PathBuf {
        self.0.join("qmp.sock")
    }

    /// Where a pasted command line would have the status port.
    pub fn status_socket(&self) -> PathBuf {
        self.0.join("status.sock")
    }

    /// Where a pasted command line would have the first monitor.
    pub fn control_socket(&self) -> PathBuf {
        self.0.join("control.sock")
    }

    /// The guest's console.
    pub fn console(&self) -> PathBuf {
        self.0.join("console.log")
    }

    /// What QEMU itself prints.
    pub fn qemu_log(&self) -> PathBuf {
        self.0.join("qemu.log")
    }

    /// The host share's image.
    pub fn share(&self) -> PathBuf {
        self.0.join("share.img")
    }

    /// Writes the share's image, sparse: almost all of it is zeros.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write_share(&self, image: &[u8]) -> Result<(), Error> {
        let write = || {
            // A name that is there already is not written through: whoever holds it open keeps what they have.
            match std::fs::remove_file(self.share()) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let file = File::options().write(true).create_new(true).mode(0o600).open(self.share())?;
            file.set_len(image.len() as u64)?;
            for (index, page) in
                image.chunks(SPARSE).enumerate().filter(|(_, page)| page.iter().any(|b| *b != 0))
            {
                file.write_all_at(page, (index * SPARSE) as u64)?;
            }
            Ok(())
        };
        write().map_err(Error::file(self.share()))
    }

    /// Replaces the report whole: a reader never sees half of one.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write_report(&self, report: &Report) -> Result<(), Error> {
        let path = self.status();
        let fresh = self.0.join("status.json.new");
        let json = |source| Error::Json { path: path.clone(), expected: "a report", source };
        let mut text = serde_json::to_vec_pretty(report).map_err(json)?;
        text.push(b'\n');
        std::fs::write(&fresh, text).map_err(Error::file(&fresh))?;
        std::fs::rename(&fresh, &path).map_err(Error::file(&path))
    }

    /// The report, if there is one yet.
    ///
    /// # Errors
    /// If it is there and not readable.
    pub fn read_report(&self) -> Result<Option<Report>, Error> {
        let path = self.status();
        match std::fs::read(&path) {
            Ok(text) => {
                let json = |source| Error::Json { path, expected: "a report", source };
                serde_json::from_slice(&text).map(Some).map_err(json)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::File { path, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claimed_directory_is_busy_until_the_claim_goes() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("run");
        let claim = RunDir::claim(&path).unwrap();
        assert!(claim.dir.is_claimed());
        assert!(matches!(RunDir::claim(&path), Err(Error::Busy(_))));
        std::fs::write(claim.dir.console(), "old").unwrap();
        drop(claim);
        let dir = RunDir::existing(&path).unwrap();
        assert!(!dir.is_claimed());
        RunDir::claim(&path).unwrap();
        assert!(!dir.console().exists(), "an earlier machine's console is not this one's");
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_named() {
        let temp = tempfile::tempdir().unwrap();
        let error = RunDir::claim(&temp.path().join("x".repeat(120))).unwrap_err();
        assert!(matches!(error, Error::SocketPath(_)), "{error}");
        assert!(error.to_string().contains("107"));
    }
}
