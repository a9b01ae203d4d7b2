use casemate_measure::tdx::bzimage::{BzImage, BzImageError, KernelSeen, Loading};
use casemate_measure::tdx::overlay::View;
use casemate_measure::tdx::pe::Pe;

use crate::build::kernel;

const GIB: u64 = 1 << 30;

fn loading(memory: u64, initrd: u64) -> Loading<'static> {
    Loading { memory, initrd: Some(initrd), cmdline: "quiet" }
}

/// The kernel with what QEMU writes, as text: offset and bytes.
fn patch(file: &[u8], loading: &Loading<'_>) -> Vec<String> {
    let written = BzImage::parse(file).unwrap().patch(loading).unwrap();
    written.iter().map(|o| format!("{:#x} {}", o.offset, hex::encode(&o.bytes))).collect()
}

#[test]
fn what_qemu_writes() {
    let file = kernel();
    // 0x7ffd7fff - 0x1000001 is 0x7efd7ffe: 4 KiB down.
    let at_2_gib = patch(&file, &loading(2 * GIB, 0x100_0001));
    assert_eq!(
        at_2_gib,
        ["0x210 b0", "0x211 81", "0x224 00fe", "0x228 00000200", "0x218 0070fd7e", "0x21c 01000001"]
    );
    // From 2.75 GiB on there are 2 GiB below 4 GiB: the same bytes, whatever the memory.
    for memory in [0xb000_0000, 4 * GIB, 64 * GIB, 1 << 45] {
        assert_eq!(patch(&file, &loading(memory, 0x100_0001)), at_2_gib);
    }
    // Below that all memory is: another place for each size.
    assert_eq!(patch(&file, &loading(GIB, 0x100_0001))[4], "0x218 0070fd3e");
    assert_eq!(patch(&file, &loading(0xb000_0000 - 1, 0x100_0001))[4], "0x218 0070fdae");
    // No initramfs, nothing about one.
    assert_eq!(patch(&file, &Loading { initrd: None, ..loading(GIB, 0) }).len(), 4);
}

#[test]
fn older_and_low_kernels() {
    let mut file = kernel();
    // Not to be loaded above 4 GiB: initrd_addr_max counts, where memory reaches further.
    file[0x236] = 0x7d;
    assert_eq!(patch(&file, &loading(0xa000_0000, 0))[4], "0x218 00f0ff7f");
    assert_eq!(patch(&file, &loading(GIB, 0))[4], "0x218 0070fd3f");
    // A kernel that is loaded low has its command line, here of 16 bytes, below 0x9a000.
    file[0x211] = 0;
    let written = patch(&file, &loading(GIB, 0));
    assert_eq!(&written[1..4], ["0x211 80", "0x224 f09d", "0x228 f09f0900"]);
}

#[test]
fn the_firmware_sees_one_or_the_other() {
    let file = kernel();
    let image = BzImage::parse(&file).unwrap();
    let loading = loading(2 * GIB, 0x100_0001);
    let as_file = image.pe(KernelSeen::AsFile, &loading).unwrap().authenticode();
    assert_eq!(as_file, Pe::parse(View::from(file.as_slice())).unwrap().authenticode());
    let mut changed = file.clone();
    for overlay in image.patch(&loading).unwrap() {
        changed[overlay.offset..overlay.offset + overlay.bytes.len()].copy_from_slice(&overlay.bytes);
    }
    let patched = image.pe(KernelSeen::Patched, &loading).unwrap().authenticode();
    assert_eq!(patched, Pe::parse(View::from(changed.as_slice())).unwrap().authenticode());
    assert_ne!(patched, as_file);

    for (qemu, named_blobs, seen) in [
        ((8, 2), true, KernelSeen::Patched),
        ((9, 2), true, KernelSeen::Patched),
        ((10, 0), true, KernelSeen::AsFile),
        ((10, 1), false, KernelSeen::Patched),
        ((10, 2), false, KernelSeen::AsFile),
        ((11, 1), false, KernelSeen::AsFile),
    ] {
        assert_eq!(KernelSeen::of(qemu, named_blobs), seen, "{qemu:?}");
    }
}

#[test]
fn what_is_no_kernel_is_named() {
    type Change = fn(&mut Vec<u8>);
    let cases: [(Change, &str); 6] = [
        (|f| f.truncate(0x267), "setup header: expected at least 616 bytes, found 615"),
        (|f| f[0x202] = 0, "header: expected HdrS, found 0x53726400"),
        (|f| f[0x1fe] = 0, "boot_flag: expected 0xaa55, found 0xaa00"),
        (|f| f[0x206] = 0x0a, "version: expected at least 0x20b, found 0x20a"),
        (
            |f| f[0x1f1] = 24,
            "setup_sects: expected setup code within the file's 13032 bytes, found 12800 bytes of it",
        ),
        (|f| f[0] = 0, "e_magic: expected MZ, found 0x5a00"),
    ];
    for (index, (change, message)) in cases.into_iter().enumerate() {
        let mut file = kernel();
        change(&mut file);
        let error = BzImage::parse(&file).and_then(|image| image.pe(KernelSeen::AsFile, &loading(GIB, 0)));
        match error {
            // 24 sectors and one are all but the last bytes.
            Ok(_) => assert_eq!(index, 4),
            Err(error) => assert_eq!(error.to_string(), message),
        }
    }
    let mut file = kernel();
    file[0x1f1] = 255;
    assert_eq!(
        BzImage::parse(&file).unwrap_err(),
        BzImageError::Setup { setup: 131_072, length: file.len() }
    );
}

#[test]
fn what_qemu_does_not_load_is_named() {
    let file = kernel();
    let image = BzImage::parse(&file).unwrap();
    let error = |loading: &Loading<'_>| image.pe(KernelSeen::Patched, loading).unwrap_err().to_string();
    assert_eq!(
        error(&loading(16 << 20, 16 << 20)),
        "initramfs: expected less than 16613375 bytes in a machine of 16777216 bytes, found 16777216"
    );
    assert!(
        error(&loading(64 * GIB, u64::MAX)).starts_with("initramfs: expected less than 2147319807 bytes")
    );
    assert!(error(&loading(0, 0)).starts_with("initramfs: expected less than"));
    assert!(error(&Loading { cmdline: "quiet vga=ask", ..loading(GIB, 0) }).contains("vga="));
}
