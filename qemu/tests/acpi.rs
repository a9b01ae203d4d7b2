//! The command `acpi` as far as it goes without firmware; `tests/acpi` has the machines.

use std::path::Path;
use std::process::{Command, Output};

use casemate_measure::LaunchRegisters;
use casemate_measure::image::{FileDigest, Flavor, ImageManifest};
use sha2::{Digest as _, Sha256};

#[expect(clippy::unwrap_used, reason = "test set-up")]
fn acpi(args: &[&str]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } =
        Command::new(env!("CARGO_BIN_EXE_casemate-qemu")).arg("acpi").args(args).output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[expect(clippy::unwrap_used, reason = "test set-up")]
fn image() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let registers = serde_json::to_vec(&LaunchRegisters::ZERO).unwrap();
    let files: [(&str, &[u8]); 5] = [
        ("bzImage", b"kernel"),
        ("initramfs.cpio.zst", b"initramfs"),
        ("cmdline", b"quiet"),
        ("ovmf.fd", b"firmware"),
        ("registers.json", &registers),
    ];
    let outputs = files.map(|(name, bytes)| {
        std::fs::write(dir.path().join(name), bytes).unwrap();
        (name.to_owned(), FileDigest { size: bytes.len() as u64, sha256: Sha256::digest(bytes).into() })
    });
    let manifest =
        ImageManifest { version: 1, flavor: Flavor::Prod, outputs: outputs.into(), inputs: Vec::new() };
    std::fs::write(dir.path().join("manifest.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
    dir
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

#[test]
fn what_is_no_machine_is_usage() {
    for bad in [
        &[][..],
        &["--image", "x", "--memory", "64M"],
        &["--image", "x", "--memory", "512"],
        &["--image", "x", "--memory", "512M,"],
        &["--image", "x", "--cpus", "0"],
        &["--image", "x", "--cpus", "1,two"],
        &["--image", "x", "--timeout", "0"],
        &["--image", "x", "--timeout", "18446744073709551615"],
        &["--image", "x", "--tee", "tdx"],
    ] {
        let (status, said) = acpi(bad);
        assert_eq!(status, Some(64), "{bad:?}: {said}");
    }
}

#[test]
fn a_changed_image_is_3_and_so_is_a_file_that_is_no_table() {
    let image = image();
    let out = image.path().join("acpi.json");
    std::fs::write(&out, "[]").unwrap();
    let qemu = ["--qemu", "/nonexistent/qemu"];
    let (status, said) = acpi(&[&["--image", text(image.path()), "--out", text(&out)], &qemu[..]].concat());
    assert_eq!(status, Some(3), "{said}");
    assert!(said.contains("acpi.json: expected captured ACPI digests"), "{said}");
    assert_eq!(std::fs::read(&out).unwrap(), b"[]");
    std::fs::write(image.path().join("ovmf.fd"), b"firmwarf").unwrap();
    let (status, said) = acpi(&[&["--image", text(image.path())], &qemu[..]].concat());
    assert_eq!(status, Some(3), "{said}");
    assert!(said.contains("ovmf.fd: SHA-256"), "{said}");
}

#[test]
fn a_qemu_that_does_not_start_leaves_no_file() {
    let image = image();
    let out = image.path().join("acpi.json");
    for (qemu, why) in [("/nonexistent/qemu", "/nonexistent/qemu: "), ("false", "QEMU ended: exit status: 1")]
    {
        let (status, said) = acpi(&["--image", text(image.path()), "--out", text(&out), "--qemu", qemu]);
        assert_eq!(status, Some(2), "{said}");
        assert!(said.contains(why), "{said}");
        assert!(!out.exists());
    }
    let (status, said) = acpi(&["--image", text(image.path()), "--firmware", "/nonexistent/ovmf.fd"]);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("/nonexistent/ovmf.fd: "), "{said}");
}
