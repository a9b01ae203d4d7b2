//! The initramfs: one compressed cpio archive, everything but `/init` listed in the manifest that `/init` carries.

use std::io::Read as _;

use casemate_measure::manifest::{
    DOCUMENT_PATH, InitramfsManifest, MODULES_DIR, MODULES_ORDER_PATH, Member, OS_RELEASE_PATH, SERVICES_DIR,
};
use sha2::{Digest as _, Sha256};
use zstd::zstd_safe::CParameter;

use crate::cpio::{self, Writer};
use crate::error::{ImageError, Result};
use crate::modules::{Loaded, load_order};
use crate::path::MemberPath;
use crate::tree::{Node, Tree};
use crate::workload::Workload;

/// Where PID 1 mounts or writes; the document and the modules make their own directories.
const DIRECTORIES: &[&str] = &["dev", "etc", "proc", "run", "sys", "tmp", "var", SERVICES_DIR];
/// Small enough in time, and beyond it little is won.
const LEVEL: i32 = 19;
/// 8 MiB, what level 19 would choose by itself; the kernel takes up to 128 MiB (`lib/decompress_unzstd.c`).
const WINDOW_LOG: u32 = 23;

/// What goes into it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contents<'a> {
    /// The init ELF, without a manifest.
    pub(crate) init: &'a [u8],
    /// What the image says of itself.
    pub(crate) os_release: &'a str,
    /// In load order.
    pub(crate) modules: &'a [Loaded],
    /// The measured document, if it is baked in.
    pub(crate) document: Option<&'a [u8]>,
    /// The roots of the services.
    pub(crate) workloads: &'a [Workload],
    /// Modification time of every member, seconds since 1970.
    pub(crate) epoch: u32,
}

impl Contents<'_> {
    /// The archive as the kernel loads it.
    pub(crate) fn build(&self) -> Result<Vec<u8>> {
        let archive = self.archive()?;
        let compressed = compress(&archive)?;
        check_cut(&archive, &compressed)?;
        Ok(compressed)
    }

    /// The archive uncompressed: members by path, then `/init` with its trailer.
    fn archive(&self) -> Result<Vec<u8>> {
        let tree = self.tree()?;
        let mut init = self.init.to_vec();
        init.extend(manifest(&tree).trailer()?);
        let mut writer = Writer::new(self.epoch);
        writer.tree(&tree)?;
        writer.member("init", &Node::executable(init))?;
        writer.finish()
    }

    fn tree(&self) -> Result<Tree> {
        let mut tree = Tree::new();
        for directory in DIRECTORIES {
            add(&mut tree, directory, Node::Directory)?;
        }
        add(&mut tree, OS_RELEASE_PATH, Node::plain(self.os_release.as_bytes()))?;
        add(&mut tree, MODULES_ORDER_PATH, Node::plain(load_order(self.modules).into_bytes()))?;
        for module in self.modules {
            let content = std::sync::Arc::clone(&module.content);
            add(&mut tree, &format!("{MODULES_DIR}/{}", module.file), Node::plain(content))?;
        }
        if let Some(document) = self.document {
            add(&mut tree, DOCUMENT_PATH, Node::plain(document))?;
        }
        for workload in self.workloads {
            let at = path(&format!("{SERVICES_DIR}/{}", workload.name))?;
            tree.graft(&at, &workload.tree)
                .map_err(|(path, why)| ImageError::member("initramfs", path.as_str(), why.to_string()))?;
        }
        Ok(tree)
    }
}

fn path(text: &str) -> Result<MemberPath> {
    MemberPath::parse(text).map_err(|why| ImageError::member("initramfs", text, why.to_string()))
}

fn add(tree: &mut Tree, at: &str, node: Node) -> Result<()> {
    tree.insert(path(at)?, node).map_err(|why| ImageError::member("initramfs", at, why.to_string()))
}

/// Every node as PID 1 will find it.
fn manifest(tree: &Tree) -> InitramfsManifest {
    let member = |path: &str, node: &Node| {
        let mode = cpio::mode(path, node) & 0o7777;
        match node {
            Node::Directory => Member::Directory { mode },
            Node::File { content, .. } => {
                Member::File { mode, size: content.len() as u64, sha256: Sha256::digest(content).into() }
            }
            Node::Symlink { target } => Member::Symlink { target: target.clone() },
        }
    };
    InitramfsManifest {
        members: tree.iter().map(|(path, node)| (path.to_string(), member(path.as_str(), node))).collect(),
    }
}

/// One frame, one thread: the output depends on nothing but the input and the pinned encoder. Without a checksum: the kernel
/// unpacks before it compares, then only complains and runs `/init` all the same, so an archive without the checksum's last
/// byte would boot. The manifest is what protects the members.
fn compress(archive: &[u8]) -> Result<Vec<u8>> {
    let failed = |error: std::io::Error| {
        ImageError::form("initramfs", "zstd", "a compressed frame", error.to_string())
    };
    let mut compressor = zstd::bulk::Compressor::new(LEVEL).map_err(failed)?;
    compressor.set_parameter(CParameter::WindowLog(WINDOW_LOG)).map_err(failed)?;
    compressor.set_parameter(CParameter::ChecksumFlag(false)).map_err(failed)?;
    compressor.set_parameter(CParameter::ContentSizeFlag(true)).map_err(failed)?;
    compressor.compress(archive).map_err(failed)
}

/// What is left of the archive when the last byte is missing must end inside `/init`, which the kernel then has not finished
/// and does not run (it is still open for writing). A cut anywhere before leaves less.
fn check_cut(archive: &[u8], compressed: &[u8]) -> Result<()> {
    let (_, cut) = compressed.split_last().unwrap_or((&0, &[]));
    let mut left = Vec::new();
    // It ends with an error, which is the point: what came before it is what the kernel has.
    let ended = zstd::stream::read::Decoder::new(cut).and_then(|mut decoder| decoder.read_to_end(&mut left));
    let init = cpio::records(archive)?.pop().map_or(0, |record| record.content.end);
    if ended.is_err() && left.len() < init {
        return Ok(());
    }
    Err(ImageError::form(
        "initramfs",
        "zstd",
        "a last block that holds the end of /init",
        format!("{} of {init} bytes without it", left.len()),
    ))
}

#[cfg(test)]
mod tests {
    use casemate_measure::manifest::{ModuleGroup, STUB_DIR};
    use casemate_measure::section::DnsLabel;

    use super::*;

    fn contents() -> (Vec<Loaded>, Vec<Workload>) {
        let module =
            Loaded { group: ModuleGroup::Lock, file: "nf_tables.ko.xz".into(), content: (*b"ko").into() };
        let mut tree = Tree::new();
        tree.insert(path("bin/sh").unwrap(), Node::executable(*b"\x7fELF")).unwrap();
        tree.insert(path("bin/ash").unwrap(), Node::Symlink { target: "sh".into() }).unwrap();
        let name = DnsLabel::new("web").unwrap();
        (vec![module], vec![Workload { name, tree, sha256: [0; 32], package: None }])
    }

    #[test]
    fn init_is_last_and_lists_everything_else() {
        let (modules, workloads) = contents();
        let contents = Contents {
            init: b"\x7fELF init",
            os_release: "ID=casemate\n",
            modules: &modules,
            document: Some(b"{}"),
            workloads: &workloads,
            epoch: 1_700_000_000,
        };
        let compressed = contents.build().unwrap();
        assert_eq!(compressed, contents.build().unwrap());
        let archive = zstd::decode_all(&compressed[..]).unwrap();
        let records = cpio::records(&archive).unwrap();
        let (init, others) = records.split_last().unwrap();
        assert_eq!(init.path, "init");
        let init = &archive[init.content.clone()];
        assert!(init.starts_with(b"\x7fELF init{"));
        let manifest = InitramfsManifest::from_init(init).unwrap();
        let listed: Vec<&str> = manifest.members.keys().map(String::as_str).collect();
        let found: Vec<&str> = others.iter().map(|record| record.path.as_str()).collect();
        assert_eq!(listed, found);
        for record in others {
            let content = &archive[record.content.clone()];
            match &manifest.members[&record.path] {
                Member::Directory { mode } => {
                    let expected = if record.path == STUB_DIR { 0o555 } else { 0o755 };
                    assert_eq!((*mode, record.mode), (expected, 0o040_000 | expected));
                }
                Member::File { mode, size, sha256 } => {
                    assert_eq!(record.mode, 0o100_000 | mode);
                    assert_eq!(*size, content.len() as u64);
                    assert_eq!(*sha256, <[u8; 32]>::from(Sha256::digest(content)));
                }
                Member::Symlink { target } => assert_eq!(target.as_bytes(), content),
            }
        }
        assert_eq!(
            found,
            [
                ".extra",
                ".extra/os-release",
                "dev",
                "etc",
                "etc/casemate",
                "etc/casemate/app-compose.json",
                "lib",
                "lib/modules",
                "lib/modules/load-order",
                "lib/modules/nf_tables.ko.xz",
                "proc",
                "run",
                "services",
                "services/web",
                "services/web/bin",
                "services/web/bin/ash",
                "services/web/bin/sh",
                "sys",
                "tmp",
                "var"
            ]
        );
    }

    #[test]
    fn the_frame_has_a_window_that_the_kernel_takes() {
        let noise: Vec<u8> =
            (0..20_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let frame = compress(&noise).unwrap();
        // RFC 8878 3.1.1.1.1: bit 5 of the frame header descriptor is the single segment flag.
        let descriptor = frame[4];
        if descriptor & 0b0010_0000 == 0 {
            let (exponent, mantissa) = (frame[5] >> 3, u64::from(frame[5] & 7));
            let base = 1_u64 << (10 + exponent);
            assert!(base + base / 8 * mantissa <= 8 << 20);
        }
    }

    #[test]
    fn every_cut_costs_the_end_of_init() {
        let (modules, workloads) = contents();
        let noise: Vec<u8> = (0..300_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let contents = Contents {
            init: &noise,
            os_release: "ID=casemate\n",
            modules: &modules,
            document: None,
            workloads: &workloads,
            epoch: 1_700_000_000,
        };
        let archive = contents.archive().unwrap();
        let compressed = contents.build().unwrap();
        let init = cpio::records(&archive).unwrap().pop().unwrap().content;
        for length in (0..compressed.len()).rev().take(300) {
            let mut left = Vec::new();
            let cut = &compressed[..length];
            zstd::stream::read::Decoder::new(cut).unwrap().read_to_end(&mut left).unwrap_err();
            assert!(left.len() < init.end, "{length} of {}", compressed.len());
        }
        // With a checksum, its last byte costs nothing.
        let mut compressor = zstd::bulk::Compressor::new(LEVEL).unwrap();
        compressor.set_parameter(CParameter::ChecksumFlag(true)).unwrap();
        let error = check_cut(&archive, &compressor.compress(&archive).unwrap()).unwrap_err();
        assert!(error.to_string().contains("the end of /init"), "{error}");
    }
}
