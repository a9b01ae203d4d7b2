//! `/etc/resolv.conf` while the node runs, where the configuration asks for it.
//!
//! Our file and the old one change places in one step, so that there is one at any time, and the old one, whatever it is, lies beside it
//! under a name that says so, as it was. Where the file is a mount point (a container's), it is written in place instead, and the old text
//! kept beside it. A lock on our file tells a run that goes on from one that was killed.

mod text;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::sys::exchange;

/// The file.
pub(super) const PATH: &str = "/etc/resolv.conf";
/// What is appended to its name for the one before.
const BEFORE: &str = ".before-casemate-vpn";
/// What is appended for the next text, for a moment.
const NEXT: &str = ".casemate-vpn-new";
/// A longer one is none.
const MAX_LEN: u64 = 64 << 10;
/// Everybody asks names.
const MODE: u32 = 0o644;
/// Between two texts of ours: how often the disk is written is not the network's to say.
const PACE: Duration = Duration::from_secs(5);

/// Why it is not taken. Each is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// There is none.
    #[error("{0}: there is none; make an empty one, or leave dns.resolv_conf out")]
    Missing(PathBuf),
    /// Its owner has another way for this.
    #[error(
        "{path} is systemd-resolved's: leave dns.resolv_conf out and run \
         `resolvectl dns {link} 100.100.100.100 && resolvectl domain {link} '~DOMAIN'`, with the network's, once it is up"
    )]
    Resolved {
        /// The file.
        path: PathBuf,
        /// Our interface.
        link: String,
    },
    /// Whoever asked us would be asked by us.
    #[error(
        "{path} names the node's own address already, and we did not write it: put another resolver there (see {before}, if it is there)"
    )]
    Loop {
        /// The file.
        path: PathBuf,
        /// The one before.
        before: PathBuf,
    },
    /// The one who could be asked may ask us.
    #[error(
        "{path} names {address}, which may ask whom this file names, and that would be us: say dns.resolvers"
    )]
    OnLoopback {
        /// The file.
        path: PathBuf,
        /// Who.
        address: IpAddr,
    },
    /// Nobody would know other names.
    #[error("{0} names no resolver: say dns.resolvers")]
    NoResolver(PathBuf),
    /// A run that goes on.
    #[error("{0} is another casemate-init vpn's, which runs")]
    Taken(PathBuf),
    /// The file system.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What came of putting the old file back.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Back {
    /// There is nothing of ours.
    Nothing,
    /// It is as it was.
    Done,
    /// Somebody changed it meanwhile: it is left as it is, and the one before beside it.
    Changed,
    /// It is a run's that goes on.
    Taken,
}

/// Puts back what a run that was killed has left on this machine. First of all: whatever else is wrong, it is to have its names.
pub(super) fn recover_first() {
    match recover(Path::new(PATH)) {
        Ok(Back::Done) => super::say(format_args!("{PATH} is as it was before a run that was killed")),
        // Also if a kill came in the middle of a write in place. It is said until somebody has looked, and removes the old one.
        Ok(Back::Changed) => super::say(format_args!(
            "{PATH} was changed by somebody since an earlier run: it is left as it is; what was there before is {PATH}{BEFORE}"
        )),
        Ok(Back::Nothing | Back::Taken) => {}
        Err(error) => super::say(format_args!("{PATH}: {error}")),
    }
}

/// Puts back what a run that was killed has left.
///
/// # Errors
/// What the kernel says.
pub(super) fn recover(path: &Path) -> io::Result<Back> {
    let before = beside(path, BEFORE);
    // It may be a link to what is not there yet.
    match fs::symlink_metadata(&before) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Back::Nothing),
        Err(error) => return Err(error),
        Ok(_) => {}
    }
    let ours = |path: &Path| read(path).ok().flatten().filter(|text| text::is_ours(&before, text));
    let Some(now) = ours(path) else {
        if ours(&before).is_none() {
            return Ok(Back::Changed);
        }
        // Killed before it took its place.
        remove(&beside(path, NEXT))?;
        remove(&before)?;
        return Ok(Back::Nothing);
    };
    let file = File::open(path)?;
    match file.try_lock() {
        Ok(()) => {
            remove(&beside(path, NEXT))?;
            put_back(path, &before, &now)
        }
        Err(TryLockError::WouldBlock) => Ok(Back::Taken),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The file is ours until this is dropped.
#[derive(Debug)]
pub(super) struct ResolvConf {
    path: PathBuf,
    before: PathBuf,
    /// What we wrote.
    text: String,
    /// Our file, locked.
    file: File,
    /// A mount point keeps its place.
    in_place: bool,
    /// When the domain in it was written last, or could not be.
    written: Option<Instant>,
    /// It is put back already.
    done: bool,
}

impl ResolvConf {
    /// Takes the file's place. Also who is asked about other names: those that the old file names; none, if `resolvers_needed` is
    /// false.
    ///
    /// # Errors
    /// What is said in one line; then everything is as it was.
    pub(super) fn take(
        path: &Path,
        link: &str,
        resolvers_needed: bool,
    ) -> Result<(Self, Vec<SocketAddr>), Refusal> {
        Self::take_with(path, link, resolvers_needed, exchange)
    }

    fn take_with(
        path: &Path,
        link: &str,
        resolvers_needed: bool,
        exchange: fn(&Path, &Path) -> io::Result<()>,
    ) -> Result<(Self, Vec<SocketAddr>), Refusal> {
        let before = beside(path, BEFORE);
        let failed = |source| Refusal::File { path: path.to_owned(), source };
        if recover(path).map_err(failed)? == Back::Taken {
            return Err(Refusal::Taken(path.to_owned()));
        }
        let resolved = || Refusal::Resolved { path: path.to_owned(), link: link.to_owned() };
        if is_resolveds(path) {
            return Err(resolved());
        }
        let Some(old) = read(path).map_err(failed)? else { return Err(Refusal::Missing(path.to_owned())) };
        let found = text::read(&old);
        match found.on_loopback {
            // `man systemd-resolved`: the stub, and the one without search domains. It reads the file if it is not its own.
            Some(IpAddr::V4(v4)) if matches!(v4.octets(), [127, 0, 0, 53 | 54]) => return Err(resolved()),
            _ if found.is_loop => return Err(Refusal::Loop { path: path.to_owned(), before }),
            Some(address) if resolvers_needed && found.resolvers.is_empty() => {
                return Err(Refusal::OnLoopback { path: path.to_owned(), address });
            }
            None if resolvers_needed && found.resolvers.is_empty() => {
                return Err(Refusal::NoResolver(path.to_owned()));
            }
            _ => {}
        }
        let taken = Self::replace(path, &before, &old, exchange).map_err(failed)?;
        Ok((taken, if resolvers_needed { found.resolvers } else { Vec::new() }))
    }

    fn replace(
        path: &Path,
        before: &Path,
        old: &str,
        exchange: fn(&Path, &Path) -> io::Result<()>,
    ) -> io::Result<Self> {
        let text = text::ours(before, None);
        // What lies there is of a run whose file somebody changed since: that somebody's file is the one to keep.
        remove(before)?;
        let (file, in_place) =
            match create(before, &text).and_then(|file| Ok((file, exchange(before, path)?))) {
                Ok((file, ())) => (file, false),
                // In place only a file itself: through a link it would be somebody else's that is overwritten.
                Err(error) if cannot_move(&error) && fs::symlink_metadata(path)?.is_file() => {
                    remove(before)?;
                    drop(create(before, old)?);
                    let written = write_in_place(path, &text).inspect_err(|_| {
                        // As far as that can be: the file system does not take what it is told.
                        if write_in_place(path, old).is_ok() {
                            drop(remove(before));
                        }
                    });
                    (written?, true)
                }
                Err(error) => {
                    remove(before)?;
                    return Err(error);
                }
            };
        let (path, before) = (path.to_owned(), before.to_owned());
        Ok(Self { path, before, text, file, in_place, written: None, done: false })
    }

    /// The network's domain, now or, if another was just written, at a later call with it.
    ///
    /// # Errors
    /// What the kernel says; it is tried again at a later call, too.
    pub(super) fn follow(&mut self, domain: &str, now: Instant) -> io::Result<Back> {
        if self.written.is_some_and(|last| now.saturating_duration_since(last) < PACE) {
            return Ok(Back::Nothing);
        }
        let done = self.set_search(domain);
        if !matches!(done, Ok(Back::Nothing)) {
            self.written = Some(now);
        }
        done
    }

    /// The network's domain: its names can be said without it.
    ///
    /// # Errors
    /// What the kernel says.
    fn set_search(&mut self, domain: &str) -> io::Result<Back> {
        let text = text::ours(&self.before, Some(domain).filter(|domain| !domain.is_empty()));
        if text == self.text {
            return Ok(Back::Nothing);
        }
        if !is_file(&self.path, &self.text)? {
            return Ok(Back::Changed);
        }
        if self.in_place {
            overwrite(&self.file, &text)?;
        } else {
            let next = beside(&self.path, NEXT);
            remove(&next)?;
            let file = create(&next, &text)?;
            fs::rename(&next, &self.path)?;
            self.file = file;
        }
        self.text = text;
        Ok(Back::Done)
    }

    /// Puts the old file back.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn put_back(&mut self) -> io::Result<Back> {
        if self.done {
            return Ok(Back::Nothing);
        }
        let back = put_back(&self.path, &self.before, &self.text)?;
        self.done = true;
        Ok(back)
    }

    /// Where the old file is.
    pub(super) fn before(&self) -> &Path {
        &self.before
    }
}

impl Drop for ResolvConf {
    fn drop(&mut self) {
        match self.put_back() {
            Ok(Back::Changed) => super::say(format_args!(
                "{} was changed by somebody: it is left as it is; what was there before is {}",
                self.path.display(),
                self.before.display()
            )),
            Ok(_) => {}
            Err(error) => super::say(format_args!(
                "{}: {error}: what was there before is {}",
                self.path.display(),
                self.before.display()
            )),
        }
    }
}

/// Puts the old file back, if ours still has its place.
fn put_back(path: &Path, before: &Path, ours: &str) -> io::Result<Back> {
    if !is_file(path, ours)? {
        return Ok(Back::Changed);
    }
    match fs::rename(before, path) {
        Ok(()) => Ok(Back::Done),
        Err(error) if cannot_move(&error) => {
            let old = read(before)?.ok_or(io::ErrorKind::NotFound)?;
            write_in_place(path, &old)?;
            remove(before)?;
            Ok(Back::Done)
        }
        Err(error) => Err(error),
    }
}

/// Whether there is a file of this very content, and not a link to one.
fn is_file(path: &Path, content: &str) -> io::Result<bool> {
    let is_file = match fs::symlink_metadata(path) {
        Ok(found) => found.is_file(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    Ok(is_file && read(path)?.as_deref() == Some(content))
}

/// The file system's word for "not from this place".
fn cannot_move(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EXDEV | libc::EINVAL | libc::ENOSYS))
}

/// Whether the file is a link into what systemd-resolved maintains, or to its copy in its package.
fn is_resolveds(path: &Path) -> bool {
    let is_link = fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
    // Its target may not be there yet.
    let target = fs::canonicalize(path).or_else(|_| fs::read_link(path)).unwrap_or_default();
    let target = target.to_string_lossy();
    is_link && ["systemd/resolve/", "lib/systemd/resolv.conf"].iter().any(|part| target.contains(part))
}

/// The text of a file; `None`: there is none.
fn read(path: &Path) -> io::Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_LEN.saturating_add(1)).read_to_end(&mut bytes)?;
    let fits = u64::try_from(bytes.len()).is_ok_and(|length| length <= MAX_LEN);
    let text = String::from_utf8(bytes).ok().filter(|_| fits);
    text.map(Some).ok_or_else(|| io::Error::other(format!("expected text of at most {MAX_LEN} bytes")))
}

/// A new file, locked.
fn create(path: &Path, content: &str) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(MODE))?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    lock(&file)?;
    Ok(file)
}

/// The file stays the one that it is, locked.
fn write_in_place(path: &Path, content: &str) -> io::Result<File> {
    let file = OpenOptions::new().write(true).open(path)?;
    overwrite(&file, content)?;
    lock(&file)?;
    Ok(file)
}

fn overwrite(file: &File, content: &str) -> io::Result<()> {
    file.write_all_at(content.as_bytes(), 0)?;
    file.set_len(u64::try_from(content.len()).map_err(io::Error::other)?)?;
    file.sync_all()
}

/// Somebody who reads it may hold it for a moment: then it goes without, and a next start takes us for killed.
fn lock(file: &File) -> io::Result<()> {
    match file.try_lock() {
        Ok(()) | Err(TryLockError::WouldBlock) => Ok(()),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn beside(path: &Path, appendix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(appendix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests;
