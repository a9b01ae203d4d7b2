//! Decompression and tar reading, bounded: what a package, a layer or an image archive may make us hold.

use std::collections::BTreeMap;
use std::io::{self, Read};

use tar::EntryType;

use crate::error::{ImageError, Result};
use crate::path::MemberPath;
use crate::tree::{Node, Tree};

/// The most bytes that one archive may unpack to: 1 GiB. An initramfs of more could not be booted sensibly either.
pub const MAX_BYTES: u64 = 1 << 30;
/// The most members of one archive.
pub const MAX_MEMBERS: u64 = 200_000;
/// The most memory that xz may ask for: 128 MiB (`xz -9` needs 65).
const XZ_MEMORY: u64 = 128 << 20;

/// Why a file with capabilities is refused.
pub(crate) const CAPABILITIES: &str =
    "a file with capabilities: nothing in an image gains rights by being executed";

/// The first bytes of what we can decompress (RFC 1952; xz file format 2.1.1.1; RFC 8878 3.1.1).
const GZIP: &[u8] = &[0x1f, 0x8b];
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// A member of a tar archive, of a kind that images may carry.
#[derive(Clone, Debug)]
pub(crate) enum Member {
    /// A directory, file or symbolic link.
    Node(Node),
    /// Another name for a file of the same archive.
    HardLink(MemberPath),
}

/// Undoes gzip, xz or zstd, told by the first bytes; anything else is given back as it is. `name` is for errors.
///
/// # Errors
/// If it is broken or larger than [`MAX_BYTES`].
pub(crate) fn decompress(name: &str, bytes: &[u8]) -> Result<Vec<u8>> {
    let broken =
        |error: io::Error| ImageError::form(name, "compressed data", "an intact stream", error.to_string());
    let reader: Box<dyn Read + '_> = if bytes.starts_with(GZIP) {
        Box::new(flate2::read::MultiGzDecoder::new(bytes))
    } else if bytes.starts_with(XZ) {
        let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, 0)
            .map_err(|error| broken(error.into()))?;
        Box::new(liblzma::read::XzDecoder::new_stream(bytes, stream))
    } else if bytes.starts_with(ZSTD) {
        Box::new(zstd::stream::read::Decoder::new(bytes).map_err(broken)?)
    } else {
        Box::new(bytes)
    };
    let mut unpacked = Vec::new();
    reader.take(MAX_BYTES + 1).read_to_end(&mut unpacked).map_err(broken)?;
    if unpacked.len() as u64 > MAX_BYTES {
        return Err(ImageError::TooLarge { what: name.to_owned(), limit: MAX_BYTES, unit: "bytes" });
    }
    Ok(unpacked)
}

/// The members of a tar archive in its order, except those for which `wanted` says no.
///
/// # Errors
/// A broken archive, too many members, or a member that an image must not carry: a path that leaves the root, a device,
/// a pipe, a set-user-id or set-group-id file, a file with capabilities.
pub(crate) fn members(
    name: &str,
    archive: &[u8],
    wanted: impl Fn(&MemberPath) -> bool,
) -> Result<Vec<(MemberPath, Member)>> {
    let broken =
        |error: io::Error| ImageError::form(name, "tar archive", "intact members", error.to_string());
    let mut found = Vec::new();
    let mut count = 0_u64;
    for entry in tar::Archive::new(archive).entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        count += 1;
        if count > MAX_MEMBERS {
            return Err(ImageError::TooLarge { what: name.to_owned(), limit: MAX_MEMBERS, unit: "members" });
        }
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            continue;
        }
        let Some(path) = member_path(name, &entry.path_bytes(), kind)? else { continue };
        if !wanted(&path) {
            continue;
        }
        let refuse = |why: &str| ImageError::member(name, path.as_str(), why);
        let capabilities = entry.pax_extensions().map_err(broken)?.is_some_and(|extensions| {
            extensions.flatten().any(|e| e.key_bytes() == b"SCHILY.xattr.security.capability")
        });
        if capabilities {
            return Err(refuse(CAPABILITIES));
        }
        let mode = entry.header().mode().map_err(broken)?;
        let member = match kind {
            EntryType::Directory => Member::Node(Node::Directory),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                if mode & 0o6000 != 0 {
                    return Err(refuse("a set-user-id or set-group-id file"));
                }
                let mut content = Vec::new();
                entry.read_to_end(&mut content).map_err(broken)?;
                Member::Node(Node::File { executable: mode & 0o111 != 0, content: content.into() })
            }
            EntryType::Symlink | EntryType::Link => {
                let target = entry.link_name_bytes().ok_or_else(|| refuse("a link without a target"))?;
                let target =
                    std::str::from_utf8(&target).map_err(|_| refuse("a link target that is not UTF-8"))?;
                if kind == EntryType::Symlink {
                    check_target(target).map_err(&refuse)?;
                    Member::Node(Node::Symlink { target: target.to_owned() })
                } else {
                    let target = MemberPath::parse(target)
                        .map_err(|why| refuse(&format!("a hard link to {target:?}: {why}")))?;
                    Member::HardLink(target)
                }
            }
            EntryType::Char | EntryType::Block => return Err(refuse("a device node")),
            EntryType::Fifo => return Err(refuse("a named pipe")),
            other => return Err(refuse(&format!("a member of tar type {:?}", other.as_byte()))),
        };
        found.push((path, member));
    }
    Ok(found)
}

/// Why a symbolic link's target cannot be kept.
pub(crate) fn check_target(target: &str) -> std::result::Result<(), &'static str> {
    if target.is_empty() || target.len() > 4095 || target.contains('\0') {
        return Err("a link target that is empty, longer than 4095 bytes or has a NUL byte");
    }
    Ok(())
}

/// `None` for the root directory itself.
fn member_path(name: &str, bytes: &[u8], kind: EntryType) -> Result<Option<MemberPath>> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| ImageError::member(name, String::from_utf8_lossy(bytes), "a name that is not UTF-8"))?;
    if kind == EntryType::Directory && matches!(text, "." | "./") {
        return Ok(None);
    }
    MemberPath::parse(text).map(Some).map_err(|why| ImageError::member(name, text, why.to_string()))
}

/// A tar archive as a tree. Every name may appear once, directories excepted.
///
/// # Errors
/// As [`members`], and if members contradict each other.
pub(crate) fn tree(name: &str, archive: &[u8], wanted: impl Fn(&MemberPath) -> bool) -> Result<Tree> {
    let mut tree = Tree::new();
    let mut files = BTreeMap::new();
    for (path, member) in members(name, archive, wanted)? {
        let node = match member {
            Member::Node(node) => node,
            Member::HardLink(target) => files.get(&target).cloned().ok_or_else(|| {
                ImageError::member(
                    name,
                    path.as_str(),
                    format!("a hard link to {target}, which is no file before it"),
                )
            })?,
        };
        if matches!(node, Node::File { .. }) {
            files.insert(path.clone(), node.clone());
        }
        tree.insert(path.clone(), node)
            .map_err(|why| ImageError::member(name, path.as_str(), why.to_string()))?;
    }
    Ok(tree)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A tar archive of (path, type, mode, content or link target), without the tar crate's own checks of paths.
    pub(crate) fn archive<T: AsRef<[u8]>>(entries: &[(&str, EntryType, u32, T)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, mode, content) in entries {
            let content = content.as_ref();
            let mut header = tar::Header::new_ustar();
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(*mode);
            header.set_uid(1234);
            header.set_gid(1234);
            header.set_mtime(99);
            let is_link = matches!(kind, EntryType::Symlink | EntryType::Link);
            if is_link {
                header.as_old_mut().linkname[..content.len()].copy_from_slice(content);
            }
            let content = if is_link { &[] } else { content };
            header.set_size(content.len() as u64);
            header.set_cksum();
            builder.append(&header, content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn path(text: &str) -> MemberPath {
        MemberPath::parse(text).unwrap()
    }

    #[test]
    fn what_an_image_may_carry_is_read() {
        let bytes = archive(&[
            ("./", EntryType::Directory, 0o777, ""),
            ("./bin/tool", EntryType::Regular, 0o700, "elf"),
            ("./bin/same", EntryType::Link, 0o700, "./bin/tool"),
            ("./bin/sh", EntryType::Symlink, 0o777, "../../bin/tool"),
        ]);
        for packed in [bytes.clone(), gzip(&bytes), xz(&bytes), zstd::encode_all(&bytes[..], 3).unwrap()] {
            let tree = tree("a.tar", &decompress("a.tar", &packed).unwrap(), |_| true).unwrap();
            assert_eq!(tree.get(&path("bin/same")), Some(&Node::executable(*b"elf")));
            assert_eq!(tree.get(&path("bin/sh")), Some(&Node::Symlink { target: "../../bin/tool".into() }));
            assert_eq!(tree.len(), 4);
        }
    }

    pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut reader = flate2::read::GzEncoder::new(bytes, flate2::Compression::fast());
        let mut packed = Vec::new();
        reader.read_to_end(&mut packed).unwrap();
        packed
    }

    pub(crate) fn xz(bytes: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        liblzma::read::XzEncoder::new(bytes, 1).read_to_end(&mut packed).unwrap();
        packed
    }

    #[test]
    fn what_it_may_not_carry_is_refused_by_name() {
        for (entry, why) in [
            (("../evil", EntryType::Regular, 0o644, ""), "a path with `..`"),
            (("/etc/passwd", EntryType::Regular, 0o644, ""), "an absolute path"),
            (("dev/sda", EntryType::Block, 0o600, ""), "a device node"),
            (("dev/null", EntryType::Char, 0o666, ""), "a device node"),
            (("pipe", EntryType::Fifo, 0o600, ""), "a named pipe"),
            (("bin/su", EntryType::Regular, 0o4755, ""), "a set-user-id or set-group-id file"),
            (("bin/wall", EntryType::Regular, 0o2755, ""), "a set-user-id or set-group-id file"),
            (
                ("hard", EntryType::Link, 0o644, "../../etc/shadow"),
                "a hard link to \"../../etc/shadow\": a path with `..`",
            ),
            (("hard", EntryType::Link, 0o644, "later"), "a hard link to later, which is no file before it"),
            (("soft", EntryType::Symlink, 0o777, ""), "a link without a target"),
        ] {
            let error = tree("layer.tar", &archive(&[entry]), |_| true).unwrap_err();
            assert_eq!(error.to_string(), format!("layer.tar: {}: refused: {why}", entry.0));
        }
    }

    #[test]
    fn a_file_below_a_link_is_refused() {
        let bytes = archive(&[
            ("out", EntryType::Symlink, 0o777, "/etc"),
            ("out/passwd", EntryType::Regular, 0o644, "root"),
        ]);
        let error = tree("p.deb", &bytes, |_| true).unwrap_err();
        assert_eq!(error.to_string(), "p.deb: out/passwd: refused: out is not a directory");
    }

    #[test]
    fn broken_streams_are_errors() {
        let mut packed = xz(&[7; 100_000]);
        packed.truncate(packed.len() - 9);
        assert!(
            decompress("cut.xz", &packed).unwrap_err().to_string().starts_with("cut.xz: compressed data: ")
        );
        let mut packed = zstd::encode_all(&[7_u8; 100_000][..], 3).unwrap();
        packed.truncate(packed.len() - 2);
        assert!(decompress("cut.zst", &packed).is_err());
        let mut packed = gzip(&[7; 100_000]);
        packed.truncate(packed.len() - 2);
        assert!(decompress("cut.gz", &packed).is_err());
    }
}
