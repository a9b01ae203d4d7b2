//! An image directory that is not what its manifest says is refused before anything starts.

use std::path::Path;

use casemate_measure::LaunchRegisters;
use casemate_measure::image::{FileDigest, Flavor, ImageManifest};
use casemate_qemu::Error;
use casemate_qemu::image::CheckedImage;
use sha2::{Digest as _, Sha256};

const FILES: [(&str, &[u8]); 4] = [
    ("bzImage", b"kernel"),
    ("initramfs.cpio.zst", b"initramfs"),
    ("cmdline", b"panic=-1"),
    ("ovmf.fd", b"firmware"),
];

#[expect(clippy::unwrap_used, reason = "test set-up")]
fn image(change: impl FnOnce(&mut ImageManifest)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let registers = serde_json::to_vec(&LaunchRegisters::ZERO).unwrap();
    let all = FILES.into_iter().chain([("registers.json", registers.as_slice())]);
    let outputs = all.map(|(name, bytes)| {
        std::fs::write(dir.path().join(name), bytes).unwrap();
        (name.to_owned(), FileDigest { size: bytes.len() as u64, sha256: Sha256::digest(bytes).into() })
    });
    let mut manifest =
        ImageManifest { version: 1, flavor: Flavor::Dev, outputs: outputs.collect(), inputs: Vec::new() };
    change(&mut manifest);
    std::fs::write(dir.path().join("manifest.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
    dir
}

#[expect(clippy::expect_used, reason = "test helper")]
fn refusal(dir: &Path) -> String {
    let error = CheckedImage::open(dir).map(|_| ()).expect_err("the image should be refused");
    assert!(matches!(error.exit_status(), 1 | 3), "{error}");
    error.to_string()
}

#[test]
fn a_right_image_is_taken() {
    let dir = image(|_| {});
    let image = CheckedImage::open(dir.path()).unwrap();
    assert_eq!(image.flavor(), Flavor::Dev);
    assert_eq!(image.boot_files().cmdline, "panic=-1");
}

#[test]
fn each_file_is_judged_by_size_and_digest() {
    for (name, bytes) in FILES {
        let dir = image(|_| {});
        let mut flipped = bytes.to_vec();
        flipped[0] ^= 1;
        std::fs::write(dir.path().join(name), &flipped).unwrap();
        let words = refusal(dir.path());
        assert!(words.contains(name) && words.contains("SHA-256: expected"), "{words}");
        std::fs::write(dir.path().join(name), &bytes[1..]).unwrap();
        let words = refusal(dir.path());
        assert!(words.contains(&format!(
            "size in bytes: expected {}, found {}",
            bytes.len(),
            bytes.len() - 1
        )));
        std::fs::remove_file(dir.path().join(name)).unwrap();
        assert!(refusal(dir.path()).contains(name));
    }
}

#[test]
fn the_manifest_itself_is_judged() {
    let words = refusal(image(|manifest| manifest.version = 2).path());
    assert!(words.contains("version: expected 1, found 2"), "{words}");
    let words = refusal(image(|manifest| manifest.outputs.retain(|name, _| name != "ovmf.fd")).path());
    assert!(words.contains("outputs: expected ovmf.fd"), "{words}");
    let escape = |manifest: &mut ImageManifest| {
        let digest = FileDigest { size: 0, sha256: [0; 32] };
        manifest.outputs.insert("../x".into(), digest);
    };
    assert!(refusal(image(escape).path()).contains("plain file names"));

    let dir = image(|_| {});
    let path = dir.path().join("manifest.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("\"version\"", "\"surprise\":1,\"version\"", 1)).unwrap();
    let words = refusal(dir.path());
    assert!(words.contains("manifest.json") && words.contains("surprise"), "{words}");
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(CheckedImage::open(dir.path()), Err(Error::File { .. })));
}

#[test]
fn a_command_line_of_two_lines_is_refused() {
    let dir = image(|manifest| {
        let digest = FileDigest { size: 9, sha256: Sha256::digest(b"panic=-1\n").into() };
        manifest.outputs.insert("cmdline".into(), digest);
    });
    std::fs::write(dir.path().join("cmdline"), "panic=-1\n").unwrap();
    assert!(refusal(dir.path()).contains("one line without an end of line"));
}
