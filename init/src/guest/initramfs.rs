//! Every file of the initramfs against the manifest in `/init`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use casemate_measure::manifest::{FOOTER_LEN, InitramfsManifest, Member, TrailerError};
use casemate_measure::status::Reason;
use sha2::{Digest as _, Sha256};

use crate::boot::Failure;

/// What the kernel's own built-in initramfs holds (usr/default_cpio_list), beside `/init` and mount points.
const KERNELS_OWN: &[&str] = &["dev", "dev/console", "root", "init"];

/// Compares the tree under `root` with the manifest at the end of `init`.
pub(super) fn check(root: &Path, init: &Path) -> Result<(), Failure> {
    let manifest = manifest(init)?;
    let mut found = BTreeMap::new();
    walk(root, Path::new(""), device(root)?, &mut found)?;
    for (path, expected) in &manifest.members {
        match found.remove(path) {
            None => return Err(mismatch(path, "missing")),
            // Mount points: their content is not the initramfs's.
            Some(None) if matches!(expected, Member::Directory { .. }) => {}
            Some(Some(actual)) if actual == *expected => {}
            Some(actual) => return Err(mismatch(path, &format!("expected {expected:?}, found {actual:?}"))),
        }
    }
    // What PID 1 made itself before this stage are mount points and their parents.
    match found.into_iter().find(|(path, member)| member.is_some() && !made_here(path)) {
        Some((path, member)) => Err(mismatch(&path, &format!("not in the manifest: {member:?}"))),
        None => Ok(()),
    }
}

fn made_here(path: &str) -> bool {
    KERNELS_OWN.contains(&path) || matches!(path, "var" | "var/run")
}

fn mismatch(path: &str, what: &str) -> Failure {
    Failure::new(Reason::ManifestMismatch, format!("/{path}: {what}")).about(Sha256::digest(path).into())
}

fn device(path: &Path) -> Result<u64, Failure> {
    fs::symlink_metadata(path)
        .map(|meta| meta.dev())
        .map_err(|error| Failure::errno(Reason::ManifestMismatch, path.display(), &error))
}

/// Fills `found` with path to member; `None` stands for a mount point, whose inside is skipped.
fn walk(
    root: &Path,
    at: &Path,
    device: u64,
    found: &mut BTreeMap<String, Option<Member>>,
) -> Result<(), Failure> {
    let failed =
        |path: &Path, error: &io::Error| Failure::errno(Reason::ManifestMismatch, path.display(), error);
    let directory = root.join(at);
    for entry in fs::read_dir(&directory).map_err(|e| failed(&directory, &e))? {
        let entry = entry.map_err(|e| failed(&directory, &e))?;
        let path = at.join(entry.file_name());
        let Some(name) = path.to_str().map(str::to_owned) else {
            return Err(mismatch(&path.to_string_lossy(), "a name that is not UTF-8"));
        };
        let full = root.join(&path);
        let meta = fs::symlink_metadata(&full).map_err(|e| failed(&full, &e))?;
        if meta.dev() != device {
            found.insert(name, None);
            continue;
        }
        let mode = meta.permissions().mode() & 0o7777;
        let member = if meta.is_dir() {
            walk(root, &path, device, found)?;
            Member::Directory { mode }
        } else if meta.is_symlink() {
            let target = fs::read_link(&full).map_err(|e| failed(&full, &e))?;
            Member::Symlink { target: target.to_string_lossy().into_owned() }
        } else if meta.is_file() {
            let (size, sha256) =
                if name == "init" { (0, [0; 32]) } else { digest(&full).map_err(|e| failed(&full, &e))? };
            Member::File { mode, size, sha256 }
        } else if KERNELS_OWN.contains(&name.as_str()) {
            continue;
        } else {
            return Err(mismatch(&name, "neither file, directory nor link"));
        };
        found.insert(name, Some(member));
    }
    Ok(())
}

/// The manifest of an init binary, without reading the program before it.
fn manifest(init: &Path) -> Result<InitramfsManifest, Failure> {
    let failed = |error: &io::Error| Failure::errno(Reason::NoManifest, init.display(), error);
    let refused =
        |error: TrailerError| Failure::new(Reason::NoManifest, format!("{}: {error}", init.display()));
    let mut file = File::open(init).map_err(|e| failed(&e))?;
    let size = file.metadata().map_err(|e| failed(&e))?.len();
    let footer_at = size.checked_sub(FOOTER_LEN as u64).ok_or_else(|| refused(TrailerError::NoMagic))?;
    let mut footer = [0; FOOTER_LEN];
    file.read_exact_at(&mut footer, footer_at).map_err(|e| failed(&e))?;
    let length = InitramfsManifest::length(&footer).map_err(refused)?;
    let start =
        footer_at.checked_sub(length as u64).ok_or_else(|| refused(TrailerError::Length(length as u64)))?;
    let mut json = vec![0; length];
    file.seek(io::SeekFrom::Start(start)).and_then(|_| file.read_exact(&mut json)).map_err(|e| failed(&e))?;
    InitramfsManifest::from_json(&json).map_err(refused)
}

/// Length and SHA-256 of a file. ring's, because it has assembly for processors without the SHA extensions, and this reads the
/// whole initramfs while the machine waits.
fn digest(path: &Path) -> io::Result<(u64, [u8; 32])> {
    let mut hasher = ring::digest::Context::new(&ring::digest::SHA256);
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 64 << 10];
    let mut size = 0_u64;
    loop {
        let chunk = match file.read(&mut buffer)? {
            0 => break,
            length => buffer.get(..length).unwrap_or_default(),
        };
        hasher.update(chunk);
        size = size.saturating_add(chunk.len() as u64);
    }
    let digest = hasher.finish();
    let digest = digest.as_ref().try_into().map_err(io::Error::other)?;
    Ok((size, digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> (tempfile::TempDir, InitramfsManifest) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir(root.join("etc")).unwrap();
        fs::write(root.join("etc/a"), "alpha").unwrap();
        std::os::unix::fs::symlink("a", root.join("etc/b")).unwrap();
        fs::set_permissions(root.join("etc/a"), fs::Permissions::from_mode(0o644)).unwrap();
        fs::set_permissions(root.join("etc"), fs::Permissions::from_mode(0o755)).unwrap();
        let members = [
            ("etc", Member::Directory { mode: 0o755 }),
            ("etc/a", Member::File { mode: 0o644, size: 5, sha256: Sha256::digest("alpha").into() }),
            ("etc/b", Member::Symlink { target: "a".into() }),
        ];
        let manifest =
            InitramfsManifest { members: members.map(|(path, member)| (path.to_owned(), member)).into() };
        write_init(root, &manifest);
        (dir, manifest)
    }

    fn write_init(root: &Path, manifest: &InitramfsManifest) {
        let mut init = b"\x7fELF".to_vec();
        init.extend(manifest.trailer().unwrap());
        fs::write(root.join("init"), init).unwrap();
    }

    fn judge(root: &Path) -> Result<(), Failure> {
        check(root, &root.join("init"))
    }

    #[test]
    fn a_tree_as_listed_passes() {
        let (dir, _) = tree();
        judge(dir.path()).unwrap();
    }

    #[test]
    fn every_difference_is_named() {
        type Change = fn(&Path);
        let changes: [(&str, Change); 6] = [
            ("etc/a", |r| fs::write(r.join("etc/a"), "alphA").unwrap()),
            ("etc/a", |r| fs::set_permissions(r.join("etc/a"), fs::Permissions::from_mode(0o755)).unwrap()),
            ("etc/a", |r| fs::remove_file(r.join("etc/a")).unwrap()),
            ("etc/b", |r| {
                fs::remove_file(r.join("etc/b")).unwrap();
                std::os::unix::fs::symlink("c", r.join("etc/b")).unwrap();
            }),
            ("etc/c", |r| fs::write(r.join("etc/c"), "").unwrap()),
            ("lib", |r| fs::create_dir(r.join("lib")).unwrap()),
        ];
        for (path, change) in changes {
            let (dir, _) = tree();
            change(dir.path());
            let failure = judge(dir.path()).unwrap_err();
            assert_eq!(failure.reason, Reason::ManifestMismatch);
            assert!(failure.text.starts_with(&format!("/{path}: ")), "{failure}");
            assert_eq!(failure.digest, <[u8; 32]>::from(Sha256::digest(path)));
        }
    }

    #[test]
    fn an_init_without_a_trailer_is_off() {
        let (dir, _) = tree();
        fs::write(dir.path().join("init"), "\x7fELF, cut short").unwrap();
        assert_eq!(judge(dir.path()).unwrap_err().reason, Reason::NoManifest);
    }
}
