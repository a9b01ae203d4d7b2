//! Two image directories, byte by byte.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::assemble::MANIFEST;
use crate::cpio::{self, Record};
use crate::error::{ImageError, Result};

const INITRAMFS: &str = "initramfs.cpio.zst";

/// Compares every byte of every file.
///
/// # Errors
/// [`ImageError::Differs`] with the first difference: file, member of the initramfs, offset.
pub fn directories(a: &Path, b: &Path) -> Result<()> {
    let (in_a, in_b) = (names(a)?, names(b)?);
    if let Some(name) = in_a.symmetric_difference(&in_b).next() {
        let side = if in_a.contains(name) { "A" } else { "B" };
        return Err(ImageError::Differs(format!("{name}: only on side {side}")));
    }
    // The initramfs first and the manifest last: the others follow from what differs there.
    let mut order: Vec<&String> = in_a.iter().collect();
    order.sort_by_key(|name| (name.as_str() == MANIFEST, name.as_str() != INITRAMFS, name.as_str()));
    for name in order {
        let read = |side: &Path| fs::read(side.join(name)).map_err(ImageError::at(side.join(name)));
        let (a, b) = (read(a)?, read(b)?);
        if let Some(difference) = first(&a, &b) {
            let deeper = if name == INITRAMFS { initramfs(&a, &b)? } else { None };
            return Err(ImageError::Differs(format!("{name}: {}", deeper.unwrap_or(difference))));
        }
    }
    Ok(())
}

fn names(dir: &Path) -> Result<BTreeSet<String>> {
    fs::read_dir(dir)
        .map_err(ImageError::at(dir))?
        .map(|entry| Ok(entry.map_err(ImageError::at(dir))?.file_name().to_string_lossy().into_owned()))
        .collect()
}

fn first(a: &[u8], b: &[u8]) -> Option<String> {
    if let Some(at) = a.iter().zip(b).position(|(a, b)| a != b) {
        return Some(format!("first difference at offset {at} of {} and {} bytes", a.len(), b.len()));
    }
    (a.len() != b.len())
        .then(|| format!("the same up to the end of the shorter: {} and {} bytes", a.len(), b.len()))
}

/// Which member; `None` if the members are the same and only the compression differs.
fn initramfs(a: &[u8], b: &[u8]) -> Result<Option<String>> {
    let unpack = |bytes: &[u8]| zstd::decode_all(bytes).map_err(ImageError::at(INITRAMFS));
    let (a, b) = (unpack(a)?, unpack(b)?);
    let (in_a, in_b) = (cpio::records(&a)?, cpio::records(&b)?);
    for (left, right) in in_a.iter().zip(&in_b) {
        if left.path != right.path {
            return Ok(Some(format!("member {} on side A, {} on side B", left.path, right.path)));
        }
        let content = |bytes, record: &Record| part(bytes, record.content.clone());
        if let Some(difference) = first(content(&a, left), content(&b, right)) {
            return Ok(Some(format!("member {}: {difference}", left.path)));
        }
        if part(&a, left.extent.clone()) != part(&b, right.extent.clone()) {
            return Ok(Some(format!("member {}: its header (mode, time or inode number)", left.path)));
        }
    }
    Ok((in_a.len() != in_b.len()).then(|| format!("{} and {} members", in_a.len(), in_b.len())))
}

fn part(bytes: &[u8], range: std::ops::Range<usize>) -> &[u8] {
    bytes.get(range).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::MemberPath;
    use crate::tree::{Node, Tree};

    fn image(files: &[(&str, &[u8])], mtime: u32, members: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = Tree::new();
        for (path, content) in members {
            tree.insert(MemberPath::parse(path).unwrap(), Node::plain(*content)).unwrap();
        }
        let mut writer = cpio::Writer::new(mtime);
        writer.tree(&tree).unwrap();
        let initramfs = zstd::encode_all(&writer.finish().unwrap()[..], 3).unwrap();
        fs::write(dir.path().join(INITRAMFS), initramfs).unwrap();
        for (name, content) in files {
            fs::write(dir.path().join(name), content).unwrap();
        }
        dir
    }

    #[test]
    fn the_first_difference_is_named() {
        let base = image(&[("bzImage", b"kernel"), (MANIFEST, b"1")], 7, &[("a", b"alpha"), ("b", b"beta")]);
        let judge =
            |other: &tempfile::TempDir| directories(base.path(), other.path()).map_err(|e| e.to_string());
        assert_eq!(
            judge(&image(&[("bzImage", b"kernel"), (MANIFEST, b"1")], 7, &[("a", b"alpha"), ("b", b"beta")])),
            Ok(())
        );
        for (files, mtime, members, expected) in [
            (
                &[("bzImage", &b"kernel"[..]), (MANIFEST, b"2")][..],
                7,
                &[("a", &b"alpha"[..]), ("b", b"beta")][..],
                "manifest.json: first difference at offset 0 of 1 and 1 bytes",
            ),
            (
                &[("bzImage", b"kernal"), (MANIFEST, b"2")],
                7,
                &[("a", b"alpha"), ("b", b"beta")],
                "bzImage: first difference at offset 4 of 6 and 6 bytes",
            ),
            (
                &[("bzImage", b"kernal"), (MANIFEST, b"2")],
                7,
                &[("a", b"alpha"), ("b", b"betA")],
                "initramfs.cpio.zst: member b: first difference at offset 3 of 4 and 4 bytes",
            ),
            (
                &[("bzImage", b"kernel"), (MANIFEST, b"1")],
                8,
                &[("a", b"alpha"), ("b", b"beta")],
                "initramfs.cpio.zst: member a: its header (mode, time or inode number)",
            ),
            (
                &[("bzImage", b"kernel"), (MANIFEST, b"1")],
                7,
                &[("a", b"alpha")],
                "initramfs.cpio.zst: 2 and 1 members",
            ),
            (&[(MANIFEST, b"1")], 7, &[("a", b"alpha")], "bzImage: only on side A"),
        ] {
            assert_eq!(judge(&image(files, mtime, members)), Err(format!("not reproducible: {expected}")));
        }
    }
}
