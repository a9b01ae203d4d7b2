//! An image directory with the least that has everything: a firmware of three pages, a kernel of 12 KiB.

use std::fs;
use std::path::{Path, PathBuf};

use casemate_measure::tdx::aggregated::Hash256;
use casemate_measure::tdx::efi::Guid;
use casemate_measure::tdx::{QemuVersion, Vm};
use serde_json::{Value, json};

use crate::build::{Image, kernel};

/// Its machine.
pub(crate) const SHAPE: &str = r#"{"memory_mib": 2048, "cpus": 2, "qemu": "10.0.13"}"#;

/// An image directory in a folder that goes with it.
pub(crate) struct Directory {
    folder: tempfile::TempDir,
}

impl Directory {
    /// `ovmf.fd`, `bzImage`, `initramfs.cpio.zst`, `cmdline`, and beside them `shape.json` and `acpi.json`.
    pub(crate) fn new() -> Self {
        let directory = Self { folder: tempfile::tempdir().unwrap() };
        let firmware = firmware(&sections());
        directory.write("acpi.json", acpi(&firmware).to_string());
        directory.write("ovmf.fd", firmware);
        directory.write("bzImage", kernel());
        directory.write("initramfs.cpio.zst", [0x42; 5000]);
        directory.write("cmdline", "quiet panic=-1");
        directory.write("sha256sum.txt", "0000  bzImage\n");
        directory.write("shape.json", SHAPE);
        directory
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Its path as an argument.
    pub(crate) fn argument(&self, name: &str) -> String {
        self.file(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.file(name)).unwrap()
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.file(name), content).unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.file(name)).unwrap();
    }
}

/// A table of ACPI digests for that firmware, with two and with four CPUs.
fn acpi(firmware: &[u8]) -> Value {
    let entry = |cpus, byte: &str| {
        let vm = Vm::new(QemuVersion::new(10, 0, 13), 2048, cpus);
        json!({
            "qemu": vm.qemu.to_string(),
            "shape": vm.shape_key(&Hash256::of(firmware).0),
            "loader": byte.repeat(48),
            "rsdp": "22".repeat(48),
            "tables": "33".repeat(48),
        })
    };
    json!({ "entries": [entry(2, "11"), entry(4, "44")] })
}

/// A section as it stands in the file: offset and length there, place and length in memory, type, attributes (edk2
/// `OvmfPkg/ResetVector/X64/IntelTdxMetadata.asm`).
#[derive(Clone, Copy)]
pub(crate) struct Section {
    pub(crate) offset: u32,
    pub(crate) raw: u32,
    pub(crate) address: u64,
    pub(crate) size: u64,
    pub(crate) kind: u32,
    pub(crate) attributes: u32,
}

/// Code, variables, heap, mailbox, TD HOB, page tables: edk2's, but for the length of the first two.
pub(crate) fn sections() -> [Section; 6] {
    let data = |offset: u32, raw: u32, kind, attributes| {
        let address = 0xffff_d000 + u64::from(offset);
        Section { offset, raw, address, size: raw.into(), kind, attributes }
    };
    let free = |address, size, kind| Section { offset: 0, raw: 0, address, size, kind, attributes: 0 };
    [
        data(0x1000, 0x2000, 0, 1),
        data(0, 0x1000, 1, 0),
        free(0x81_0000, 0x1_0000, 3),
        free(0x80_b000, 0x2000, 3),
        free(0x80_9000, 0x2000, 2),
        free(0x80_0000, 0x6000, 3),
    ]
}

/// Three pages, the last of which ends in metadata, GUIDed table and reset vector.
pub(crate) fn firmware(sections: &[Section]) -> Vec<u8> {
    let footer = Guid::new(0x96b5_82de, 0x1fb2, 0x45f7, [0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08, 0x2d]);
    let offset = Guid::new(0xe47a_6535, 0x984a, 0x4798, [0x86, 0x5e, 0x46, 0x85, 0xa7, 0xbf, 0x8e, 0xc2]);
    let count = u32::try_from(sections.len()).unwrap();
    let mut metadata = b"TDVF".to_vec();
    metadata.extend([16 + 32 * count, 1, count].map(u32::to_le_bytes).concat());
    for section in sections {
        metadata.extend([section.offset, section.raw].map(u32::to_le_bytes).concat());
        metadata.extend([section.address, section.size].map(u64::to_le_bytes).concat());
        metadata.extend([section.kind, section.attributes].map(u32::to_le_bytes).concat());
    }
    // An entry is its data, its length and its GUID; the footer says how long all of it is.
    let distance = u32::try_from(metadata.len() + 4 + 18 + 18 + 32).unwrap();
    let table = [&distance.to_le_bytes()[..], &[22, 0], &offset.0, &[40, 0], &footer.0, &[0x90; 32]].concat();
    let end = [metadata, table].concat();
    let mut file: Vec<u8> = (0_u8..251).cycle().take(0x3000 - end.len()).collect();
    file.extend(end);
    file
}

/// A PE image that says which stub it is, and carries a kernel.
pub(crate) fn stub(says: &[u8], kernel: &[u8]) -> Vec<u8> {
    let section = |name, address, content: &[u8]| {
        let size = u32::try_from(content.len()).unwrap();
        let mut raw = content.to_vec();
        raw.resize(content.len().next_multiple_of(512), 0);
        (name, address, size, raw)
    };
    let sections = vec![section(".sdmagic", 0x1000, says), section(".linux", 0x2000, kernel)];
    Image { sections, file_order: vec![0, 1], ..Image::default() }.bytes()
}
