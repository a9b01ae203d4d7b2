//! Pinned packages on disk: looked up, fetched, and checked against the lock each time before they are used.

use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};
use sha2::{Digest as _, Sha256};

use crate::error::{ImageError, Result};
use crate::io::apt::Apt;
use crate::lock::Pinned;
use crate::progress::{Progress, megabytes};

/// Where packages may come from besides the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mirror {
    /// A folder with `.deb` files.
    Folder(PathBuf),
    /// A Debian mirror, as apt takes its address.
    Address(String),
}

impl Mirror {
    /// From `--mirror`: what has `://` in it or names a transport is an address, everything else a folder.
    pub fn parse(text: &str) -> Self {
        if text.contains(":/") { Self::Address(text.to_owned()) } else { Self::Folder(PathBuf::from(text)) }
    }
}

/// The cache, and what may fill it.
#[derive(Clone, Debug)]
pub struct Store {
    cache: PathBuf,
    /// Looked into, never written.
    read_only: Option<PathBuf>,
    mirror: Option<Mirror>,
}

impl Store {
    /// The cache is `CASEMATE_DEB_CACHE`, or `debs` in our cache folder. A `CASEMATE_DEB_CACHE` that is marked
    /// read-only is read, and what it lacks goes to our cache folder: the mark counts for root too.
    ///
    /// # Errors
    /// If neither that nor a home folder is known.
    pub fn new(mirror: Option<Mirror>) -> Result<Self> {
        match std::env::var_os("CASEMATE_DEB_CACHE").filter(|v| !v.is_empty()).map(PathBuf::from) {
            Some(folder) if is_read_only(&folder) => {
                Ok(Self { cache: cache_root()?.join("debs"), read_only: Some(folder), mirror })
            }
            Some(folder) => Ok(Self::at(folder, mirror)),
            None => Ok(Self::at(cache_root()?.join("debs"), mirror)),
        }
    }

    /// A store with that cache folder.
    pub const fn at(cache: PathBuf, mirror: Option<Mirror>) -> Self {
        Self { cache, read_only: None, mirror }
    }

    /// The bytes of these packages, in order, each of them exactly what was pinned.
    ///
    /// # Errors
    /// If one is nowhere to be had, or is not what was pinned.
    pub fn packages(&self, pinned: &[&Pinned], progress: &Progress) -> Result<Vec<Vec<u8>>> {
        let missing: Vec<&Pinned> = pinned.iter().copied().filter(|p| self.find(p).is_none()).collect();
        if !missing.is_empty() {
            self.fetch(&missing, progress)?;
        }
        pinned
            .iter()
            .map(|package| match self.find(package) {
                Some(path) => read_checked(&path, package),
                None => Err(missing_error(&[package], "it was fetched and is not in the cache")),
            })
            .collect()
    }

    /// The file of a package, in the cache or the mirror folder.
    fn find(&self, package: &Pinned) -> Option<PathBuf> {
        let names = [content_name(package), package.file_name(), package.pool_name()];
        // What was asked for explicitly comes first.
        let mirror = match &self.mirror {
            Some(Mirror::Folder(folder)) => Some(folder),
            _ => None,
        };
        let folders = [mirror, self.read_only.as_ref(), Some(&self.cache)];
        folders
            .into_iter()
            .flatten()
            .flat_map(|folder| names.iter().map(|name| folder.join(name)))
            .find(|path| path.is_file())
    }

    fn fetch(&self, missing: &[&Pinned], progress: &Progress) -> Result<()> {
        let mirror = match &self.mirror {
            Some(Mirror::Folder(folder)) => {
                let why = format!("they are neither in {} nor in {}", folder.display(), self.cache.display());
                return Err(missing_error(missing, &why));
            }
            Some(Mirror::Address(uri)) => Some(uri.as_str()),
            None => None,
        };
        let size = missing.iter().map(|p| p.size).fold(0, u64::saturating_add);
        progress.say(format_args!("packages: fetching {} ({}) through apt", missing.len(), megabytes(size)));
        fs::create_dir_all(&self.cache).map_err(ImageError::at(&self.cache))?;
        let mut suites: Vec<&str> = missing.iter().map(|p| p.suite.as_str()).collect();
        suites.sort_unstable();
        suites.dedup();
        let unreachable = |error: ImageError| match error {
            error @ ImageError::Program { .. } => missing_error(missing, &error.to_string()),
            other => other,
        };
        let apt = Apt::update(&self.cache, mirror, &suites).map_err(unreachable)?;
        for package in missing {
            let version = format!("Version: {}", package.version);
            let has = apt.show(&package.package)?.iter().any(|s| s.lines().any(|line| line == version));
            if !has {
                return Err(ImageError::Gone {
                    package: package.package.clone(),
                    version: package.version.clone(),
                    suite: package.suite.clone(),
                });
            }
        }
        let names: Vec<String> = missing.iter().map(|p| format!("{}={}", p.package, p.version)).collect();
        let files = apt.download(&names).map_err(unreachable)?;
        for package in missing {
            self.keep(&files.join(package.file_name()), package)?;
        }
        progress.say(format_args!("packages: fetched into {}", self.cache.display()));
        Ok(())
    }

    /// Puts a file into the cache under its content's name, if it is what was pinned.
    ///
    /// # Errors
    /// If it is not, or the cache cannot be written.
    pub(crate) fn keep(&self, file: &Path, package: &Pinned) -> Result<()> {
        let bytes = read_checked(file, package)?;
        fs::create_dir_all(&self.cache).map_err(ImageError::at(&self.cache))?;
        let target = self.cache.join(content_name(package));
        let mut temporary =
            tempfile::NamedTempFile::new_in(&self.cache).map_err(ImageError::at(&self.cache))?;
        std::io::Write::write_all(&mut temporary, &bytes).map_err(ImageError::at(&target))?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        temporary.as_file().set_permissions(mode).map_err(ImageError::at(&target))?;
        temporary.persist(&target).map_err(|error| ImageError::Io { path: target, source: error.error })?;
        Ok(())
    }

    /// Its folder.
    pub(crate) fn cache(&self) -> &Path {
        &self.cache
    }
}

/// Whether a folder is there and nobody is meant to write it.
fn is_read_only(folder: &Path) -> bool {
    fs::metadata(folder)
        .is_ok_and(|metadata| metadata.permissions().readonly() || access(folder, AccessFlags::W_OK).is_err())
}

/// `~/.cache/casemate`, or where the XDG base directory specification puts it.
///
/// # Errors
/// If no home folder is known.
pub fn cache_root() -> Result<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".cache")))
        .map(|cache| cache.join("casemate"))
        .ok_or_else(|| {
            ImageError::Usage("HOME is not set: expected a home folder for the package cache".into())
        })
}

fn content_name(package: &Pinned) -> String {
    format!("{}.deb", hex::encode(package.sha256))
}

fn read_checked(path: &Path, package: &Pinned) -> Result<Vec<u8>> {
    let wrong = |field, expected, found| ImageError::Pinned {
        file: path.to_owned(),
        package: package.title(),
        field,
        expected,
        found,
    };
    let length = fs::metadata(path).map_err(ImageError::at(path))?.len();
    if length != package.size {
        return Err(wrong("size in bytes", package.size.to_string(), length.to_string()));
    }
    let bytes = fs::read(path).map_err(ImageError::at(path))?;
    let found: [u8; 32] = Sha256::digest(&bytes).into();
    if found != package.sha256 {
        return Err(wrong("SHA-256", hex::encode(package.sha256), hex::encode(found)));
    }
    Ok(bytes)
}

fn missing_error(missing: &[&Pinned], why: &str) -> ImageError {
    let line =
        |p: &&Pinned| format!("  {} (suite {}, SHA-256 {})", p.pool_name(), p.suite, hex::encode(p.sha256));
    ImageError::Missing {
        missing: missing.iter().map(line).collect::<Vec<_>>().join("\n"),
        why: why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::Role;
    use crate::lock::tests::pinned;

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(dir.path().join(name), content).unwrap();
        }
        dir
    }

    #[test]
    fn a_package_is_found_under_any_of_its_names() {
        let package = pinned(Role::Kernel, b"deb");
        for name in [content_name(&package), package.file_name(), package.pool_name()] {
            let dir = folder(&[(&name, b"deb")]);
            let store = Store::at(dir.path().into(), None);
            assert_eq!(store.packages(&[&package], &Progress::silent()).unwrap(), [b"deb"]);
        }
    }

    #[test]
    fn one_flipped_bit_is_named() {
        let package = pinned(Role::Kernel, b"deb");
        let dir = folder(&[(&package.pool_name(), b"dec")]);
        let store = Store::at(dir.path().into(), None);
        let error = store.packages(&[&package], &Progress::silent()).unwrap_err().to_string();
        let file = dir.path().join(package.pool_name());
        assert_eq!(
            error,
            format!(
                "{}: not the pinned bytes of package pkg-kernel 1:2.0-1~bpo13+1: SHA-256: expected {}, found {}; delete \
                 that file and run again to fetch it anew",
                file.display(),
                hex::encode(Sha256::digest(b"deb")),
                hex::encode(Sha256::digest(b"dec"))
            )
        );
    }

    #[test]
    fn what_is_missing_and_what_to_do() {
        let package = pinned(Role::Firmware, b"deb");
        let (cache, mirror) = (folder(&[]), folder(&[]));
        let store = Store::at(cache.path().into(), Some(Mirror::Folder(mirror.path().into())));
        let error = store.packages(&[&package], &Progress::silent()).unwrap_err().to_string();
        assert!(error.contains("pkg-firmware_2.0-1~bpo13+1_amd64.deb (suite trixie, SHA-256 "), "{error}");
        assert!(error.contains("--mirror DIR or CASEMATE_DEB_CACHE"), "{error}");
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_mirror_folder_wins_over_the_cache() {
        let package = pinned(Role::Kernel, b"deb");
        let (cache, mirror) =
            (folder(&[(&package.pool_name(), b"bad")]), folder(&[(&package.pool_name(), b"deb")]));
        let store = Store::at(cache.path().into(), Some(Mirror::Folder(mirror.path().into())));
        assert!(store.packages(&[&package], &Progress::silent()).is_ok());
    }

    #[test]
    fn a_folder_marked_read_only_stays_as_it_is() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = folder(&[]);
        assert!(!is_read_only(dir.path()));
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o555)).unwrap();
        assert!(is_read_only(dir.path()));
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn addresses_and_folders() {
        assert_eq!(Mirror::parse("debs"), Mirror::Folder("debs".into()));
        assert_eq!(Mirror::parse("/a/b"), Mirror::Folder("/a/b".into()));
        assert_eq!(
            Mirror::parse("https://m.invalid/debian"),
            Mirror::Address("https://m.invalid/debian".into())
        );
        assert_eq!(Mirror::parse("file:/srv/debian"), Mirror::Address("file:/srv/debian".into()));
    }
}
