//! The `newc` cpio format of an initramfs (`Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::ops::Range;

use casemate_measure::manifest::{OS_RELEASE_PATH, STUB_DIR};

use crate::error::{ImageError, Result};
use crate::tree::{Node, Tree};

const MAGIC: &[u8] = b"070701";
/// Magic and thirteen fields of eight hex digits.
const HEADER_LEN: usize = 6 + 13 * 8;
const TRAILER: &str = "TRAILER!!!";

/// `S_IFDIR`, `S_IFREG`, `S_IFLNK` (`include/uapi/linux/stat.h`) with the only permissions that images have.
pub(crate) const DIRECTORY_MODE: u32 = 0o040_000 | 0o755;
const EXECUTABLE_MODE: u32 = 0o100_000 | 0o755;
const FILE_MODE: u32 = 0o100_000 | 0o644;
const SYMLINK_MODE: u32 = 0o120_000 | 0o777;

/// Mode of the node at a path, with its type bits. What systemd-stub would make has the modes that it gives.
pub(crate) fn mode(path: &str, node: &Node) -> u32 {
    match node {
        Node::Directory if path == STUB_DIR => 0o040_000 | 0o555,
        Node::File { .. } if path == OS_RELEASE_PATH => 0o100_000 | 0o444,
        Node::Directory => DIRECTORY_MODE,
        Node::File { executable: true, .. } => EXECUTABLE_MODE,
        Node::File { executable: false, .. } => FILE_MODE,
        Node::Symlink { .. } => SYMLINK_MODE,
    }
}

/// Writes an archive: members in the order they are given, owner and group 0, every time the same, inode numbers counted
/// from 1. What depends on the machine that builds has no way in.
#[derive(Debug)]
pub struct Writer {
    bytes: Vec<u8>,
    mtime: u32,
    inode: u32,
}

impl Writer {
    /// An archive whose members all have this modification time (seconds since 1970).
    pub const fn new(mtime: u32) -> Self {
        Self { bytes: Vec::new(), mtime, inode: 0 }
    }

    /// Every node of a tree, sorted by path.
    ///
    /// # Errors
    /// If a file is longer than the format's 32 bits can say.
    pub fn tree(&mut self, tree: &Tree) -> Result<()> {
        tree.iter().try_for_each(|(path, node)| self.member(path.as_str(), node))
    }

    /// One member.
    ///
    /// # Errors
    /// If it is longer than the format's 32 bits can say.
    pub fn member(&mut self, path: &str, node: &Node) -> Result<()> {
        self.inode = self.inode.wrapping_add(1);
        let (links, content) = match node {
            Node::Directory => (2, &[][..]),
            Node::File { content, .. } => (1, content.as_ref()),
            Node::Symlink { target } => (1, target.as_bytes()),
        };
        self.record(path, self.inode, mode(path, node), links, self.mtime, content)
    }

    /// The whole archive with its end.
    ///
    /// # Errors
    /// None in practice.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.record(TRAILER, 0, 0, 1, 0, &[])?;
        Ok(self.bytes)
    }

    fn record(
        &mut self,
        path: &str,
        inode: u32,
        mode: u32,
        links: u32,
        mtime: u32,
        content: &[u8],
    ) -> Result<()> {
        let too_large =
            |_| ImageError::TooLarge { what: path.to_owned(), limit: u64::from(u32::MAX), unit: "bytes" };
        let size = u32::try_from(content.len()).map_err(too_large)?;
        let name_len = u32::try_from(path.len()).map_err(too_large)?.saturating_add(1);
        // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        let fields = [inode, mode, 0, 0, links, mtime, size, 0, 0, 0, 0, name_len, 0];
        self.bytes.extend_from_slice(MAGIC);
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// A tree alone as an archive of time 0: the canonical form whose digest names a directory.
///
/// # Errors
/// As [`Writer::tree`].
pub fn canonical(tree: &Tree) -> Result<Vec<u8>> {
    let mut writer = Writer::new(0);
    writer.tree(tree)?;
    writer.finish()
}

/// A member as it lies in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its path.
    pub path: String,
    /// Mode with type bits.
    pub mode: u32,
    /// From the start of its header to the end of its padding.
    pub extent: Range<usize>,
    /// Its content.
    pub content: Range<usize>,
}

/// Lists an archive that [`Writer`] made (or the kernel would take).
///
/// # Errors
/// Where it stops being one.
pub fn records(archive: &[u8]) -> Result<Vec<Record>> {
    let broken = |at: usize, what: &str| {
        ImageError::form("cpio archive", format!("offset {at}"), what, "something else")
    };
    let mut found = Vec::new();
    let mut at = 0_usize;
    loop {
        let header = at
            .checked_add(HEADER_LEN)
            .and_then(|end| archive.get(at..end))
            .filter(|header| header.starts_with(MAGIC))
            .ok_or_else(|| broken(at, "a newc header"))?;
        let field = |index: usize| {
            let start = MAGIC.len() + index * 8;
            let digits = header.get(start..start + 8).and_then(|d| std::str::from_utf8(d).ok());
            digits
                .and_then(|d| u32::from_str_radix(d, 16).ok())
                .and_then(|value| usize::try_from(value).ok())
                .ok_or_else(|| broken(at + start, "eight hex digits"))
        };
        let (mode, size, name_len) = (field(1)?, field(6)?, field(11)?);
        let name_start = at + HEADER_LEN;
        let name_end = name_start.saturating_add(name_len);
        let name = archive
            .get(name_start..name_end)
            .and_then(|name| name.strip_suffix(&[0]))
            .and_then(|name| std::str::from_utf8(name).ok())
            .ok_or_else(|| broken(name_start, "a name"))?;
        if name == TRAILER {
            return Ok(found);
        }
        let start = name_end.next_multiple_of(4);
        let end = start.saturating_add(size);
        if archive.get(start..end).is_none() {
            return Err(broken(start, "the content of the member"));
        }
        let next = end.next_multiple_of(4);
        let mode = u32::try_from(mode).map_err(|_| broken(at, "a mode"))?;
        found.push(Record { path: name.to_owned(), mode, extent: at..next, content: start..end });
        at = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::MemberPath;

    fn tree(order: &[usize]) -> Tree {
        let nodes = [
            ("etc/conf", Node::plain(*b"hello")),
            ("bin/run", Node::executable(*b"\x7fELF")),
            ("bin/sh", Node::Symlink { target: "run".into() }),
            ("dev", Node::Directory),
        ];
        let mut tree = Tree::new();
        for index in order {
            let (path, node) = nodes[*index].clone();
            tree.insert(MemberPath::parse(path).unwrap(), node).unwrap();
        }
        tree
    }

    #[test]
    fn the_order_of_arrival_does_not_matter() {
        let bytes = canonical(&tree(&[0, 1, 2, 3])).unwrap();
        assert_eq!(bytes, canonical(&tree(&[3, 2, 1, 0])).unwrap());
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn what_is_written_is_read() {
        let mut writer = Writer::new(1_700_000_000);
        writer.tree(&tree(&[0, 1, 2, 3])).unwrap();
        writer.member("init", &Node::executable(*b"\x7fELFinit")).unwrap();
        let bytes = writer.finish().unwrap();
        let records = records(&bytes).unwrap();
        let listed: Vec<(&str, u32, &[u8])> =
            records.iter().map(|r| (r.path.as_str(), r.mode, &bytes[r.content.clone()])).collect();
        assert_eq!(
            listed,
            [
                ("bin", 0o040_755, &b""[..]),
                ("bin/run", 0o100_755, b"\x7fELF"),
                ("bin/sh", 0o120_777, b"run"),
                ("dev", 0o040_755, b""),
                ("etc", 0o040_755, b""),
                ("etc/conf", 0o100_644, b"hello"),
                ("init", 0o100_755, b"\x7fELFinit"),
            ]
        );
        // Field 5 is the time, fields 2 and 3 owner and group.
        assert_eq!(&bytes[6 + 16..6 + 32], b"0000000000000000");
        assert_eq!(&bytes[6 + 40..6 + 48], b"6553f100");
    }

    #[test]
    fn a_cut_archive_is_noticed() {
        let bytes = canonical(&tree(&[0, 1, 2, 3])).unwrap();
        for length in 0..bytes.len() - 8 {
            assert!(records(&bytes[..length]).is_err(), "{length}");
        }
    }
}
