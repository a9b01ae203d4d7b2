//! The state file: what the slots hold, over restarts of the parent.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use casemate_vpn::parent::slots::{MAX_CONTENT, Slots};
use nix::unistd::geteuid;

/// Nobody but the owner.
const MODE: u32 = 0o600;

/// The file, and what was last written to it.
#[derive(Debug)]
pub(super) struct Kept {
    path: PathBuf,
    last: Option<Vec<u8>>,
}

impl Kept {
    /// Puts what the file holds into empty slots; there may be no file yet.
    ///
    /// # Errors
    /// A file that others can read or write, that is longer than any state, and what the kernel says.
    pub(super) fn load(path: &Path, slots: &Slots) -> io::Result<Self> {
        let mut kept = Self { path: path.to_owned(), last: None };
        // Whatever else lies there must not hold us up, nor be somewhere else.
        let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(kept),
            Err(error) => return Err(error),
        };
        let found = file.metadata()?;
        let (mode, owner, own) = (found.mode() & 0o7777, found.uid(), geteuid().as_raw());
        if !found.is_file() {
            return Err(io::Error::other("expected a file, found something else"));
        }
        if mode & 0o077 != 0 || owner != own {
            return Err(io::Error::other(format!(
                "expected a file of mode 0600 and uid {own}, found {mode:04o} and {owner}: it holds private keys"
            )));
        }
        let most = u64::try_from(MAX_CONTENT).map_err(io::Error::other)?;
        let mut content = Vec::new();
        file.take(most.saturating_add(1)).read_to_end(&mut content)?;
        // More than there is room for is refused there.
        slots.write(&content)?;
        kept.last = Some(content);
        Ok(kept)
    }

    /// Writes the slots' newest content, if it is another: as a whole or not at all.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn save(&mut self, slots: &Slots) -> io::Result<()> {
        // None: nothing yet, or it is just being written, and then its writer will say so.
        let Some(content) = slots.read() else { return Ok(()) };
        if self.last.as_ref() == Some(&content) {
            return Ok(());
        }
        let beside = self.beside()?;
        match fs::remove_file(&beside) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&beside)?;
        file.write_all(&content)?;
        file.sync_all()?;
        fs::rename(&beside, &self.path)?;
        // Without it a power cut may bring back what was before.
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or_else(|| Path::new(".")))?.sync_all()?;
        self.last = Some(content);
        Ok(())
    }

    fn beside(&self) -> io::Result<PathBuf> {
        let name = self.path.file_name().ok_or_else(|| io::Error::other("expected the path of a file"))?;
        let mut name = name.to_owned();
        name.push(".new");
        Ok(self.path.with_file_name(name))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use casemate_vpn::parent::slots;

    use super::*;

    fn empty() -> Slots {
        Slots::new(slots::create().unwrap()).unwrap()
    }

    #[test]
    fn what_was_saved_is_loaded_and_nobody_else_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let memory = empty();
        let mut kept = Kept::load(&path, &memory).unwrap();
        kept.save(&memory).unwrap();
        assert!(!path.exists(), "nothing yet, no file");
        memory.write(b"one").unwrap();
        // A leftover of a save that was cut.
        fs::write(dir.path().join("state.new"), b"half").unwrap();
        kept.save(&memory).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, MODE);
        memory.write(b"two").unwrap();
        kept.save(&memory).unwrap();
        let again = empty();
        Kept::load(&path, &again).unwrap();
        assert_eq!(again.read().unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_others_can_read_or_that_is_too_long_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        fs::write(&path, b"x").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = Kept::load(&path, &empty()).unwrap_err().to_string();
        let own = geteuid();
        let expected = format!(
            "expected a file of mode 0600 and uid {own}, found 0640 and {own}: it holds private keys"
        );
        assert_eq!(error, expected);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        Kept::load(&path, &empty()).unwrap();
        fs::write(&path, vec![0; MAX_CONTENT + 1]).unwrap();
        assert!(Kept::load(&path, &empty()).is_err());
        // Neither what is elsewhere nor what one waits at.
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(Kept::load(&link, &empty()).is_err());
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        let error = Kept::load(&fifo, &empty()).unwrap_err().to_string();
        assert_eq!(error, "expected a file, found something else");
        if geteuid().is_root() {
            fs::write(&path, b"x").unwrap();
            std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
            let error = Kept::load(&path, &empty()).unwrap_err().to_string();
            assert!(error.contains("found 0600 and 65534"), "{error}");
        }
    }
}
