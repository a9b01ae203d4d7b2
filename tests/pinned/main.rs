//! The pinned firmware and kernel, as the packages have them, give the digests that were found in other ways: by a script that
//! shares nothing with ours but the definition, in real logs, and in a machine's own event log.

#![expect(clippy::unwrap_used, reason = "tests and their rig: what fails here fails the test")]

use std::path::Path;

use casemate_image::deb::Deb;
use casemate_image::io::store::Store;
use casemate_image::lock::{KernelLock, Role};
use casemate_image::progress::Progress;
use casemate_image::tree::Node;
use casemate_measure::Register;
use casemate_measure::tdx::bzimage::{BzImage, KernelSeen, Loading};
use casemate_measure::tdx::hob::td_hob;
use casemate_measure::tdx::mrtd::mrtd;
use casemate_measure::tdx::{AcpiTable, PageOrder, QemuVersion, Tdvf, Vm};
use sha2::{Digest as _, Sha256};

/// The one file of that name in the package of that role.
fn pinned(role: Role, name: &str) -> Vec<u8> {
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../image/kernel.lock");
    let lock = KernelLock::read(&lock).unwrap();
    let package = lock.role(role).unwrap();
    let bytes = Store::new(None).unwrap().packages(&[package], &Progress::silent()).unwrap();
    let title = package.pool_name();
    let tree = Deb::parse(&title, &bytes[0]).unwrap().files(|path| path.name().starts_with(name)).unwrap();
    let mut files = tree.iter().filter_map(|(_, node)| match node {
        Node::File { content, .. } => Some(content.to_vec()),
        Node::Directory | Node::Symlink { .. } => None,
    });
    let file = files.next().unwrap();
    assert!(files.next().is_none(), "{title}: one file {name}");
    file
}

fn register(hex: &str) -> Register {
    Register::from_hex(hex).unwrap()
}

/// MRTD as that script has it, in the order of QEMU from 9.0 on and in that of before; the digest of the variables as real
/// logs have it (edk2's empty store of 528 KiB, the same in every build).
#[test]
fn the_pinned_firmware() {
    let file = pinned(Role::Firmware, "OVMF.fd");
    let firmware = Tdvf::parse(&file).unwrap();
    assert_eq!(
        mrtd(&firmware, PageOrder::SinglePass),
        register(
            "bdc6fb145880f06f30c8b346b8dce2a99d9351b56892df22f80fcf6574caa9f9c31df8e8576d53b4d0cd1c3f28910e11"
        )
    );
    assert_eq!(
        mrtd(&firmware, PageOrder::TwoPass),
        register(
            "456f07902150d008bb913c3e1e84e9297f735a6c83cd2a957a1f0a8bbedb06df188e3837ae48d32c73d473d097dc0db2"
        )
    );
    assert_eq!(
        Register::digest(firmware.cfv().data),
        register(
            "344bc51c980ba621aaa00da3ed7436f7d6e549197dfe699515dfa2c6583d95e6412af21c097d473155875ffd561d6790"
        )
    );
    // A small machine, and one larger than any host.
    for memory in [128 << 20, 64 << 40] {
        assert!(td_hob(&firmware, memory).is_ok());
    }
    // What was captured of ACPI tables was captured with this firmware.
    let digest: [u8; 32] = Sha256::digest(&file).into();
    let vm = Vm::new(QemuVersion::new(10, 0, 13), 2048, 2);
    assert!(AcpiTable::captured().find(&vm, &digest).is_some());
    let behind = format!(" firmware={}", hex::encode(digest));
    assert!(AcpiTable::captured().entries().iter().all(|entry| entry.shape.ends_with(&behind)));
}

/// The kernel as the firmware's own log has it, of a machine whose QEMU does not write into it.
#[test]
fn the_pinned_kernel() {
    let file = pinned(Role::Kernel, "vmlinuz");
    let kernel = BzImage::parse(&file).unwrap();
    let loading = Loading { memory: 2 << 30, initrd: Some(4 << 20), cmdline: "quiet" };
    let as_file = kernel.pe(KernelSeen::AsFile, &loading).unwrap();
    assert_eq!(
        as_file.authenticode(),
        register(
            "92887f6f9422d0c275a3ca93034a57f13c02e72f67f4173d63ccc39742bc45ce4810e341375454d5dda6b275874c1c5f"
        )
    );
    // What an older QEMU writes is in the digest, and the place of the initramfs with it.
    let patched = |initrd| {
        let loading = Loading { initrd: Some(initrd), ..loading };
        kernel.pe(KernelSeen::Patched, &loading).unwrap().authenticode()
    };
    assert_ne!(patched(4 << 20), as_file.authenticode());
    assert_ne!(patched(4 << 20), patched(5 << 20));
}
