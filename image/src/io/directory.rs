//! Trees from and to directories.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::error::{ImageError, Result};
use crate::io::output::Staged;
use crate::path::MemberPath;
use crate::tree::{Node, Tree};
use crate::unpack::{CAPABILITIES, MAX_BYTES, MAX_MEMBERS, check_target};

/// A directory as a tree. Links are kept and not followed: they mean what the service, whose root this is, sees.
///
/// # Errors
/// A device, a pipe, a socket, a set-user-id or set-group-id file, a file with capabilities, a name that is not UTF-8, too much.
pub fn read(root: &Path) -> Result<Tree> {
    let mut tree = Tree::new();
    let mut todo: Vec<(PathBuf, Option<MemberPath>)> = vec![(root.to_owned(), None)];
    let mut bytes = 0_u64;
    let title = root.display().to_string();
    while let Some((directory, at)) = todo.pop() {
        for entry in fs::read_dir(&directory).map_err(ImageError::at(&directory))? {
            let path = entry.map_err(ImageError::at(&directory))?.path();
            let shown = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            let refuse = |why: &str| ImageError::member(&title, shown.as_str(), why);
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .and_then(|name| MemberPath::parse(name).ok())
                .ok_or_else(|| refuse("a name that is not UTF-8"))?;
            let member = at.as_ref().map_or_else(|| name.clone(), |at| at.join(&name));
            let metadata = fs::symlink_metadata(&path).map_err(ImageError::at(&path))?;
            let kind = metadata.file_type();
            let node = if kind.is_dir() {
                todo.push((path, Some(member.clone())));
                Node::Directory
            } else if kind.is_symlink() {
                let target = fs::read_link(&path).map_err(ImageError::at(&path))?;
                let target = target.to_str().ok_or_else(|| refuse("a link target that is not UTF-8"))?;
                check_target(target).map_err(refuse)?;
                Node::Symlink { target: target.to_owned() }
            } else if kind.is_file() {
                let mode = metadata.permissions().mode();
                if mode & 0o6000 != 0 {
                    return Err(refuse("a set-user-id or set-group-id file"));
                }
                if has_capabilities(&path).map_err(ImageError::at(&path))? {
                    return Err(refuse(CAPABILITIES));
                }
                bytes = bytes.saturating_add(metadata.len());
                if bytes > MAX_BYTES {
                    return Err(ImageError::TooLarge { what: title, limit: MAX_BYTES, unit: "bytes" });
                }
                let content = fs::read(&path).map_err(ImageError::at(&path))?;
                Node::File { executable: mode & 0o111 != 0, content: content.into() }
            } else {
                return Err(refuse("neither file, directory nor link"));
            };
            tree.insert(member, node).map_err(|why| refuse(&why.to_string()))?;
            if tree.len() as u64 > MAX_MEMBERS {
                return Err(ImageError::TooLarge { what: title, limit: MAX_MEMBERS, unit: "members" });
            }
        }
    }
    Ok(tree)
}

/// Whether executing it would give rights (capabilities(7)). A file system that knows no such attributes has no such files.
fn has_capabilities(path: &Path) -> std::io::Result<bool> {
    let mut nothing: [u8; 0] = [];
    match rustix::fs::lgetxattr(path, "security.capability", &mut nothing) {
        Ok(_) => Ok(true),
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::NOTSUP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Writes a tree below a new folder, from the last name to the first if `reversed`.
///
/// # Errors
/// If it cannot be written.
pub(crate) fn write(tree: &Tree, root: &Path, reversed: bool) -> Result<()> {
    let mut nodes: Vec<_> = tree.iter().collect();
    if reversed {
        nodes.reverse();
    }
    fs::create_dir_all(root).map_err(ImageError::at(root))?;
    for (path, node) in nodes {
        let path = root.join(path.as_str());
        let made = match (node, path.parent()) {
            (Node::Directory, _) => fs::create_dir_all(&path),
            (Node::File { executable, content }, Some(parent)) => {
                fs::create_dir_all(parent).and_then(|()| fs::write(&path, content)).and_then(|()| {
                    let mode = if *executable { 0o755 } else { 0o644 };
                    fs::set_permissions(&path, fs::Permissions::from_mode(mode))
                })
            }
            (Node::Symlink { target }, Some(parent)) => {
                fs::create_dir_all(parent).and_then(|()| symlink(target, &path))
            }
            (_, None) => Ok(()),
        };
        made.map_err(ImageError::at(&path))?;
    }
    Ok(())
}

/// Writes a tree to `out` whole. An existing `out` is replaced only if it is empty or has `marker` in it.
///
/// # Errors
/// If it is something else, or cannot be written.
pub fn replace(tree: &Tree, out: &Path, marker: &'static str) -> Result<()> {
    let staged = Staged::beside(out, marker)?;
    write(tree, staged.path(), false)?;
    staged.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_read_without_what_depends_on_the_machine() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/run"), "elf").unwrap();
        fs::set_permissions(root.join("a/run"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(root.join("a/conf"), "x").unwrap();
        fs::set_permissions(root.join("a/conf"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::set_permissions(root.join("a/b"), fs::Permissions::from_mode(0o1777)).unwrap();
        symlink("/etc/passwd", root.join("link")).unwrap();
        let tree = read(root).unwrap();
        let path = |text| MemberPath::parse(text).unwrap();
        assert_eq!(tree.get(&path("a/run")), Some(&Node::executable(*b"elf")));
        assert_eq!(tree.get(&path("a/conf")), Some(&Node::plain(*b"x")));
        assert_eq!(tree.get(&path("a/b")), Some(&Node::Directory));
        assert_eq!(tree.get(&path("link")), Some(&Node::Symlink { target: "/etc/passwd".into() }));
        assert_eq!(tree.len(), 5);
    }

    #[test]
    fn what_an_image_must_not_carry_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("su"), "elf").unwrap();
        fs::set_permissions(dir.path().join("su"), fs::Permissions::from_mode(0o4755)).unwrap();
        let error = read(dir.path()).unwrap_err().to_string();
        assert!(error.ends_with("su: refused: a set-user-id or set-group-id file"), "{error}");
        fs::remove_file(dir.path().join("su")).unwrap();
        fs::write(dir.path().join("sg"), "elf").unwrap();
        fs::set_permissions(dir.path().join("sg"), fs::Permissions::from_mode(0o2755)).unwrap();
        let error = read(dir.path()).unwrap_err().to_string();
        assert!(error.ends_with("sg: refused: a set-user-id or set-group-id file"), "{error}");
        fs::remove_file(dir.path().join("sg")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        let error = read(dir.path()).unwrap_err().to_string();
        assert!(error.ends_with("socket: refused: neither file, directory nor link"), "{error}");
    }

    #[test]
    fn a_file_with_capabilities_is_refused() {
        /// `struct vfs_cap_data`, revision 2 (include/uapi/linux/capability.h): CAP_NET_RAW, effective.
        const NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ping");
        fs::write(&file, "elf").unwrap();
        read(dir.path()).unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        if let Err(error) = rustix::fs::setxattr(&file, "security.capability", &NET_RAW, flags) {
            eprintln!("SKIPPED: a file cannot be given capabilities here: {error}");
            return;
        }
        let error = read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("ping: refused: a file with capabilities"), "{error}");
    }
}
