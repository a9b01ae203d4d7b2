//! An initramfs taken apart and put together again by hand: what the builder would refuse to make.

use casemate_image::cpio::{self, Writer};
use casemate_image::tree::Node;
use casemate_measure::manifest::{InitramfsManifest, Member};
use sha2::{Digest as _, Sha256};

use crate::images::{self, Image};

/// Fast; what it costs in size does not matter here.
const LEVEL: i32 = 3;

/// Members in the order of the archive; `init` is the last.
pub(crate) struct Initramfs(Vec<(String, Node)>);

impl Initramfs {
    pub(crate) fn of(image: &Image) -> Self {
        let archive = zstd::decode_all(&image.initramfs()[..]).unwrap();
        let node = |record: &cpio::Record| {
            let content = &archive[record.content.clone()];
            match record.mode >> 12 {
                0o04 => Node::Directory,
                0o12 => Node::Symlink { target: String::from_utf8(content.to_vec()).unwrap() },
                _ if record.mode & 0o111 != 0 => Node::executable(content),
                _ => Node::plain(content),
            }
        };
        let records = cpio::records(&archive).unwrap();
        assert_eq!(records.last().unwrap().path, "init");
        Self(records.iter().map(|record| (record.path.clone(), node(record))).collect())
    }

    pub(crate) fn content(&self, path: &str) -> Vec<u8> {
        match &self.0.iter().find(|(member, _)| member == path).unwrap().1 {
            Node::File { content, .. } => content.to_vec(),
            other => panic!("{path}: {}", other.kind()),
        }
    }

    /// Changes what a file holds; the manifest in `/init` is not told.
    pub(crate) fn replace(&mut self, path: &str, new: Vec<u8>) {
        let (_, node) = self.0.iter_mut().find(|(member, _)| member == path).unwrap();
        match node {
            Node::File { content, .. } => *content = new.into(),
            other => panic!("{path}: {}", other.kind()),
        }
    }

    /// Adds a file before `/init`; the manifest is not told.
    pub(crate) fn add(&mut self, path: &str, content: &[u8]) {
        let last = self.0.len() - 1;
        self.0.insert(last, (path.to_owned(), Node::plain(content)));
    }

    /// A file takes the place of whatever is there, or of nothing; the manifest is not told.
    pub(crate) fn put_file(&mut self, path: &str) {
        match self.0.iter_mut().find(|(member, _)| member == path) {
            Some((_, node)) => *node = Node::plain(*b""),
            None => self.add(path, b""),
        }
    }

    /// Changes what a file holds, and its entry in the manifest with it.
    pub(crate) fn replace_listed(&mut self, path: &str, new: Vec<u8>) {
        let init = self.content("init");
        let mut manifest = InitramfsManifest::from_init(&init).unwrap();
        let mut fresh = bare(&init).to_vec();
        match manifest.members.get_mut(path).unwrap() {
            Member::File { size, sha256, .. } => {
                *size = new.len() as u64;
                *sha256 = Sha256::digest(&new).into();
            }
            other => panic!("{path}: {other:?}"),
        }
        fresh.extend(manifest.trailer().unwrap());
        self.replace("init", fresh);
        self.replace(path, new);
    }

    pub(crate) fn compressed(&self) -> Vec<u8> {
        let mut writer = Writer::new(images::lock().epoch);
        for (path, node) in &self.0 {
            writer.member(path, node).unwrap();
        }
        zstd::encode_all(&writer.finish().unwrap()[..], LEVEL).unwrap()
    }
}

/// The ELF file without the trailer: manifest, its length in 8 bytes, magic in 16.
pub(crate) fn bare(init: &[u8]) -> &[u8] {
    let (rest, _magic) = init.split_last_chunk::<16>().unwrap();
    let (rest, length) = rest.split_last_chunk::<8>().unwrap();
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap();
    &rest[..rest.len() - length]
}
