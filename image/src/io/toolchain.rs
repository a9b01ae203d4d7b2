//! The pinned toolchain on disk: unpacked once into a folder of the cache, whole or not at all, and compared with the lock each
//! time before it is used.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{ImageError, Result};
use crate::io::output::Staged;
use crate::io::store::{Store, cache_root};
use crate::io::{command, directory};
use crate::lock::Pinned;
use crate::path::MemberPath;
use crate::progress::{Progress, megabytes};
use crate::toolchain::{LIBRARIES, LOADER, PROGRAMS, TOOLS, ToolchainLock, scripts, unpack};
use crate::tree::Tree;

/// By this file a folder is known as one of ours.
const MARKER: &str = "tools/cc";

/// The one file of the machine that the compiler would read whatever its sysroot: gcc's `main` looks there for a change of
/// its own rules (gcc/gcc.cc, "standard_exec_prefix/just_machine_suffix/specs"). No Debian package has it.
const SPECS: &str = "/usr/lib/gcc/x86_64-linux-gnu/specs";

/// A toolchain that is what the lock says.
#[derive(Clone, Debug)]
pub struct Toolchain {
    root: PathBuf,
}

impl Toolchain {
    /// Unpacks the packages, or takes what was unpacked before if it is still the same.
    ///
    /// The folder is in `CASEMATE_TOOLCHAIN`, or `toolchain` in our cache folder.
    ///
    /// # Errors
    /// If a package is nowhere to be had, is not what was pinned, or its programs need more than the packages have.
    pub fn ready(lock: &ToolchainLock, store: &Store, progress: &Progress) -> Result<Self> {
        Self::ready_in(&folder()?, lock, store, progress)
    }

    /// The same in that folder.
    ///
    /// # Errors
    /// As [`Toolchain::ready`].
    pub fn ready_in(folder: &Path, lock: &ToolchainLock, store: &Store, progress: &Progress) -> Result<Self> {
        if Path::new(SPECS).exists() {
            return Err(ImageError::form(SPECS, "file", "none: it would change the pinned compiler", "one"));
        }
        let root = folder.join(lock.key()?);
        check_path(&root)?;
        fs::create_dir_all(folder).map_err(ImageError::at(folder))?;
        let lock_path = folder.join(".lock");
        let held = File::create(&lock_path).map_err(ImageError::at(&lock_path))?;
        held.lock().map_err(ImageError::at(&lock_path))?;
        if root.exists() {
            match check(&root, lock) {
                Ok(()) => return Ok(Self { root }),
                Err(why) => progress.say(format_args!("toolchain: {why}; unpacking it again")),
            }
        }
        let pinned: Vec<&Pinned> = lock.packages.iter().collect();
        let packages = store.packages(&pinned, progress)?;
        let packages: Vec<_> = pinned.iter().copied().zip(packages.iter().map(Vec::as_slice)).collect();
        let files = unpack(&packages)?;
        lock.check_files("image/toolchain.lock", &files)?;
        Self::make(files, &root, progress)
    }

    /// Writes files and scripts to a folder, whole or not at all.
    pub(crate) fn make(files: Tree, root: &Path, progress: &Progress) -> Result<Self> {
        let size = megabytes(files.size());
        let mut tree = files;
        for (path, node) in scripts() {
            let title = path.to_string();
            tree.insert(path, node)
                .map_err(|why| ImageError::member("toolchain packages", title, why.to_string()))?;
        }
        let staged = Staged::beside(root, MARKER)?;
        directory::write(&tree, staged.path(), false)?;
        for (_, program) in PROGRAMS {
            check_libraries(staged.path(), program)?;
        }
        let root = staged.commit()?;
        progress.say(format_args!("toolchain: {size} in {}", root.display()));
        Ok(Self { root })
    }

    /// Where everything of it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The C compiler, which also links.
    pub fn cc(&self) -> PathBuf {
        self.root.join(TOOLS).join("cc")
    }

    /// The archiver.
    pub fn ar(&self) -> PathBuf {
        self.root.join(TOOLS).join("ar")
    }
}

fn folder() -> Result<PathBuf> {
    match std::env::var_os("CASEMATE_TOOLCHAIN").filter(|v| !v.is_empty()).map(PathBuf::from) {
        Some(path) => std::path::absolute(&path).map_err(ImageError::at(path)),
        None => Ok(cache_root()?.join("toolchain")),
    }
}

/// The loader splits its library path at colons and semicolons and expands `$` (ld.so(8)), the compiler splits at colons.
fn check_path(root: &Path) -> Result<()> {
    match root.to_str() {
        Some(text) if root.is_absolute() && !text.contains([':', ';', '$', '=', '\n']) => Ok(()),
        _ => Err(ImageError::form(
            root.display().to_string(),
            "path",
            "an absolute path, UTF-8, without any of `:;$=`",
            "something else",
        )),
    }
}

/// That what lies there is what was put there.
fn check(root: &Path, lock: &ToolchainLock) -> Result<()> {
    let title = root.display().to_string();
    let mut tree = directory::read(root)?;
    for (path, node) in scripts() {
        if tree.get(&path) != Some(&node) {
            return Err(ImageError::form(title, path.as_str(), "as it was made", "another or none"));
        }
        tree.remove(&path);
    }
    // What somebody else put beside the scripts stays, and shows in the digest.
    if let Ok(tools) = MemberPath::parse(TOOLS)
        && !tree.iter().any(|(path, _)| path.ancestors().any(|above| above == tools))
    {
        tree.remove(&tools);
    }
    lock.check_files(&title, &tree)
}

/// That the loader finds every library of a program below the root.
fn check_libraries(root: &Path, program: &str) -> Result<()> {
    let mut list = Command::new(root.join(LOADER));
    list.arg("--inhibit-cache").arg("--library-path").arg(root.join(LIBRARIES)).arg("--list");
    let text = command::output(list.arg(root.join(program)).env_clear(), "list the libraries of a program")?;
    let real = fs::canonicalize(root).map_err(ImageError::at(root))?;
    for line in text.lines() {
        // `NAME => PATH (ADDRESS)`, and the kernel's own without a path.
        let Some((name, path)) = line.trim().split_once(" => ") else { continue };
        let path = path.rsplit_once(" (").map_or(path, |(path, _)| path);
        let inside = fs::canonicalize(path).is_ok_and(|path| path.starts_with(&real));
        if !inside {
            return Err(ImageError::form(program, name, "a library of the pinned packages", path));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toolchain::digest;
    use crate::tree::Node;

    fn path(text: &str) -> MemberPath {
        MemberPath::parse(text).unwrap()
    }

    /// Programs that need nothing and a loader that lists nothing.
    fn files() -> Tree {
        let mut tree = Tree::new();
        for (_, program) in PROGRAMS {
            tree.insert(path(program), Node::executable(*b"elf")).unwrap();
        }
        tree.insert(path(LOADER), Node::executable(*b"#!/bin/sh\n")).unwrap();
        tree.insert(path("usr/include/stdio.h"), Node::plain(*b"h")).unwrap();
        tree
    }

    fn lock() -> ToolchainLock {
        ToolchainLock { version: 1, files: digest(&files()).unwrap(), packages: Vec::new() }
    }

    #[test]
    fn every_change_of_what_was_unpacked_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a root");
        type Change = fn(&Path);
        let changes: [(Change, &str); 6] = [
            (|_| {}, ""),
            (|root| fs::write(root.join("usr/include/stdio.h"), "H").unwrap(), "SHA-256 of its files"),
            (|root| fs::remove_file(root.join("usr/include/stdio.h")).unwrap(), "SHA-256 of its files"),
            (|root| fs::write(root.join("tools/ld.lld"), "elf").unwrap(), "SHA-256 of its files"),
            (
                |root| fs::write(root.join("tools/ld"), "#!/bin/true").unwrap(),
                "tools/ld: expected as it was made",
            ),
            (|root| fs::remove_file(root.join("lib")).unwrap(), "lib: expected as it was made"),
        ];
        for (change, why) in changes {
            Toolchain::make(files(), &root, &Progress::silent()).unwrap();
            change(&root);
            match check(&root, &lock()) {
                Ok(()) => assert_eq!(why, ""),
                Err(error) => assert!(!why.is_empty() && error.to_string().contains(why), "{error}"),
            }
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_library_of_the_machine_is_seen_and_nothing_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let mut files = files();
        files.remove(&path(LOADER));
        let loader = "#!/bin/sh\necho '	libx.so.1 => /bin/sh (0x00007f0000000000)'\n";
        files.insert(path(LOADER), Node::executable(loader.as_bytes())).unwrap();
        let error = Toolchain::make(files, &root, &Progress::silent()).unwrap_err().to_string();
        assert!(
            error.contains("libx.so.1: expected a library of the pinned packages, found /bin/sh"),
            "{error}"
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_the_loader_would_take_apart_is_refused() {
        for bad in ["/a:b", "/a;b", "/a/$ORIGIN", "/a=b", "relative"] {
            assert!(check_path(Path::new(bad)).is_err(), "{bad}");
        }
        check_path(Path::new("/some where/it's fine")).unwrap();
    }
}
